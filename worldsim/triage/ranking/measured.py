"""Success and progress of one policy on one set of episodes, with intervals: the numbers every table shows.

Shape legend: K policies.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from worldsim.arrays import Float64s
from worldsim.stats.intervals import Interval, clopper_pearson, confidence_sequence, mean_sequence
from worldsim.triage.ranking.evidence import Evidence

_DECIMALS = 9  # of numbers that are written or hashed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Success and progress of one policy on one set of episodes.

    Attributes:
        rollouts: Episodes rolled out.
        success: Mean success in 0..1; None without rollouts.
        success_exact: Clopper-Pearson interval. It holds where the number of rollouts was fixed in advance: for an
            audit and a uniform allocation, not after adaptive stopping.
        success_anytime: Beta-binomial confidence sequence. It holds no matter when and why the rollouts stopped.
        progress: Mean progress in 0..1; None without rollouts.
        progress_anytime: Betting confidence sequence of the mean progress.
    """

    rollouts: int
    success: float | None
    success_exact: Interval
    success_anytime: Interval
    progress: float | None
    progress_anytime: Interval

    def by_progress(self) -> "Measured":
        """The same with progress and its interval in the place of success."""
        interval = self.progress_anytime
        return dataclasses.replace(self, success=self.progress, success_exact=interval, success_anytime=interval)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; success in percent."""
        return {
            "n_episodes": self.rollouts,
            "pc_success": None if self.success is None else round_number(100 * self.success),
            "pc_success_exact": interval_to_percent(self.success_exact),
            "pc_success_anytime": interval_to_percent(self.success_anytime),
            "avg_progress": None if self.progress is None else round_number(self.progress),
            "avg_progress_anytime": [
                round_number(self.progress_anytime.low),
                round_number(self.progress_anytime.high),
            ],
        }

    @staticmethod
    def fields_from_json(value: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `to_json` gave as fields for `storage.from_json`.

        Raises:
            KeyError, TypeError, ValueError: The value is something else.
        """
        percent, (low, high) = value["pc_success"], value["avg_progress_anytime"]
        return {
            "rollouts": value["n_episodes"],
            "success": None if percent is None else percent / 100,
            "success_exact": interval_from_percent(value["pc_success_exact"]),
            "success_anytime": interval_from_percent(value["pc_success_anytime"]),
            "progress": value["avg_progress"],
            "progress_anytime": {"low": low, "high": high},
        }


def measure(evidence: Evidence, *, alpha: float) -> list[Measured]:
    """Measure every policy; `alpha` is the probability to miss of each interval."""
    wins, count = evidence.wins, evidence.count
    exact = _intervals(*clopper_pearson(wins, count, alpha=alpha))
    anytime = _intervals(*confidence_sequence(wins, count, alpha=alpha))
    progress = _intervals(*mean_sequence(evidence.progress, alpha=alpha))
    means = zip(evidence.success_mean, evidence.progress_mean, strict=True)
    return [
        Measured(
            rollouts=int(count[i]),
            success=float(s) if count[i] else None,
            success_exact=exact[i],
            success_anytime=anytime[i],
            progress=float(g) if count[i] else None,
            progress_anytime=progress[i],
        )
        for i, (s, g) in enumerate(means)
    ]


def round_number(value: float) -> float:
    """Round a number as it is written and hashed; never minus zero."""
    return round(value, _DECIMALS) + 0.0


def interval_to_percent(interval: Interval) -> list[float]:
    """Return both ends in percent, rounded."""
    return [round_number(100 * interval.low), round_number(100 * interval.high)]


def interval_from_percent(ends: list[float]) -> dict[str, float]:
    """Return the fields of an `Interval` from its ends in percent."""
    low, high = ends
    return {"low": low / 100, "high": high / 100}


def _intervals(low: Float64s, high: Float64s) -> list[Interval]:
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]
