"""A world beside a ground truth, policy by policy and episode by episode, as values to show.

The verdicts over all policies (correlations and the like) are `worldsim.stats.agreement`'s.

Shape legend: K policies, N and M episodes.
"""

import dataclasses
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from worldsim.errors import InvalidInputError
from worldsim.stats.agreement import Agreement
from worldsim.stats.correlation import SOLVED
from worldsim.stats.intervals import Interval, clopper_pearson, confidence_sequence, mean_sequence
from worldsim.triage.ranking.evidence import Evidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rate:
    """A mean in 0..1 with its interval and its number of rollouts."""

    mean: float
    interval: Interval
    rollouts: int

    @classmethod
    def of(cls, total: ArrayLike, *, count: ArrayLike, span: tuple[ArrayLike, ArrayLike]) -> list[Self]:
        """Build the rates of K policies; the mean of no rollouts is 0, and is never shown.

        Args:
            total: [K] sums of outcomes.
            count: [K] rollouts.
            span: Lower and upper ends of the intervals, [K] each.
        """
        rows = zip(np.asarray(total), np.asarray(count), np.asarray(span[0]), np.asarray(span[1]), strict=True)
        return [
            cls(mean=float(t / max(n, 1)), interval=Interval(float(low), float(high)), rollouts=int(n))
            for t, n, low, high in rows
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compared:
    """One policy in the world and in the ground truth.

    Attributes:
        policy: Row in the evidence.
        world: Success in the world, with its anytime-valid interval.
        truth: Success in the ground truth, with its Clopper-Pearson interval.
        world_progress: Mean progress in the world.
        truth_progress: Mean progress in the ground truth.
    """

    policy: int
    world: Rate
    truth: Rate
    world_progress: Rate
    truth_progress: Rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Episodes:
    """Matched episodes (same policy, same start, same noise) counted by their two outcomes."""

    both: int
    only_world: int
    only_truth: int
    neither: int

    @property
    def total(self) -> int:
        """All matched episodes."""
        return self.both + self.only_world + self.only_truth + self.neither

    @property
    def same(self) -> float | None:
        """Share with the same outcome; None without episodes."""
        return (self.both + self.neither) / self.total if self.total else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """How the world compares with a ground truth.

    Attributes:
        name: What the truth is, for example a Gymnasium id.
        policies: The policies rolled out in both.
        success: Agreement of success rates.
        progress: Agreement of mean progress, where it was computed.
        episodes: Matched episodes by outcome; None where episodes are not matched.
    """

    name: str
    policies: tuple[Compared, ...]
    success: Agreement
    progress: Agreement | None = None
    episodes: Episodes | None = None

    @classmethod
    def from_evidence(
        cls,
        *,
        name: str,
        world: Evidence,
        truth: Evidence,
        success: Agreement,
        progress: Agreement | None = None,
        matched: bool,
        alpha: float = 0.05,
    ) -> Self:
        """Measure both sides.

        Args:
            name: What the truth is.
            world: Outcomes in the world, [K, N].
            truth: Outcomes of the same K policies in the truth, [K, M].
            success: Agreement of success rates.
            progress: Agreement of mean progress.
            matched: Column j is the same start and noise on both sides.
            alpha: Probability to miss of each interval.

        Raises:
            InvalidInputError: The tables have different numbers of policies.
        """
        if world.policies != truth.policies:
            raise InvalidInputError(
                f"World and truth must cover the same policies; got {world.policies} and {truth.policies}."
            )
        known = [int(i) for i in np.flatnonzero((world.count > 0) & (truth.count > 0))]
        world_success = confidence_sequence(world.wins, world.count, alpha=alpha)
        truth_success = clopper_pearson(truth.wins, truth.count, alpha=alpha)
        sides = {
            "world": Rate.of(world.wins, count=world.count, span=world_success),
            "truth": Rate.of(truth.wins, count=truth.count, span=truth_success),
            "world_progress": _progress(world, alpha),
            "truth_progress": _progress(truth, alpha),
        }
        return cls(
            name=name,
            policies=tuple(Compared(policy=i, **{k: rates[i] for k, rates in sides.items()}) for i in known),
            success=success,
            progress=progress,
            episodes=_cross(world, truth) if matched else None,
        )


def _progress(evidence: Evidence, alpha: float) -> list[Rate]:
    total = np.nansum(evidence.progress, axis=1)
    return Rate.of(total, count=evidence.count, span=mean_sequence(evidence.progress, alpha=alpha))


def _cross(world: Evidence, truth: Evidence) -> Episodes:
    """Count matched episodes by outcome."""
    stop = min(world.episodes, truth.episodes)
    known = world.done[:, :stop] & truth.done[:, :stop]
    s, r = world.success[:, :stop][known] >= SOLVED, truth.success[:, :stop][known] >= SOLVED
    cells = {"both": s & r, "only_world": s & ~r, "only_truth": ~s & r, "neither": ~s & ~r}
    return Episodes(**{name: int(cell.sum()) for name, cell in cells.items()})
