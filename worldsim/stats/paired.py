"""Agreement episode by episode: same policy, same start, same noise key, once in truth and once in the world.

How well single outcomes agree decides how much a world's rollouts can stand in for true ones; it can be poor while
means agree. Not for agreement of means over policies (`agreement`).

Shape legend: K policies, N matched episodes, D draws.
"""

import math

import numpy as np
from numpy.typing import NDArray

from worldsim.stats import bootstrap as resample
from worldsim.stats import correlation as metrics
from worldsim.stats.estimate import Estimate

Floats = NDArray[np.float64]


def episode_estimates(
    truth_kn: Floats, world_kn: Floats, *, chosen_dk: NDArray[np.int64], alpha: float, binary: bool
) -> tuple[Estimate, ...]:
    """Measure agreement on the episodes known to both; intervals redraw whole policies.

    Args:
        truth_kn: [K, N] outcomes in 0..1, nan where there is none.
        world_kn: [K, N] outcomes of the same pairs.
        chosen_dk: int64 [D, K] bootstrap draws of policies.
        alpha: Probability to miss of each interval.
        binary: Outcomes are solved or not: accuracy and Cohen's kappa are reported besides the correlations.

    Returns:
        ``episode_phi``, the correlation over all pairs (phi, for binary outcomes); ``episode_phi_within``, the same
        after taking out each policy's means, so that differences between policies do not count as agreement;
        ``episode_accuracy`` and ``episode_kappa`` where binary.
    """
    sums_kc = _sums(truth_kn, world_kn)
    statistics = {"episode_phi": _phi, "episode_phi_within": _phi_within}
    if binary:
        statistics |= {"episode_accuracy": _accuracy, "episode_kappa": _kappa}
    n = int(sums_kc[:, 0].sum())
    found = []
    for name, statistic in statistics.items():
        value = statistic(sums_kc) if n else math.nan
        if math.isnan(value):
            why = "one side has the same outcome in every episode" if n else "no episode is known to both sides"
            found.append(Estimate(name=name, value=None, n=n, undefined=why))
            continue
        draws = np.array([statistic(sums_kc[chosen]) for chosen in chosen_dk])
        interval = resample.bias_corrected(draws, value=value, count=len(sums_kc), alpha=alpha)
        found.append(Estimate.of(name, value=value, interval=interval, n=n))
    return tuple(found)


def _sums(truth_kn: Floats, world_kn: Floats) -> Floats:
    """Per policy: n, sums of r, s, r s, r r, s s, and of solved r, solved s, both alike. Returns [K, 9]."""
    both = ~(np.isnan(truth_kn) | np.isnan(world_kn))
    r, s = np.where(both, truth_kn, 0.0), np.where(both, world_kn, 0.0)
    solved_r, solved_s = both & (r >= metrics.SOLVED), both & (s >= metrics.SOLVED)
    parts = (both, r, s, r * s, r * r, s * s, solved_r, solved_s, both & (solved_r == solved_s))
    return np.stack([part.sum(axis=1).astype(np.float64) for part in parts], axis=1)


def _correlation(rs: float, rr: float, ss: float) -> float:
    return rs / math.sqrt(rr * ss) if rr > 1e-12 and ss > 1e-12 else math.nan


def _phi(sums_kc: Floats) -> float:
    n, r, s, rs, rr, ss, *_ = sums_kc.sum(axis=0)
    return _correlation(rs - r * s / n, rr - r * r / n, ss - s * s / n) if n else math.nan


def _phi_within(sums_kc: Floats) -> float:
    known = sums_kc[sums_kc[:, 0] > 0]
    n, r, s, rs, rr, ss, *_ = known.T
    return _correlation(float((rs - r * s / n).sum()), float((rr - r * r / n).sum()), float((ss - s * s / n).sum()))


def _accuracy(sums_kc: Floats) -> float:
    total = sums_kc.sum(axis=0)
    return float(total[8] / total[0]) if total[0] else math.nan


def _kappa(sums_kc: Floats) -> float:
    total = sums_kc.sum(axis=0)
    if not total[0]:
        return math.nan
    p, q, same = total[6] / total[0], total[7] / total[0], total[8] / total[0]
    chance = p * q + (1 - p) * (1 - q)
    return float((same - chance) / (1 - chance)) if chance < 1 else math.nan
