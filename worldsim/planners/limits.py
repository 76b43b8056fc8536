"""When a search ends before its iterations do: a deadline, a budget of evaluations, a tolerance per episode.

Shape legend: B episodes.
"""

import dataclasses
import time

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

_PATIENCE = 2
"""Iterations in a row without enough progress before an episode counts as converged: one may simply be unlucky."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a search may cost; None is no limit.

    Attributes:
        deadline_s: Seconds from the call to the answer. Kept between evaluations: an iteration starts only if the last
            one's duration still fits, and the answer is always an evaluated plan.
        budget: Candidates evaluated per episode, the last look included, a step of gradient counting as 3.
        tolerance: An episode is finished when two iterations in a row improve its best cost by less than this share.

    Raises:
        InvalidInputError: A limit below what can mean anything.
    """

    deadline_s: float | None = None
    budget: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        for name, low in (("deadline_s", 0), ("budget", 1), ("tolerance", 0)):
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise InvalidInputError(f"{name} is at least {low}, or None for no limit; got {value}.")


class Halt:
    """Watches one search.

    Args:
        limits: What it may cost.
        batch: B.
        device: Whose work is waited for before the clock is read; only where there is a deadline.
    """

    def __init__(self, limits: Limits, *, batch: int, device: torch.device) -> None:
        self._limits, self._device = limits, device
        self._begun = self._mark = time.monotonic()
        self._longest_s = 0.0
        self._stuck = torch.zeros(batch, dtype=torch.int64, device=device)
        self._best = torch.full((batch,), torch.inf, device=device, dtype=torch.float64)
        self._iterations: int | Tensor = 0
        self._batch = batch
        self.reason = "iterations"

    @property
    def iterations(self) -> Tensor:
        """Int64 [B], iterations that worked on each episode."""
        return torch.zeros(self._batch, dtype=torch.int64, device=self._device) + self._iterations

    @property
    def active(self) -> Tensor | None:
        """Bool [B], episodes still searched; None where all always are."""
        return None if self._limits.tolerance is None else self._stuck < _PATIENCE

    def stop(self, spent: int, price: int) -> bool:
        """Whether an iteration that costs `price` evaluations must not begin after `spent`."""
        limits = self._limits
        if limits.budget is not None and spent + price > limits.budget:
            self.reason = "budget"
        elif limits.deadline_s is not None and self._now() - self._begun + self._longest_s > limits.deadline_s:
            self.reason = "deadline"
        elif limits.tolerance is not None and not bool((self._stuck < _PATIENCE).any()):
            self.reason = "tolerance"
        else:
            return False
        return True

    def note(self, best: Tensor | None, *, iterations: int = 1) -> None:
        """One more iteration is done, or with 0 a look before the first; best cost so far [B], read where there is a tolerance."""
        self._iterations = self._iterations + (iterations if self.active is None else self.active * iterations)
        if self._limits.deadline_s is not None:
            now = self._now()
            self._longest_s, self._mark = max(self._longest_s, now - self._mark), now
        if self._limits.tolerance is not None:
            assert best is not None
            best = best.double()
            little = (self._best - best) <= self._limits.tolerance * best.abs()
            self._stuck = torch.where(little | ~best.isfinite(), self._stuck + 1, 0)
            self._best = best

    def _now(self) -> float:
        """Seconds, after the device has caught up."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.monotonic()
