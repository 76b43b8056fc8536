import pytest
import torch
from torch import Tensor

from tests.planners.plane import Plane
from worldsim.core import STATE, Observation, WorldState
from worldsim.errors import InvalidInputError
from worldsim.noise import normal
from worldsim.planners import make_planner
from worldsim.planners.prior import policy_prior
from worldsim.planners.world_objective import world_objective
from worldsim.policies.scripted import PushExpert
from worldsim.worlds import load_world


class Wander:
    """Towards the origin, with noise; remembers how often it acted."""

    needs = frozenset({STATE})

    def __init__(self, noise: float = 0.3) -> None:
        self._noise = noise

    def initial(self, n: int) -> Tensor:
        return torch.zeros(n)

    def act(self, observation: Observation, carry: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        return -0.2 * observation[STATE] + self._noise * normal(keys, 0, (2,)) + 0.01 * carry[:, None], carry + 1


def begin(n: int = 3) -> WorldState:
    world = Plane()
    return world.reset(world.starts(torch.arange(n)), torch.arange(n) + 50)


def test_a_policy_without_noise_proposes_what_it_would_do_in_the_world() -> None:
    world, state, policy = Plane(), begin(), Wander(noise=0.0)
    proposed = policy_prior(policy, horizon=4, proposals=2)(world, state)
    assert proposed.shape == (3, 2, 4, 2) and torch.equal(proposed[:, 0], proposed[:, 1])
    carry, at = policy.initial(3), state
    for t in range(4):
        action, carry = policy.act({STATE: at.at}, carry, torch.arange(3))  # type: ignore[attr-defined]
        at, _ = world.step(at, action)
        assert torch.allclose(proposed[:, 0, t], action)


def test_every_proposal_has_noise_of_its_own_and_depends_on_its_episode_alone() -> None:
    world, state = Plane(), begin()
    propose = policy_prior(Wander(), horizon=4, proposals=5)
    proposed = propose(world, state)
    assert len(proposed.flatten(2).flatten(0, 1).unique(dim=0)) == 15
    assert torch.equal(propose(world, state.rows(slice(1, 2)))[0], proposed[1])
    assert torch.equal(propose(world, state), proposed)


def test_held_actions_are_those_at_which_the_planner_acts() -> None:
    world, state = Plane(), begin()
    fine = policy_prior(Wander(), horizon=6, proposals=2)(world, state)
    coarse = policy_prior(Wander(), horizon=2, proposals=2, repeat=3)(world, state)
    assert torch.equal(coarse, fine[:, :, ::3])


def test_the_best_of_a_policys_own_samples_is_taken() -> None:
    world, state = Plane(), begin()
    prior = policy_prior(Wander(noise=2.0), horizon=4, proposals=6)(world, state)
    objective = world_objective(world, state)
    planner = make_planner("random", horizon=4, samples=7, iterations=1, keep=0, elites=1)
    plan = planner.plan(objective, bounds=world.spec.action, prior=prior)
    idle = torch.zeros(3, 1, 4, 2)
    every = torch.cat([idle, prior.clamp(torch.tensor([-1.0, -0.5]), torch.tensor([1.0, 1.0]))], dim=1)
    cost = objective(every)
    assert isinstance(cost, Tensor)
    best = every[torch.arange(3), cost.argmin(1)]
    assert torch.allclose(plan.actions, best) and torch.allclose(plan.cost, cost.amin(1))


def test_an_expert_that_knows_the_way_improves_a_search_in_a_learned_world() -> None:
    world = load_world("push_state")
    state = world.reset(world.starts(torch.arange(4)), torch.arange(4))
    objective = world_objective(world, state)
    planner = make_planner("weighted", horizon=16, samples=24, iterations=1)
    alone = planner.plan(objective, bounds=world.spec.action, batch=4)
    prior = policy_prior(PushExpert(), horizon=16, proposals=2)(world, state)
    informed = planner.plan(objective, bounds=world.spec.action, prior=prior)
    scores = objective(world.spec.action.check(prior))
    assert isinstance(scores, Tensor)
    assert bool((informed.cost <= scores.amin(1) + 1e-5).all())
    assert float(informed.cost.mean()) < float(alone.cost.mean())


def test_a_world_that_cannot_say_where_it_stands_is_refused() -> None:
    world = type("Mute", (Plane,), {"present": None})()
    with pytest.raises(InvalidInputError, match=r"no `present\(state\)`"):
        policy_prior(Wander(), horizon=2)(world, begin())
