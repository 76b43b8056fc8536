"""Checks of plans by an ensemble: on a world whose members disagree on one side of the plane only, and on the shipped worlds."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.planners.plane import SPEC, Mass, Plane, Plant, drive
from worldsim.core import Rollout, WorldState
from worldsim.errors import InvalidInputError
from worldsim.planners import MPC, Bounds, EnsembleCheck, Limits, make_planner, world_objective
from worldsim.planners.costs import Constraint, progress, weigh
from worldsim.planners.ensemble_check import rerank
from worldsim.testing import check_policy
from worldsim.worlds import load_world


class Slippery(Plane):
    """One member of `Split`: where x is positive, it moves `off` further with every step."""

    def __init__(self, off: float) -> None:
        self.off = off

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[Mass, Rollout]:
        after, path = super().rollout(state, actions)
        steps = torch.arange(1, actions.shape[1] + 1)
        slip = self.off * steps * (path.proprio[..., 0] > 0)
        away = (path.proprio[..., 0] + slip).square() + path.proprio[..., 1].square()
        return after, dataclasses.replace(path, progress=1 / (1 + away))


class Split(Plane):
    """A plane whose members part at positive x."""

    def members(self) -> tuple[Slippery, ...]:
        return tuple(Slippery(off) for off in (-0.3, 0.0, 0.3))


def begin(n: int = 3) -> Mass:
    return Plane().reset(Plant(n).seen(), torch.arange(n))


def actions(n: int = 3, steps: int = 5) -> Tensor:
    return torch.rand(n, steps, 2, generator=torch.Generator().manual_seed(0)) - 0.5


def test_a_world_without_members_is_its_own_check() -> None:
    world, state = Plane(), begin()
    check = EnsembleCheck.of(world, draws=0)
    assert check.worlds == (world,)
    assert torch.equal(check.expected_progress(state, actions()), world.rollout(state, actions())[1].progress)
    alone: Any = world_objective(world, state)
    assert torch.allclose(check.objective(state)(actions()[:, None]), alone(actions()[:, None]))


def test_a_promise_is_the_mean_of_the_members_own_rollouts() -> None:
    state = begin()
    each = [m.rollout(state, actions())[1].progress for m in Split().members()]
    assert torch.allclose(EnsembleCheck.of(Split()).expected_progress(state, actions()), sum(each) / 3)
    assert not torch.allclose(each[0], each[2])


def test_disagreement_costs_its_standard_deviation() -> None:
    state, candidates = begin(), actions()[:, None]
    check = EnsembleCheck.of(Split(), draws=0)
    each = torch.stack([world_objective(m, state, repeat=2)(candidates) for m in Split().members()])  # type: ignore[misc]
    expected = each.mean(0) + 3 * each.std(0, correction=0)
    assert torch.allclose(check.objective(state, weight=3, repeat=2)(candidates), expected)
    assert bool((each.std(0) > 0).any())


@pytest.mark.parametrize("draws", [0, 2])
def test_action_noise_is_small_keyed_and_the_same_for_all_candidates(draws: int) -> None:
    check = EnsembleCheck.of(Plane(), draws=draws, action_noise=0.05)
    state, candidates = begin(), actions()[:, None].repeat(1, 2, 1, 1)
    cost: Any = check.objective(state)
    both = cost(candidates)
    assert torch.equal(both[:, 0], both[:, 1])
    assert torch.equal(cost.rows(torch.tensor([2]))(candidates[2:]), both[2:])  # alone as in the batch
    exact: Any = world_objective(Plane(), state)
    miss = (both - exact(candidates)).abs()
    assert bool((miss > 0).all()) == (draws > 0) and float(miss.max()) < 0.05
    later: Any = check.objective(dataclasses.replace(state, step=state.step + 1))
    assert torch.equal(later(candidates), both) == (draws == 0)


def planned(state: Mass, cost: Any = progress) -> tuple[Any, Any]:
    objective = world_objective(Plane(), state, cost)
    plan = make_planner("cem", horizon=5, samples=32, iterations=2, elites=6).plan(
        objective, bounds=SPEC.action, batch=3
    )
    return plan, objective


def test_the_finalist_that_others_like_best_is_carried_out() -> None:
    plan, objective = planned(begin())

    def second(given: Tensor) -> Tensor:
        assert given.shape == (3, 7, 5, 2)  # the plan and six elites
        return -given[..., 0].sum(2)

    chosen = rerank(plan, objective, second, bounds=Bounds.of(SPEC.action))
    finalists = torch.cat([plan.actions[:, None], plan.state.elites], dim=1)
    best = finalists[..., 0].sum(2).argmax(1)
    assert bool((best > 0).any())
    assert torch.equal(chosen.actions, finalists[torch.arange(3), best])
    assert torch.allclose(chosen.cost, objective(chosen.actions[:, None])[:, 0])
    assert torch.equal(chosen.state.mean, chosen.actions) and torch.equal(chosen.state.elites, plan.state.elites)
    assert chosen.stats.evaluations == plan.stats.evaluations + 8


@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_a_member_that_prefers_no_other_keeps_the_plan(value: float) -> None:
    plan, objective = planned(begin())
    chosen = rerank(plan, objective, lambda a: torch.full(a.shape[:2], value), bounds=Bounds.of(SPEC.action))
    for name in ("actions", "cost", "violation", "feasible"):
        assert torch.equal(getattr(chosen, name), getattr(plan, name))


def test_no_finalist_breaks_a_constraint_that_the_plan_keeps() -> None:
    """The second look likes large actions; the search forbids x beyond 0.2 of a step."""
    forbidden = Constraint(lambda futures, given: given[..., 0] - 0.2)
    plan, _ = planned(begin(), weigh((1.0, progress), (1.0, forbidden)))
    objective: Any = world_objective(Plane(), begin(), weigh((1.0, progress), (1.0, forbidden)))
    crossing = plan.state.elites.clone()
    crossing[:, 0, :, 0] = 1.0
    plan = dataclasses.replace(plan, state=dataclasses.replace(plan.state, elites=crossing))
    chosen = rerank(plan, objective, lambda a: -a[..., 0].sum(2), bounds=Bounds.of(SPEC.action))
    assert bool(plan.feasible.all()) and torch.equal(chosen.actions, plan.actions)


def test_a_finalist_that_cannot_be_evaluated_is_not_chosen() -> None:
    plan, _ = planned(begin())

    def objective(given: Tensor) -> Tensor:
        return torch.full(given.shape[:2], torch.nan)

    chosen = rerank(plan, objective, lambda a: -a[..., 0].sum(2), bounds=Bounds.of(SPEC.action))
    assert torch.equal(chosen.actions, plan.actions) and torch.equal(chosen.cost, plan.cost)


def careful(weight: float = 2.0) -> MPC:
    check = EnsembleCheck.of(Split())
    return MPC(
        make_planner("weighted", horizon=6, samples=48, iterations=3),
        Split(),
        rerank=lambda w, s: check.objective(s, weight=weight),
    )


def test_a_planner_that_looks_twice_is_a_policy_and_arrives() -> None:
    check_policy(careful(), SPEC)
    _, _, plant = drive(careful(), 25)
    assert float(plant.away().max()) < 0.15


def test_what_is_carried_out_is_what_was_chosen() -> None:
    policy = careful(weight=20.0)
    done, carry, _ = drive(policy, 1)
    plan = carry.plan
    assert plan is not None
    assert torch.equal(done[:, 0], plan.actions[:, 0])
    assert torch.equal(carry.search.mean, plan.state.shift(1).mean)
    hasty = MPC(policy.planner, Split())
    bold = drive(hasty, 1)[1].plan
    assert bold is not None
    assert bool((plan.cost >= bold.cost - 1e-6).all()) and not torch.equal(plan.cost, bold.cost)
    cautious: Any = EnsembleCheck.of(Split()).objective(begin(), weight=20.0)
    both = cautious(torch.stack([plan.actions, bold.actions], dim=1))
    assert bool((both[:, 0] <= both[:, 1] + 1e-6).all())


@pytest.mark.parametrize("limits", [Limits(deadline_s=1.0), Limits(budget=100)])
def test_reranking_beside_a_limit_is_refused(limits: Limits) -> None:
    with pytest.raises(InvalidInputError, match="rerank"):
        MPC(
            make_planner("cem", horizon=3, samples=8, iterations=1),
            Plane(),
            limits=limits,
            rerank=lambda w, s: world_objective(w, s),
        )


@pytest.mark.parametrize(
    "wrong", [{"worlds": ()}, {"draws": -1}, {"action_noise": -0.1}, {"action_noise": float("nan")}]
)
def test_what_is_no_check_is_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError, match="at least one world"):
        EnsembleCheck(**{"worlds": (Plane(),)} | wrong)


@pytest.mark.parametrize("name", ["push", "push_state"])
def test_the_shipped_worlds_have_three_members(name: str) -> None:
    world = load_world(name)
    check = EnsembleCheck.of(world)
    assert len(check.worlds) == 3
    state = world.reset(world.starts(torch.arange(2)), torch.arange(2))
    given = torch.rand(2, 8, 2, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4
    each = [w.rollout(state, given)[1] for w in check.worlds]
    assert torch.allclose(check.expected_progress(state, given), torch.stack([e.progress for e in each]).mean(0))
    assert all(bool((e.uncertainty == 0).all()) for e in each)
    assert not torch.equal(each[0].latent, each[1].latent)
