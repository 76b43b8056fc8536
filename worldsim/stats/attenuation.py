"""Attenuation: how much sampling noise in the policies' means lowers a correlation, and the statistics net of it.

Shape legend: K policies, N and M episodes.
"""

import dataclasses
import math

import numpy as np

from worldsim.arrays import Float64s, Int64s
from worldsim.stats.correlation import pearson

FEWEST_INNER = 5  # policies below which nothing is said of those between the extremes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Means:
    """Mean of each policy on both sides, and the sampling (co)variance of the means; nan from a single rollout."""

    truth: Float64s  # [K]
    world: Float64s  # [K]
    truth_noise: Float64s  # [K]
    world_noise: Float64s  # [K]
    shared_noise: Float64s  # [K], covariance of the two means; 0 where rollouts are not matched

    def rows(self, index: Int64s) -> "Means":
        """Return the policies at `index`, in that order."""
        return Means(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})


def _spread(means: Means) -> float:
    """Product of both sides' standard deviations between policies, net of noise; nan where noise explains it all."""
    truth = float(means.truth.var(ddof=1) - means.truth_noise.mean())
    world = float(means.world.var(ddof=1) - means.world_noise.mean())
    return math.sqrt(truth * world) if truth > 0 and world > 0 else math.nan


def noise_ceiling(means: Means) -> float:
    """Correlation that a perfect world would be expected to show with these rollouts.

    Spearman's attenuation (Am. J. Psychol. 15, 1904); where rollouts are matched, the noise they share counts in
    favour.
    """
    seen = math.sqrt(float(means.truth.var(ddof=1)) * float(means.world.var(ddof=1)))
    return float(np.minimum(1.0, (_spread(means) + float(means.shared_noise.mean())) / seen)) if seen > 0 else math.nan


def pearson_disattenuated(means: Means) -> float:
    """Pearson's r between policies net of noise: the limit of many rollouts. Noise can lift it above 1."""
    seen = float(np.cov(means.truth, means.world)[0, 1])
    return (seen - float(means.shared_noise.mean())) / _spread(means)


def pearson_without_extremes(means: Means) -> float:
    """Pearson's r without the truly best and the truly worst policy."""
    if means.truth.size < FEWEST_INNER:
        return math.nan
    inner = np.sort(np.argsort(means.truth, kind="stable")[1:-1])
    return pearson(truth=means.truth[inner], world=means.world[inner])


def bias_spread(means: Means) -> float:
    """Standard deviation of the bias between policies, net of noise: what reorders them."""
    noise = float((means.truth_noise + means.world_noise - 2 * means.shared_noise).mean())
    return math.sqrt(max(0.0, float((means.world - means.truth).var(ddof=1)) - noise)) if noise >= 0 else math.nan


def average_outcomes(truth_KN: Float64s, world_KM: Float64s, *, matched: bool) -> Means:
    """Average the outcomes of each policy, nan left out; every policy needs at least one on each side.

    Args:
        truth_KN: [K, N] outcomes.
        world_KM: [K, M] outcomes.
        matched: Column j is the same episode in both, so that their noise may be shared.
    """
    (truth, truth_noise), (world, world_noise) = _moments(truth_KN), _moments(world_KM)
    shared = np.zeros_like(truth)
    if matched:
        product = np.nan_to_num((truth_KN - truth[:, None]) * (world_KM - world[:, None]))
        n_truth, n_world = (~np.isnan(truth_KN)).sum(axis=1), (~np.isnan(world_KM)).sum(axis=1)
        shared = product.sum(axis=1) / np.maximum(n_truth * (n_world - 1), 1)
    return Means(truth=truth, world=world, truth_noise=truth_noise, world_noise=world_noise, shared_noise=shared)


def _moments(values_KN: Float64s) -> tuple[Float64s, Float64s]:
    """Mean of each row, and the sampling variance of that mean."""
    n = (~np.isnan(values_KN)).sum(axis=1)
    mean = np.nansum(values_KN, axis=1) / n
    square = np.nansum((values_KN - mean[:, None]) ** 2, axis=1)
    return mean, np.divide(square, (n - 1) * n, out=np.full(n.shape, np.nan), where=n > 1)
