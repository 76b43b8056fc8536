"""What a planner offers, what a search knows, and what a plan is.

`worldsim.testing.check_planner` says whether a planner, ours or another library's, keeps what `PlannerLike` promises.

Shape legend: B episodes, P suggested candidates, K kept candidates, H steps, A action width, I iterations.
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from worldsim.core import Rows
from worldsim.errors import InvalidInputError
from worldsim.planners.limits import Limits
from worldsim.planners.objective import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search(Rows):
    """Where the search of B episodes stands; a finished one warm-starts the next.

    All in the planner's own units. `elites` are the best candidates of the last iteration, best first.
    """

    mean: Tensor  # [B, H, A], the plan believed best
    std: Tensor  # [B, H, A], > 0, how far around it to look
    elites: Tensor  # [B, K, H, A], K may be 0

    def shift(self, steps: int) -> "Search":
        """The same search `steps` later: what has been executed is dropped, the last action is held.

        Raises:
            InvalidInputError: A negative number of steps.
        """
        if steps < 0:
            raise InvalidInputError(f"A plan shifts forward in time; got {steps} steps.")
        horizon = self.mean.shape[1]
        index = (torch.arange(horizon, device=self.mean.device) + steps).clamp_max(horizon - 1)
        return Search(mean=self.mean[:, index], std=self.std[:, index], elites=self.elites[:, :, index])


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanStats:
    """How a search went. Tensors stay on the device; collecting them costs no synchronisation.

    Attributes:
        costs: [B, N] of every iteration, +inf where a cost was not finite.
        non_finite: int64 [B], candidates whose cost was NaN or infinite; each counted as the worst.
        iterations: int64 [B], iterations that worked on each episode.
        evaluations: Candidates evaluated per episode; one step of gradient counts as 3.
        stopped: Why the search ended: ``"iterations"``, ``"budget"``, ``"deadline"`` or ``"tolerance"``.
    """

    costs: tuple[Tensor, ...]
    non_finite: Tensor
    iterations: Tensor
    evaluations: int
    stopped: str

    @property
    def best(self) -> Tensor:
        """The best cost seen up to each iteration, [B, I]."""
        if not self.costs:
            return self.non_finite.new_empty(len(self.non_finite), 0, dtype=torch.float32)
        return torch.stack([c.amin(1) for c in self.costs], dim=1).cummin(1).values

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each iteration's finite costs, [B, I]."""
        if not self.costs:
            return self.best
        known = [torch.where(c.isfinite(), c, torch.nan) for c in self.costs]
        return torch.stack([(k - k.nanmean(1, keepdim=True)).square().nanmean(1).sqrt() for k in known], dim=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """The best action sequences found.

    Attributes:
        actions: [B, H, A], inside the bounds.
        cost: [B], the cost of `actions` itself, evaluated once more; never above the cost of the initial plan. +inf
            where nothing could be evaluated.
        violation: [B], how far the constraints are broken, 0 where they hold.
        feasible: bool [B], the cost is finite and no constraint is broken.
        state: Pass `plan.state.shift(k)` to the next call as `state=` after executing k steps.
        stats: How the search went.
    """

    actions: Tensor
    cost: Tensor
    violation: Tensor
    feasible: Tensor
    state: Search
    stats: PlanStats


@runtime_checkable
class PlannerLike(Protocol):
    """What a planner offers; arguments as `worldsim.planners.Planner.plan`."""

    @property
    def horizon(self) -> int:
        """Steps H of a plan."""

    def plan(
        self,
        objective: Objective,
        *,
        bounds: Any,
        batch: int | None = None,
        initial: Tensor | None = None,
        state: Search | None = None,
        prior: Tensor | None = None,
        keys: Tensor | None = None,
        seed: int = 0,
        limits: Limits | None = None,
    ) -> Plan:
        """Search the best action sequence of each of B episodes, [B, H, A]."""
