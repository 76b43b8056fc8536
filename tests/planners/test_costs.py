import dataclasses

import pytest
import torch
from torch import Tensor

from tests.planners.plane import SPEC, Plane
from worldsim.core import IMAGE, STATE, Rollout, Verdict
from worldsim.errors import InvalidInputError
from worldsim.planners.costs import (
    Constraint,
    Effort,
    Jerk,
    LatentGoal,
    failure,
    goal_from,
    image_goal,
    judged,
    progress,
    uncertainty,
    weigh,
)
from worldsim.protocols import World
from worldsim.worlds import load_world

NOISE = torch.Generator().manual_seed(0)
ACTIONS = torch.rand(2, 3, 4, 2, generator=NOISE) - 0.5
FUTURES = Rollout(
    latent=torch.rand(2, 3, 4, 2, 1, 1, generator=NOISE),
    proprio=torch.rand(2, 3, 4, 2, generator=NOISE),
    progress=torch.rand(2, 3, 4, generator=NOISE),
    success=torch.rand(2, 3, 4, generator=NOISE),
    uncertainty=torch.rand(2, 3, 4, generator=NOISE),
    action=ACTIONS,
)


def some(index: Tensor) -> Rollout:
    return FUTURES.rows(index)


def test_what_the_world_says_becomes_a_cost() -> None:
    assert torch.equal(progress(FUTURES, ACTIONS), 1 - FUTURES.progress)
    assert torch.equal(failure(FUTURES, ACTIONS), 1 - FUTURES.success)
    assert torch.equal(uncertainty(FUTURES, ACTIONS), FUTURES.uncertainty)


def test_effort_is_one_at_the_farther_limit_and_nothing_at_rest() -> None:
    spec = dataclasses.replace(SPEC.action, low=(-1, 0), high=(3, 4), idle=(0, 1))
    cost = Effort(spec)
    at = torch.tensor([[3.0, 4.0], [0.0, 1.0], [-1.0, 1.0]])[None, None]
    assert torch.allclose(cost(None, at), torch.tensor([[[1.0, 0.0, 1 / 18]]]))


def test_jerk_is_one_for_a_jump_across_half_the_range_and_the_first_step_is_free() -> None:
    spec = dataclasses.replace(SPEC.action, low=(-1, -2), high=(1, 2))
    at = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0], [0.0, 2.0]])[None, None]
    assert Jerk(spec)(None, at).tolist() == [[[0, 0, 1, 0.5]]]


def test_a_latent_goal_is_reached_where_the_latent_is_it() -> None:
    own, shared = FUTURES.latent[:, 0, -1], FUTURES.latent[1, 0, 0]
    assert LatentGoal(own)(FUTURES, ACTIONS)[:, 0, -1].tolist() == [0, 0]
    assert float(LatentGoal(shared)(FUTURES, ACTIONS)[1, 0, 0]) == 0
    expected = (FUTURES.latent - shared).square().flatten(3).mean(3)
    assert torch.allclose(LatentGoal(shared)(FUTURES, ACTIONS), expected)


def test_what_a_latent_goal_does_not_weigh_does_not_count() -> None:
    weight = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    cost = LatentGoal(torch.zeros(2, 1, 1), weight)(FUTURES, ACTIONS)
    assert torch.allclose(cost, FUTURES.latent[:, :, :, 0, 0, 0].square() / 2)


def test_goals_per_episode_are_divided_and_shared_ones_are_not() -> None:
    index = torch.tensor([1])
    for goal in (LatentGoal(FUTURES.latent[:, 0, -1]), LatentGoal(FUTURES.latent[0, 0, 0])):
        assert torch.equal(goal.rows(index)(some(index), ACTIONS[1:]), goal(FUTURES, ACTIONS)[1:])


def test_costs_add_with_their_weights() -> None:
    cost = weigh((2.0, progress), (0.5, Effort(SPEC.action)))(FUTURES, ACTIONS)
    assert isinstance(cost, Tensor)
    assert torch.allclose(cost, 2 * (1 - FUTURES.progress) + 0.5 * Effort(SPEC.action)(FUTURES, ACTIONS))
    with pytest.raises(InvalidInputError):
        weigh()


def test_constraints_add_their_violations_and_no_cost() -> None:
    fast = Constraint(lambda futures, actions: actions[..., 0] - 0.1)
    far = Constraint(lambda futures, actions: futures.proprio[..., 0] - 0.5)
    cost, violation = weigh((1.0, progress), (1.0, fast), (1.0, far))(FUTURES, ACTIONS)
    assert torch.equal(cost, 1 - FUTURES.progress)
    expected = (ACTIONS[..., 0] - 0.1).clamp_min(0) + (FUTURES.proprio[..., 0] - 0.5).clamp_min(0)
    assert torch.allclose(violation, expected) and bool((violation == 0).any())


@dataclasses.dataclass(frozen=True)
class Limit:
    most: Tensor  # [B]

    def __call__(self, futures: Rollout, actions: Tensor) -> Tensor:
        return actions[..., 0] - self.most[:, None, None]

    def rows(self, index: Tensor) -> "Limit":
        return Limit(self.most[index])


def test_a_weighted_sum_is_divided_part_by_part() -> None:
    index = torch.tensor([1])
    limits = Constraint(Limit(torch.tensor([0.0, 0.3])))
    summed = weigh((1.0, progress), (2.0, LatentGoal(FUTURES.latent[:, 0, 0])), (1.0, limits))
    for one, other in zip(summed.rows(index)(some(index), ACTIONS[1:]), summed(FUTURES, ACTIONS), strict=True):
        assert torch.equal(one, other[1:])


def test_a_judge_is_a_terminal_cost_and_abstaining_is_failing() -> None:
    def judge(rollout: Rollout) -> Verdict:
        assert rollout.progress.shape == (6, 4)
        last = rollout.progress[:, -1]
        return Verdict(success=last, progress=last, abstain=last < 0.5, failed_at=torch.full((6,), -1))

    last = FUTURES.progress[:, :, -1]
    assert torch.allclose(judged(judge)(FUTURES, ACTIONS), torch.where(last < 0.5, 1.0, 1 - last))


@pytest.fixture(scope="module")
def push() -> World:
    return load_world("push")


def test_a_picture_of_where_an_episode_stands_is_its_goal_reached(push: World) -> None:
    starts = push.starts(torch.arange(2))  # type: ignore[attr-defined]
    state = push.reset(starts, torch.arange(2))
    latent = push.present(state).latent  # type: ignore[attr-defined]
    here = Rollout.stack([push.present(state)], torch.zeros(2, 1, 2))  # type: ignore[attr-defined]
    here = dataclasses.replace(here, latent=here.latent[:, None])
    for goal in (image_goal(push, starts[IMAGE]), goal_from(push, starts, torch.arange(2))):
        assert torch.allclose(goal.goal, latent)
        cost = goal(here, torch.zeros(2, 1, 1, 2))
        other = dataclasses.replace(here, latent=here.latent.flip(0))
        assert bool((cost < 1e-8).all()) and bool((goal(other, torch.zeros(2, 1, 1, 2)) > 1e-4).all())
    assert image_goal(push, starts[IMAGE][0]).goal.shape == push.spec.latent_shape


def test_pictures_that_do_not_fit_are_refused(push: World) -> None:
    for wrong in (torch.zeros(1, 8, 8, 3, dtype=torch.uint8), torch.zeros(1, *push.spec.image_size, 3)):
        with pytest.raises(InvalidInputError, match="Goal frames are uint8"):
            image_goal(push, wrong)
    with pytest.raises(InvalidInputError, match="cannot encode"):
        image_goal(Plane(), torch.zeros(1, 4, 4, 3, dtype=torch.uint8))


def test_a_world_without_latents_in_its_states_gives_no_goal() -> None:
    with pytest.raises(InvalidInputError, match="hold no latent"):
        goal_from(Plane(), {STATE: torch.zeros(1, 2)}, torch.arange(1))
