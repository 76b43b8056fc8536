"""The easy problem that `check_planner` poses, and an objective that remembers what it was asked.

Every cost is summed step by step in one order, so that its bits do not depend on how many episodes share a call.

Shape legend: B episodes, N candidates, H steps, A action width.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from worldsim.noise import uniform
from worldsim.planners import Bounds, Plan, PlannerLike
from worldsim.planners.objective import Scores

CLOSE = 1e-5
"""Of a cost given and the same cost computed again, relative."""
EPISODES = 8
_LOW, _HIGH = (-0.5, 2.0), (3.0, 2.4)
"""Not symmetric, not of one width, and one of them without the zero: physical units."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Easy:
    """Reach a constant target per episode, away from where the search begins.

    Attributes:
        bounds: The box.
        initial: [B, H, A], inside it.
        target: [B, H, A], inside it.
    """

    bounds: Bounds
    initial: Tensor
    target: Tensor

    @classmethod
    def make(cls, horizon: int, *, width: int = 2, choices: bool = False) -> Self:
        """The problem of 8 episodes; with `choices` among three, as one-hot actions."""
        if choices:
            bounds = Bounds.categorical(3)
            wanted = 1 + torch.arange(EPISODES)[:, None] % 2
            eye = torch.eye(3)
            return cls(
                bounds=bounds,
                initial=eye[0].repeat(EPISODES, horizon, 1),
                target=eye[wanted].repeat(1, horizon, 1),
            )
        bounds = Bounds(torch.tensor(_LOW[:width]), torch.tensor(_HIGH[:width]))
        unit = 0.2 + 0.5 * uniform(torch.arange(EPISODES), 0, (1, width))
        return cls(
            bounds=bounds,
            initial=(bounds.centre - 0.5 * bounds.half).repeat(EPISODES, horizon, 1),
            target=(bounds.centre + unit * bounds.half).repeat(1, horizon, 1),
        )

    def rows(self, index: slice) -> Self:
        """Some of the episodes."""
        return dataclasses.replace(self, initial=self.initial[index], target=self.target[index])

    def cost(self, actions: Tensor) -> Tensor:
        """Mean squared distance from the target in half ranges, [B, N]."""
        return self._distance(actions, self.target)

    def from_initial(self, actions: Tensor) -> Tensor:
        """Mean squared distance from the initial plan, [B, N]: nothing is better than to stay."""
        return self._distance(actions, self.initial)

    def near(self, actions: Tensor) -> Tensor:
        """Whether the first action is nearer to its target than to where it began, bool [B, N]: most of what pays."""
        first = actions[:, :, :1]
        return self._distance(first, self.target[:, :1]) < self._distance(first, self.initial[:, :1])

    def _distance(self, actions: Tensor, place: Tensor) -> Tensor:
        terms = ((actions - place[:, None]) / self.bounds.half).square().flatten(2).unbind(2)
        return functools.reduce(torch.add, terms) / len(terms)


Change = Callable[[Easy, Tensor, Tensor], Scores]
"""(problem, actions [B, N, H, A], cost [B, N]) -> what the planner is given instead."""


class Asked:
    """The problem as an objective that remembers.

    Args:
        problem: What is posed.
        change: Another cost than the problem's own.
    """

    def __init__(self, problem: Easy, change: Change | None = None) -> None:
        self._problem, self._change = problem, change
        self.seen: list[Tensor] = []
        self.non_finite = torch.zeros(len(problem.initial), dtype=torch.int64)

    def __call__(self, actions: Tensor) -> Scores:
        """Costs [B, N], or costs and violations."""
        scores = self.score(actions)
        cost = scores[0] if isinstance(scores, tuple) else scores
        self.seen.append(actions.detach().clone())
        self.non_finite += (~cost.detach().isfinite()).sum(1)
        return scores

    def score(self, actions: Tensor) -> Scores:
        """Costs [B, N], without keeping what was asked."""
        cost = self._problem.cost(actions)
        return cost if self._change is None else self._change(self._problem, actions, cost)

    def cost_of(self, plan: Tensor) -> Tensor:
        """Cost [B] of one plan per episode [B, H, A]."""
        with torch.no_grad():
            scores = self.score(plan[:, None])
        return (scores[0] if isinstance(scores, tuple) else scores)[:, 0]

    @property
    def candidates(self) -> int:
        """How many per episode it was asked about."""
        return sum(actions.shape[1] for actions in self.seen)


def solve(planner: PlannerLike, problem: Easy, change: Change | None = None, **options: Any) -> tuple[Plan, Asked]:
    """A plan for the problem, and what was asked on the way; `options` goes to `plan`, tensors as copies."""
    asked = Asked(problem, change)
    options = {"initial": problem.initial, **options}
    options = {name: value.clone() if isinstance(value, Tensor) else value for name, value in options.items()}
    return planner.plan(asked, bounds=problem.bounds, **options), asked


def inside(actions: Tensor, bounds: Bounds) -> bool:
    """Whether all actions [..., A] lie in the box."""
    return bool(((actions >= bounds.low) & (actions <= bounds.high)).all())


def close(one: Tensor, other: Tensor) -> bool:
    """Whether two costs [...] agree, relatively."""
    return torch.allclose(one, other, rtol=CLOSE, atol=0)


def near(problem: Easy, plan: Plan) -> Tensor:
    """`Easy.near` of the plans, bool [B]."""
    return problem.near(plan.actions[:, None])[:, 0]


def beats(plan: Plan, asked: Asked, problem: Easy) -> bool:
    """Whether the plan is finite, costs what it says and no more than the initial one."""
    cost = asked.cost_of(plan.actions)
    fine = bool(plan.actions.isfinite().all()) and inside(plan.actions, problem.bounds) and close(cost, plan.cost)
    return fine and bool((cost <= asked.cost_of(problem.initial)).all())


def no_worse(planner: PlannerLike, problem: Easy, change: Change) -> bool:
    """Whether the plan for another cost is feasible and no worse than the initial one."""
    plan, asked = solve(planner, problem, change)
    return beats(plan, asked, problem) and bool(plan.feasible.all())


def stays(planner: PlannerLike, problem: Easy, change: Change) -> bool:
    """Whether the initial plan comes back, bit for bit."""
    return torch.equal(solve(planner, problem, change)[0].actions, problem.initial)


def alike(one: Asked, other: Asked) -> bool:
    """Whether two searches tried the same candidates."""
    pairs = zip(one.seen, other.seen, strict=False)
    return len(one.seen) == len(other.seen) and all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


def avoids(planner: PlannerLike, problem: Easy, value: float) -> bool:
    """Whether a region of such costs, which would pay otherwise, is kept out of."""
    plan, asked = solve(planner, problem, lambda p, a, cost: torch.where(p.near(a), value, cost))
    counted = torch.equal(plan.stats.non_finite.cpu(), asked.non_finite) and bool(asked.non_finite.any())
    return counted and beats(plan, asked, problem) and bool(plan.feasible.all())


def gives_up(planner: PlannerLike, problem: Easy, value: float) -> bool:
    """Whether the initial plan comes back, clipped, where there is no cost at all."""
    outside = problem.initial + 3 * problem.bounds.half
    plan, _ = solve(planner, problem, lambda p, a, cost: torch.where(cost > -1, value, cost), initial=outside)
    return torch.equal(plan.actions, problem.bounds.clip(outside)) and not bool(plan.feasible.any())


def broken(plan: Plan) -> bool:
    """Whether the plan says of every episode that it breaks a constraint."""
    return not bool(plan.feasible.any()) and bool((plan.violation > 0).all())
