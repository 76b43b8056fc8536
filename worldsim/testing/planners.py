"""The contract of planners, see `worldsim.planners.Planner.plan`.

Shape legend: B episodes, N candidates, H steps, A action width.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from worldsim.planners import Limits, Plan, PlannerLike
from worldsim.testing.clauses import Clauses, random_state
from worldsim.testing.planner_cases import (
    CLOSE,
    EPISODES,
    Asked,
    Change,
    Easy,
    alike,
    avoids,
    beats,
    broken,
    close,
    gives_up,
    inside,
    near,
    no_worse,
    solve,
    stays,
)

_NOT_NUMBERS = {"NaN": torch.nan, "+inf": torch.inf, "-inf": -torch.inf}


def check_planner(
    planner: PlannerLike,
    *,
    quality: float = 0.1,
    choices: bool = False,
    seeded: bool = True,
    at_horizon: Callable[[int], PlannerLike] | None = None,
) -> None:
    """Check a planner against what `worldsim.planners.Planner` guarantees.

    Args:
        planner: The planner.
        quality: The share of the initial plan's cost that may be left on an easy quadratic of its horizon.
        choices: Its actions are one-hot choices, as those of the categorical rule.
        seeded: It draws candidates at random, so that another seed tries others.
        at_horizon: The same planner for another horizon; by default a dataclass is asked by `dataclasses.replace`, and
            for anything else a horizon of 1 is not tried.

    Raises:
        ContractError: Clauses are broken; the message lists them.
    """
    clauses = Clauses()
    if not clauses.hold(
        "it has plan, and a horizon of at least 1", lambda: isinstance(planner, PlannerLike) and planner.horizon >= 1
    ):
        clauses.settle(planner)
    problem = Easy.make(planner.horizon, choices=choices)
    drawn = random_state()
    if not clauses.hold(
        "it plans for 8 episodes with asymmetric bounds", lambda: isinstance(solve(planner, problem)[0], Plan)
    ):
        clauses.settle(planner)
    clauses.hold("no global random generator is drawn from", lambda: drawn == random_state())
    _check_plan(clauses, planner, problem, quality)
    _check_never_worse(clauses, planner, problem)
    _check_randomness(clauses, planner, problem, seeded)
    _check_independence(clauses, planner, problem)
    _check_numbers(clauses, planner, problem)
    _check_constraints(clauses, planner, problem)
    _check_what_is_given(clauses, planner, problem)
    _check_limits(clauses, planner, problem)
    _check_sizes(clauses, planner, choices, at_horizon)
    _check_refusals(clauses, planner, problem)
    clauses.settle(planner)


def _check_plan(clauses: Clauses, planner: PlannerLike, problem: Easy, quality: float) -> None:
    """What comes back."""
    plan, asked = solve(planner, problem)
    clauses.hold(
        "plan.actions is [B, H, A] in the bounds' float type",
        lambda: plan.actions.shape == problem.initial.shape and plan.actions.dtype == problem.bounds.low.dtype,
    )
    clauses.hold("the plan lies inside the bounds", lambda: inside(plan.actions, problem.bounds))
    clauses.hold(
        "every candidate the objective sees lies inside the bounds",
        lambda: all(inside(seen, problem.bounds) for seen in asked.seen),
    )
    clauses.hold(
        "plan.cost is the cost of plan.actions", lambda: close(asked.cost_of(plan.actions), plan.cost.to(torch.float32))
    )
    clauses.hold(
        "plan.stats.evaluations counts at least what was asked", lambda: plan.stats.evaluations >= asked.candidates
    )
    clauses.hold(
        f"an easy quadratic costs at most {quality:g} of what the initial plan does",
        lambda: bool((plan.cost <= quality * asked.cost_of(problem.initial)).all()),
    )


def _check_never_worse(clauses: Clauses, planner: PlannerLike, problem: Easy) -> None:
    """The guarantee, where it is easy to break."""
    costs: dict[str, Change] = {
        "an easy cost": lambda p, a, cost: cost,
        "a cost times 1e6": lambda p, a, cost: cost * 1e6,
        "a cost shifted by 1000": lambda p, a, cost: cost + 1e3,
        "a cost times 1e-6": lambda p, a, cost: cost * 1e-6,
        "a cost to be kept high": lambda p, a, cost: -cost,
    }
    for name, change in costs.items():
        clauses.hold(
            f"{name} gives a finite plan that costs no more than the initial one",
            functools.partial(no_worse, planner, problem, change),
        )
    clauses.hold(
        "an initial plan that is the optimum stays",
        lambda: stays(planner, problem, lambda p, a, cost: p.from_initial(a)),
    )
    clauses.hold(
        "a constant cost keeps the initial plan", lambda: stays(planner, problem, lambda p, a, cost: cost * 0 + 1)
    )


def _check_randomness(clauses: Clauses, planner: PlannerLike, problem: Easy, seeded: bool) -> None:
    """Seeds."""
    (one, first), (again, _), (_, other) = (solve(planner, problem, seed=s) for s in (3, 3, 4))
    clauses.hold("the same seed gives the same plan", lambda: torch.equal(one.actions, again.actions))
    if seeded:
        clauses.hold("another seed tries other candidates", lambda: not alike(first, other))


def _check_independence(clauses: Clauses, planner: PlannerLike, problem: Easy) -> None:
    """Episodes do not know of each other."""
    keys = torch.arange(EPISODES) * 2**33 + 5

    def everyone(change: Change | None = None) -> Tensor:
        return solve(planner, problem, change, keys=keys)[0].actions

    def alone(i: int) -> Tensor:
        row = slice(i, i + 1)
        return solve(planner, problem.rows(row), keys=keys[row])[0].actions[0]

    def disturbed(p: Easy, actions: Tensor, cost: Tensor) -> Tensor:
        row = torch.arange(EPISODES)[:, None]
        return torch.where(row % 2 == 0, cost, torch.where(row % 4 == 1, -1e4 * cost, torch.nan))

    clauses.hold(
        "an episode's plan is the same bit for bit alone and in a batch of 8",
        lambda: all(torch.equal(alone(i), everyone()[i]) for i in (0, 3, 7)),
    )
    clauses.hold(
        "an episode's plan does not change with its neighbours' costs",
        lambda: torch.equal(everyone()[::2], everyone(disturbed)[::2]),
    )


def _check_numbers(clauses: Clauses, planner: PlannerLike, problem: Easy) -> None:
    """Costs that are no numbers."""
    for name, value in _NOT_NUMBERS.items():
        clauses.hold(
            f"{name} costs in a region never reach the plan, and are counted in plan.stats.non_finite",
            functools.partial(avoids, planner, problem, value),
        )
        clauses.hold(
            f"nothing but {name} gives the clipped initial plan, not feasible",
            functools.partial(gives_up, planner, problem, value),
        )


def _check_constraints(clauses: Clauses, planner: PlannerLike, problem: Easy) -> None:
    """Feasibility first."""

    def limited(p: Easy, actions: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        return cost, p.near(actions).to(cost)

    def forbidden(p: Easy, actions: Tensor, cost: Tensor) -> tuple[Tensor, Tensor]:
        return cost, torch.ones_like(cost)

    def kept() -> bool:
        plan, asked = solve(planner, problem, limited)
        fine = bool(plan.feasible.all()) and not bool(plan.violation.any()) and not bool(near(problem, plan).any())
        return fine and bool((plan.cost <= asked.cost_of(problem.initial)).all())

    clauses.hold("a plan that breaks a constraint is never preferred to the initial one, which keeps it", kept)
    clauses.hold(
        "where every plan breaks a constraint, feasible is False and violation says by how much",
        lambda: broken(solve(planner, problem, forbidden)[0]),
    )


def _check_what_is_given(clauses: Clauses, planner: PlannerLike, problem: Easy) -> None:
    """Warm starts, suggestions, and that none is written into."""
    state, keys = solve(planner, problem)[0].state, torch.arange(EPISODES)
    prior = problem.target[:, None].clone()

    def warm(steps: int) -> bool:
        shifted = state.shift(steps)
        plan, asked = solve(planner, problem, initial=None, state=shifted)
        return bool((plan.cost <= asked.cost_of(problem.bounds.clip(shifted.mean))).all())

    def untouched() -> bool:
        bounds, start = problem.bounds, state.shift(1)
        given = (problem.initial, prior, keys, bounds.low, bounds.high, start.mean, start.std, start.elites)
        before = [value.clone() for value in given]
        planner.plan(Asked(problem), bounds=bounds, initial=problem.initial, prior=prior, keys=keys, state=start)
        return all(torch.equal(one, other) for one, other in zip(before, given, strict=True))

    def suggested() -> bool:
        plan, asked = solve(planner, problem, prior=prior)
        return bool((plan.cost <= asked.cost_of(problem.target) + CLOSE).all())

    for steps in (0, 1, planner.horizon):
        clauses.hold(
            f"state=plan.state.shift({steps}) is taken, and the plan costs no more than its mean",
            functools.partial(warm, steps),
        )
    clauses.hold("a plan costs no more than what prior= suggests", suggested)
    clauses.hold("what it is given is not written into", untouched)


def _check_limits(clauses: Clauses, planner: PlannerLike, problem: Easy) -> None:
    """Deadline and budget."""
    full = solve(planner, problem)[0].stats.evaluations

    def budget() -> bool:
        limit = max(1, full // 2)
        plan, asked = solve(planner, problem, limits=Limits(budget=limit))
        return max(plan.stats.evaluations, asked.candidates) <= limit and beats(plan, asked, problem)

    def deadline() -> bool:
        plan, asked = solve(planner, problem, limits=Limits(deadline_s=0.0))
        return plan.stats.stopped == "deadline" and asked.candidates > 0 and beats(plan, asked, problem)

    clauses.hold("half the evaluations as a budget are kept, and the plan costs no more than the initial one", budget)
    clauses.hold("a deadline of 0 gives an evaluated plan that costs no more than the initial one", deadline)


def _check_sizes(
    clauses: Clauses, planner: PlannerLike, choices: bool, at_horizon: Callable[[int], PlannerLike] | None
) -> None:
    """The smallest there are."""

    def runs(one: PlannerLike, problem: Easy) -> bool:
        plan, asked = solve(one, problem)
        return plan.actions.shape == problem.initial.shape and beats(plan, asked, problem)

    if at_horizon is None and dataclasses.is_dataclass(planner) and not isinstance(planner, type):
        own: Any = planner
        at_horizon = cast(Callable[[int], PlannerLike], lambda h: dataclasses.replace(own, horizon=h))
    if at_horizon is not None:
        remade = at_horizon
        clauses.hold("a horizon of 1 works", lambda: runs(remade(1), Easy.make(1, choices=choices)))
    if not choices:
        clauses.hold("actions of width 1 work", lambda: runs(planner, Easy.make(planner.horizon, width=1)))
    clauses.hold("one episode works", lambda: runs(planner, Easy.make(planner.horizon, choices=choices).rows(slice(1))))


def _check_refusals(clauses: Clauses, planner: PlannerLike, problem: Easy) -> None:
    """Input that cannot be meant."""
    low, high, start = problem.bounds.low, problem.bounds.high, problem.initial
    refused: dict[str, dict[str, Any]] = {
        "an initial plan one step too long": {"initial": torch.cat([start, start[:, :1]], dim=1)},
        "an initial plan one action too wide": {"initial": torch.cat([start, start[..., :1]], dim=2)},
        "an initial plan without its episodes": {"initial": start[0]},
        "a prior without its candidates": {"prior": start},
        "a prior for fewer episodes": {"prior": start[:2, None]},
        "fewer keys than episodes": {"keys": torch.arange(3)},
        "another batch than the initial plan's": {"batch": 3},
        "crossed bounds": {"bounds": (high, low)},
        "infinite bounds": {"bounds": (low, high + torch.inf)},
    }
    for sentence, wrong in refused.items():
        clauses.refuses(
            sentence,
            functools.partial(planner.plan, Asked(problem), **{"bounds": problem.bounds, "initial": start, **wrong}),
        )
    clauses.refuses(
        "an objective that gives one cost too many",
        lambda: solve(planner, problem, lambda p, a, cost: torch.cat([cost, cost[:, :1]], dim=1)),
    )
