"""Success and progress of one policy on one set of episodes, with intervals; and how they are written.

Not for the order of policies (`worldsim.triage.ranking.ranking`).

Shape legend: K policies.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.stats.intervals import Interval, clopper_pearson, confidence_sequence, mean_sequence
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import Corrected

Floats = NDArray[np.float64]
_DECIMALS = 9  # numbers are rounded so before they are written or hashed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Success and progress of one policy on one set of episodes.

    Attributes:
        rollouts: Episodes rolled out.
        success: Mean success in 0..1; None without rollouts.
        success_exact: Clopper-Pearson interval. It holds where the number of rollouts was fixed beforehand: for an
            audit and a uniform allocation, not after adaptive stopping.
        success_anytime: Beta-binomial confidence sequence. It holds whenever and why ever the rollouts stopped.
        progress: Mean progress in 0..1; None without rollouts.
        progress_anytime: Betting confidence sequence of the mean progress.
    """

    rollouts: int
    success: float | None
    success_exact: Interval
    success_anytime: Interval
    progress: float | None
    progress_anytime: Interval


def measure(evidence: Evidence, *, alpha: float) -> list[Measured]:
    """Measure every policy; `alpha` is the probability to miss of each interval."""
    wins, count = evidence.wins, evidence.count
    exact = _spans(*clopper_pearson(wins, count, alpha=alpha))
    anytime = _spans(*confidence_sequence(wins, count, alpha=alpha))
    progress = _spans(*mean_sequence(evidence.progress, alpha=alpha))
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


def _spans(low: Floats, high: Floats) -> list[Interval]:
    return [Interval(float(a), float(b)) for a, b in zip(low, high, strict=True)]


def rounded(value: float) -> float:
    """A number as it is written and hashed; never minus zero."""
    return round(value, _DECIMALS) + 0.0


def measured_to_json(measured: Measured | None) -> dict[str, Any] | None:
    """JSON values; success in percent."""
    if measured is None:
        return None
    return {
        "n_episodes": measured.rollouts,
        "pc_success": None if measured.success is None else rounded(100 * measured.success),
        "pc_success_exact": [rounded(100 * measured.success_exact.low), rounded(100 * measured.success_exact.high)],
        "pc_success_anytime": [
            rounded(100 * measured.success_anytime.low),
            rounded(100 * measured.success_anytime.high),
        ],
        "avg_progress": None if measured.progress is None else rounded(measured.progress),
        "avg_progress_anytime": [rounded(measured.progress_anytime.low), rounded(measured.progress_anytime.high)],
    }


def measured_from_json(value: Mapping[str, Any] | None) -> Measured | None:
    """Rebuild what `measured_to_json` gave."""
    if value is None:
        return None
    percent = value["pc_success"]
    return Measured(
        rollouts=int(value["n_episodes"]),
        success=None if percent is None else percent / 100,
        success_exact=Interval(*(x / 100 for x in value["pc_success_exact"])),
        success_anytime=Interval(*(x / 100 for x in value["pc_success_anytime"])),
        progress=value["avg_progress"],
        progress_anytime=Interval(*value["avg_progress_anytime"]),
    )


def corrected_to_json(corrected: Corrected) -> dict[str, Any]:
    """JSON values; success in percent."""
    return {
        "pc_success": rounded(100 * corrected.value),
        "pc_success_interval": [rounded(100 * corrected.interval.low), rounded(100 * corrected.interval.high)],
        "method": corrected.method,
        "n_episodes": corrected.episodes,
        "n_truths": corrected.truths,
        "weight": rounded(corrected.weight),
        "n_effective": rounded(corrected.effective),
    }


def corrected_from_json(value: Mapping[str, Any] | None) -> Corrected | None:
    """Rebuild what `corrected_to_json` gave."""
    if value is None:
        return None
    return Corrected(
        value=value["pc_success"] / 100,
        interval=Interval(*(x / 100 for x in value["pc_success_interval"])),
        method=value["method"],
        episodes=int(value["n_episodes"]),
        truths=int(value["n_truths"]),
        weight=float(value["weight"]),
        effective=float(value["n_effective"]),
    )
