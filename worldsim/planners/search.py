"""What a planner offers, what a search knows, and what a plan is.

`worldsim.testing.check_planner` says whether a planner, ours or another library's, keeps what `PlannerLike` promises.

Shape legend: B episodes, P suggested candidates, K kept candidates, H steps, A action width, I iterations.
"""

import dataclasses
from typing import Any, Protocol, TypedDict, Unpack, runtime_checkable

import torch
from torch import Tensor

from worldsim.core import Rows
from worldsim.errors import InvalidInputError
from worldsim.planners.bounds import Bounds
from worldsim.planners.limits import Limits
from worldsim.planners.noise import Noise
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


class PlanOptions(TypedDict, total=False):
    """What a call of `plan` may be given beside objective and bounds; see `Given.read` for what does not fit together.

    Attributes:
        batch: B, where nothing else tells; 1 by default.
        initial: [B, H, A], the plan to beat; by default the warm start's mean, or standing still: zero, or what of the
            bounds is nearest to it.
        state: A finished search, shifted: `plan.state.shift(k)`.
        prior: [B, P, H, A], candidates that somebody suggests, a policy's own for example.
        keys: int64 [B], one noise key per episode; by default made from `seed` and the episode's number.
        seed: Same seed, same plan.
        limits: Deadline, budget and tolerance.
        noise: Another source of randomness.
    """

    batch: int | None
    initial: Tensor | None
    state: Search | None
    prior: Tensor | None
    keys: Tensor | None
    seed: int
    limits: Limits | None
    noise: Noise | None


@runtime_checkable
class PlannerLike(Protocol):
    """What a planner offers."""

    @property
    def horizon(self) -> int:
        """Steps H of a plan."""

    def plan(self, objective: Objective, *, bounds: Any, **options: Unpack[PlanOptions]) -> Plan:
        """Search the best action sequence of each of B episodes, [B, H, A]; see `worldsim.planners.Planner.plan`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Given:
    """What a call of `plan` was given, checked and completed."""

    batch: int
    initial: Tensor  # [B, H, A], inside the bounds
    search: Search
    prior: Tensor  # [B, P, H, A], inside the bounds

    @classmethod
    def read(cls, options: PlanOptions, *, box: Bounds, horizon: int) -> "Given":
        """Check shapes and fill in what is missing.

        Args:
            options: As the caller wrote them.
            box: Bounds of A numbers.
            horizon: H.

        Raises:
            TypeError: An option that there is not.
            InvalidInputError: Shapes that do not fit together.
        """
        if unknown := sorted(options.keys() - PlanOptions.__annotations__.keys()):
            raise TypeError(f"plan() has no options {unknown}; it has {sorted(PlanOptions.__annotations__)}.")
        initial, state, prior = options.get("initial"), options.get("state"), options.get("prior")
        b, a = _batch(options), box.dim
        for name, value, lead in (
            ("initial", initial, 0),
            ("prior", prior, 1),
            ("state.mean", None if state is None else state.mean, 0),
        ):
            if value is not None and tuple(value.shape[1 + lead :]) != (horizon, a):
                raise InvalidInputError(f"{name} must end in [H, A] = [{horizon}, {a}]; got {tuple(value.shape)}.")
        if initial is None:
            initial = state.mean if state is not None else box.low.new_zeros(b, horizon, a)
        first = box.clip(torch.nan_to_num(initial.to(box.low)))
        nothing = first.new_empty(b, 0, horizon, a)
        search = Search(
            mean=first,
            std=box.half.expand(b, horizon, a) if state is None else state.std.to(first),
            elites=nothing if state is None else box.clip(state.elites.to(first)),
        )
        prior = nothing if prior is None else box.clip(torch.nan_to_num(prior.to(first)))
        return cls(batch=b, initial=first, search=search, prior=prior)


def _batch(options: PlanOptions) -> int:
    """B, on which everything that was given must agree."""
    rows = {name: options.get(name) for name in ("initial", "prior", "keys")}
    sizes = {name: len(value) for name, value in rows.items() if isinstance(value, Tensor)}
    state, batch = options.get("state"), options.get("batch")
    sizes |= {} if state is None else {"state": state.batch}
    sizes |= {} if batch is None else {"batch": batch}
    if len(set(sizes.values())) > 1 or 0 in sizes.values():
        raise InvalidInputError(f"A plan needs one number of episodes B >= 1; got {sizes}.")
    return next(iter(sizes.values()), 1)
