"""What a planner offers, ours or somebody else's; `worldsim.testing.check_planner` says whether it keeps its promises.

Shape legend: B episodes, P suggested candidates, H steps, A action width.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from worldsim.planners.limits import Limits
from worldsim.planners.objective import Objective
from worldsim.planners.search import Plan, Search


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
        """Search the best action sequence of each of B episodes."""
