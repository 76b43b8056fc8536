"""The bootstrap of `agreement`: resampled policies and episodes, and intervals from the draws.

Shape legend: D draws, K policies, N episodes.
"""

import math

import numpy as np
from scipy import special

from worldsim.arrays import Float64s, Int64s
from worldsim.stats.intervals import Interval


def draw_policies(generator: np.random.Generator, *, draws: int, count: int) -> Int64s:
    """Draw policies with replacement: int64 [D, K]."""
    return np.asarray(generator.integers(0, count, size=(draws, count)), dtype=np.int64)


def draw_episode_means(
    generator: np.random.Generator, *, truth_KN: Float64s, world_KN: Float64s, draws: int, matched: bool
) -> tuple[Float64s, Float64s]:
    """Draw each policy's episodes with replacement and average them.

    Args:
        generator: Source of the draws.
        truth_KN: [K, N] outcomes, nan where there is none; every policy has at least one.
        world_KN: [K, M] outcomes of the same policies.
        draws: D.
        matched: Column j is the same episode in both: draw the same columns for both, where both know the same ones.

    Returns:
        Means of truth and world, float64 [D, K] each.
    """
    together = matched and bool((np.isnan(truth_KN) == np.isnan(world_KN)).all())
    packed_r, n_r = _pack(truth_KN)
    packed_s, n_s = _pack(world_KN)
    means_r, means_s = np.empty((draws, len(n_r))), np.empty((draws, len(n_s)))
    for d in range(draws):
        pick_r = generator.random(packed_r.shape)
        means_r[d] = _pick_mean(packed_r, n_r, pick_r)
        means_s[d] = _pick_mean(packed_s, n_s, pick_r if together else generator.random(packed_s.shape))
    return means_r, means_s


def bias_corrected_interval(draws: Float64s, *, value: float, count: int, alpha: float) -> Interval | None:
    """Bias-corrected percentile interval (Efron, Canad. J. Stat. 9, 1981), expanded for few policies.

    The quantiles are those of a t distribution with count - 1 degrees of freedom and its sqrt(count / (count - 1)),
    which undoes the narrowness of the bootstrap for small samples (Hesterberg, Am. Stat. 69, 2015, section 4.2).

    Args:
        draws: [D] bootstrap values; nan where undefined.
        value: The estimate.
        count: Independent units that were drawn.
        alpha: Probability to miss, in (0, 1).

    Returns:
        The interval, or None where fewer than half of the draws are defined or there is a single unit.
    """
    known = draws[~np.isnan(draws)]
    if known.size * 2 < draws.size or known.size == 0 or count < 2:
        return None
    below = float((known < value).sum() + 0.5 * (known == value).sum())
    shift = float(special.ndtri(min(max(below, 0.5), known.size - 0.5) / known.size))
    reach = float(-special.stdtrit(count - 1, alpha / 2)) * math.sqrt(count / (count - 1))
    low, high = np.quantile(known, special.ndtr(np.array([2 * shift - reach, 2 * shift + reach])))
    return Interval(float(low), float(high))


def percentile_interval(draws: Float64s, *, value: float, alpha: float) -> Interval | None:
    """Percentile interval, widened where needed to hold the estimate; None where fewer than half of the draws are."""
    known = draws[~np.isnan(draws)]
    if known.size * 2 < draws.size or known.size == 0:
        return None
    low, high = np.quantile(known, [alpha / 2, 1 - alpha / 2])
    return Interval(min(float(low), value), max(float(high), value))


def _pack(values_KN: Float64s) -> tuple[Float64s, Int64s]:
    """Move the known values of each row to its front. Returns [K, max count] and counts [K]."""
    known = ~np.isnan(values_KN)
    count = known.sum(axis=1)
    front = np.argsort(~known, axis=1, kind="stable")[:, : int(count.max())]
    return np.nan_to_num(np.take_along_axis(values_KN, front, axis=1)), np.asarray(count, dtype=np.int64)


def _pick_mean(packed_KN: Float64s, count: Int64s, pick_KN: Float64s) -> Float64s:
    """Mean of count[i] values of row i, chosen with replacement by uniforms [K, max count]."""
    index = np.minimum((pick_KN * count[:, None]).astype(np.int64), count[:, None] - 1)
    used = np.arange(packed_KN.shape[1]) < count[:, None]
    picked = np.where(used, np.take_along_axis(packed_KN, index, axis=1), 0.0)
    return np.asarray(picked.sum(axis=1) / count, dtype=np.float64)
