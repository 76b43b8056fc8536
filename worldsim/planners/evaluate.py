"""The one place where a planner calls the objective: shapes checked, chunks cut, bad numbers made harmless and counted.

Shape legend: B episodes, N candidates, H steps, A action width.
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners.objective import Divisible, Objective, Scores


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """Candidates and what they cost.

    `rank` orders them feasibility first: the cost where no constraint is broken, and beyond the worst feasible cost,
    by violation alone, where one is. +inf where the cost is not finite.
    """

    candidates: Tensor  # [B, N, H, A]
    cost: Tensor  # [B, N], +inf where it was not finite
    violation: Tensor | None  # [B, N], >= 0
    rank: Tensor  # [B, N]
    gradient: Tensor | None = None  # [B, N, H, A] of the cost (and of the violation where it is positive)
    _best: list["Scored"] = dataclasses.field(default_factory=list, init=False, repr=False, compare=False)

    def pick(self, index: Tensor, rank: Tensor | None = None) -> "Scored":
        """The candidates at int64 [B, K], their rank where it is known; gradients are left behind."""
        b, n = self.rank.shape
        if b == 1:
            chosen = self.candidates[0].index_select(0, index[0])
        else:
            flat = index + torch.arange(0, b * n, n, device=index.device)[:, None]
            chosen = self.candidates.flatten(0, 1).index_select(0, flat.flatten())
        rank = self.rank.gather(1, index) if rank is None else rank
        cost = rank if self.rank is self.cost else self.cost.gather(1, index)
        return Scored(
            candidates=chosen.view(*index.shape, *chosen.shape[1:]),
            cost=cost,
            violation=None if self.violation is None else self.violation.gather(1, index),
            rank=rank,
        )

    def leaders(self, count: int = 1) -> "Scored":
        """At least the `count` best, best first; several callers ask, the sorting is done once."""
        if not self._best or self._best[0].rank.shape[1] < count:
            rank, index = self.rank.topk(count, dim=1, largest=False)
            self._best[:] = [self.pick(index, rank)]
        return self._best[0]

    def best(self, count: int) -> "Scored":
        """The `count` best, best first."""
        known = self.leaders(count)
        if known.rank.shape[1] == count:
            return known
        violation = None if known.violation is None else known.violation[:, :count]
        cost = known.cost[:, :count]
        rank = cost if known.rank is known.cost else known.rank[:, :count]
        return Scored(candidates=known.candidates[:, :count], cost=cost, violation=violation, rank=rank)


def better(one: Scored, other: Scored) -> Scored:
    """The better of two candidates per episode, the first of equals: fewer violations, then lower cost."""
    wins = other.cost < one.cost
    violation = None
    if one.violation is not None and other.violation is not None:
        closer = (other.violation < one.violation) | ~one.cost.isfinite()
        wins = (closer & other.cost.isfinite()) | ((other.violation == one.violation) & wins)
        violation = torch.where(wins, other.violation, one.violation)
    cost = torch.where(wins, other.cost, one.cost)
    candidates = torch.where(wins[:, :, None, None], other.candidates, one.candidates)
    return Scored(candidates=candidates, cost=cost, violation=violation, rank=cost)


def best_of(leaders: list[Scored]) -> Scored:
    """The best per episode of the first of several leaders, none of which breaks a constraint; the first of equals."""
    if len(leaders) == 1:
        return leaders[0].best(1)
    cost = torch.cat([one.cost[:, :1] for one in leaders], dim=1)
    candidates = torch.cat([one.candidates[:, :1] for one in leaders], dim=1)
    return Scored(candidates=candidates, cost=cost, violation=None, rank=cost).pick(cost.argmin(1, keepdim=True))


class Evaluator:
    """Calls an objective and counts.

    Args:
        objective: What is minimised.
        chunk: Most candidates per episode in one call; 0 for all at once.
        batch: B.
    """

    def __init__(self, objective: Objective, *, chunk: int, batch: int, device: torch.device) -> None:
        self._objective = objective
        self._chunk = chunk
        self.evaluations = 0
        self._non_finite = torch.zeros(batch, dtype=torch.int64, device=device)
        self._uncounted: list[Tensor] = []  # costs [B, N] whose infinities are counted when somebody asks

    @property
    def non_finite(self) -> Tensor:
        """Int64 [B], candidates whose cost (or violation) was NaN or infinite."""
        if self._uncounted:
            self._non_finite = self._non_finite + torch.cat(self._uncounted, dim=1).isposinf().sum(1)
            self._uncounted = []
        return self._non_finite

    def __call__(self, candidates: Tensor, *, gradient: bool = False, active: Tensor | None = None) -> Scored:
        """Score candidates [B, N, H, A].

        Args:
            candidates: Inside the bounds.
            gradient: Also give the gradient; counts as three evaluations (forward, and backward at twice the cost).
            active: bool [B], episodes still searched; the others score +inf, and where the objective is `Divisible`
                they are not computed at all.

        Raises:
            InvalidInputError: The objective gave a wrong shape, or carries no gradient where one is needed.
        """
        self.evaluations += candidates.shape[1] * (3 if gradient else 1)
        if active is not None and isinstance(self._objective, Divisible):
            index = active.nonzero()[:, 0]
            some = self._chunks(self._objective.rows(index), candidates[index], gradient)
            cost, violation, slope = (_scatter(part, index, candidates.shape[0]) for part in some)
            assert cost is not None
        else:
            cost, violation, slope = self._chunks(self._objective, candidates, gradient)
        if violation is None:
            cost = cost.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        else:
            cost = cost.masked_fill(~(cost.isfinite() & violation.isfinite()), torch.inf)
        if active is None:
            self._uncounted.append(cost)
        else:
            self._non_finite = self._non_finite + cost.isposinf().sum(1) * active
            cost = cost.masked_fill(~active[:, None], torch.inf)
        rank = cost if violation is None else _feasible_first(cost, violation)
        return Scored(candidates=candidates, cost=cost, violation=violation, rank=rank, gradient=slope)

    def _chunks(
        self, objective: Objective, candidates: Tensor, gradient: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Cost, violation and gradient, chunk by chunk along N."""
        if not self._chunk or candidates.shape[1] <= self._chunk:
            return _call(objective, candidates, gradient)
        parts = [_call(objective, part, gradient) for part in candidates.split(self._chunk, dim=1)]
        cost, violation, slope = zip(*parts, strict=True)
        return torch.cat(cost, dim=1), _cat(violation), _cat(slope)


def _call(objective: Objective, candidates: Tensor, gradient: bool) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """One call of the objective, its answer checked."""
    if not gradient:
        if torch.is_grad_enabled():  # a search has it off already, and switching costs as much as a small operation
            with torch.no_grad():
                return *_split(objective(candidates), candidates), None
        return *_split(objective(candidates), candidates), None
    with torch.enable_grad():
        leaf = candidates.detach().clone().requires_grad_()
        cost, violation = _split(objective(leaf), candidates)
        if not cost.requires_grad:
            raise InvalidInputError(
                "This planner follows gradients, and the objective's cost carries none: it ran under no_grad or "
                "inference_mode, or outside torch. Use a sampling planner such as 'weighted', or a differentiable cost."
            )
        total = cost if violation is None else cost + violation.clamp_min(0)
        (slope,) = torch.autograd.grad(total.sum(), leaf)
    return cost.detach(), None if violation is None else violation.detach(), slope


def _split(scores: Scores, candidates: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cost and violation as floats, their shapes checked."""
    cost, violation = scores if isinstance(scores, tuple) else (scores, None)
    expected = candidates.shape[:2]
    for name, value in (("cost", cost), ("violation", violation)):
        if (value is not None or name == "cost") and (not isinstance(value, Tensor) or value.shape != expected):
            found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInputError(
                f"The objective's {name} must be a tensor [B, N] = {list(expected)} for actions "
                f"{list(candidates.shape)}; got {found}. A numpy function is wrapped with planners.from_numpy."
            )
    cost = cost if cost.is_floating_point() else cost.float()
    return cost, None if violation is None else violation.to(cost).clamp_min(0)


def _feasible_first(cost: Tensor, violation: Tensor) -> Tensor:
    """One number per candidate that sorts by feasibility, then by violation or cost."""
    feasible = (violation <= 0) & cost.isfinite()
    low, high = cost.masked_fill(~feasible, torch.inf).amin(1), cost.masked_fill(~feasible, -torch.inf).amax(1)
    none = ~feasible.any(1)
    worst, range_ = high.masked_fill(none, 0.0).double(), (high - low).masked_fill(none, 0.0).double()
    scale = torch.maximum(range_, 1e-6 * worst.abs()).clamp_min(1.0)  # more than rounding, however large the costs
    beyond = worst[:, None] + scale[:, None] * (1 + violation.double())
    return torch.where(feasible, cost.double(), beyond).masked_fill(cost.isposinf(), torch.inf)


def _scatter(part: Tensor | None, index: Tensor, batch: int) -> Tensor | None:
    """Rows back at their places in a batch, +inf elsewhere."""
    if part is None:
        return None
    filled = part.new_full((batch, *part.shape[1:]), torch.inf)
    filled[index] = part
    return filled


def _cat(parts: tuple[Tensor | None, ...]) -> Tensor | None:
    known = [p for p in parts if p is not None]
    return torch.cat(known, dim=1) if known else None
