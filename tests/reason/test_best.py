import functools

import pytest
import torch

from benchmarks.toy import ToyWorld
from tests.reason.critics import critic
from worldsim.core import Verdict
from worldsim.errors import InvalidInputError
from worldsim.planners import make_planner
from worldsim.planners.costs import judged, progress
from worldsim.planners.mpc import MPC
from worldsim.planners.world_objective import world_objective
from worldsim.reason.best_of import best_of
from worldsim.worlds import load_world


def verdict(success, progress=None, abstain=None):
    n = len(success)
    return Verdict(
        success=success,
        progress=torch.zeros(n) if progress is None else progress,
        abstain=torch.zeros(n, dtype=torch.bool) if abstain is None else abstain,
        failed_at=torch.full((n,), -1),
    )


@pytest.fixture(scope="module")
def place():
    world = ToyWorld(horizon=8)
    return world, world.reset(world.starts(torch.arange(3)), torch.arange(3))


def test_the_candidate_with_the_best_chance_is_picked(place):
    world, state = place
    actions = torch.linspace(-0.2, 0.2, 3 * 5 * 4 * 2).reshape(3, 5, 4, 2)
    seen = []

    def judge(rollout):
        seen.append(rollout)
        return verdict(torch.tensor([0.1, 0.9, 0.2, 0.3, 0.4] + [0.5] * 5 + [0.2, 0.1, 0.1, 0.1, 0.3]))

    found = best_of(judge, world, state, actions)
    assert found.index.tolist() == [1, 0, 4] and torch.equal(found.actions, actions[torch.arange(3), found.index])
    assert found.scores.shape == (3, 5) and seen[0].latent.shape[:2] == (15, 4)
    alone = world.rollout(state.rows([1]), actions[1:2, 3])[1]
    assert torch.equal(
        seen[0].latent[8], alone.latent[0]
    )  # each future is that of its candidate, with the episode's noise


def test_progress_decides_between_equals_and_who_is_unsure_comes_last(place):
    world, state = place
    actions = torch.zeros(3, 2, 4, 2)
    success, far = torch.tensor([0.5, 0.5, 0.9, 0.2, 0.4, 0.6]), torch.tensor([0.1, 0.2, 0.0, 0.0, 0.0, 0.0])
    unsure = torch.tensor([False, False, True, False, True, True])
    found = best_of(lambda r: verdict(success, far, unsure), world, state, actions)
    assert found.index.tolist() == [1, 1, 1]


def test_bad_candidates(place):
    world, state = place
    for shape in ((2, 5, 4, 2), (3, 4, 2), (3, 0, 4, 2)):
        with pytest.raises(InvalidInputError, match="Candidates are"):
            best_of(lambda r: verdict(torch.ones(1)), world, state, torch.zeros(shape))


@functools.cache
def push():
    world = load_world("push")
    return world, world.reset(world.starts(torch.arange(2)), torch.arange(2))


def test_the_critic_picks_among_dreams_of_the_shipped_world():
    world, state = push()
    draw = torch.Generator().manual_seed(0)
    actions = (torch.rand(2, 3, 6, world.spec.action.dim, generator=draw) - 0.5) * 0.4
    judge = critic().with_world(world)
    found = best_of(judge, world, state, actions)
    chances = judge(world.rollout(state.repeat(3), actions.flatten(0, 1))[1]).success.reshape(2, 3)
    assert torch.equal(found.index, chances.argmax(1))


def test_the_critic_is_a_planners_terminal_cost():
    world, state = push()
    judge = critic(band=0.02).with_world(world)
    actions = torch.zeros(2, 3, 5, world.spec.action.dim)
    actions[:, 1:] = torch.linspace(-0.1, 0.1, actions[:, 1:].numel()).reshape(actions[:, 1:].shape)
    with_judge = world_objective(world, state, progress, terminal=judged(judge), repeat=2)
    plain = world_objective(world, state, progress, repeat=2)
    seen = judge(world.rollout(state.repeat(3), actions.repeat_interleave(2, 2).flatten(0, 1))[1])
    cost = torch.where(seen.abstain, 1.0, 1 - seen.success).reshape(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(with_judge(actions) - plain(actions), cost, atol=1e-5, rtol=0)
    controller = MPC(
        make_planner("cem", horizon=3, samples=4, iterations=1),
        world,
        objective=lambda w, s: world_objective(w, s, progress, terminal=judged(judge)),
    )
    seen = {k: v for k, v in world.starts(torch.arange(2)).items() if k in controller.needs}
    action, _ = controller.act(seen, controller.initial(2), torch.arange(2))
    assert action.shape == (2, world.spec.action.dim) and action.isfinite().all()
