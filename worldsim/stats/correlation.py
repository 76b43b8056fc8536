"""How well one set of policy scores predicts another: the statistics, one function each.

Every function takes the truth and the world by keyword, because some are not symmetric and mixing them up is a known
error. Values are success rates or mean progress in 0..1, one per policy. A statistic that does not exist
for its input (a constant vector, too few policies) is nan, silently; `agreement` says why, and adds intervals. Those of
`Means` also say how much sampling noise in the policies' means lowers a correlation, and are net of it.

Shape legend: K policies, N and M episodes.
"""

import dataclasses
import math

import numpy as np
from numpy.typing import ArrayLike

from worldsim.arrays import Float64s, Int64s
from worldsim.errors import InvalidInputError

SOLVED = 0.5
"""An outcome of at least this counts as solved, where solved or not is asked."""
FEWEST_INNER = 5  # policies below which nothing is said of those between the extremes


def pearson(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Pearson's correlation. Blind to offset and scale, and ruled by extremes: one broken policy lifts it."""
    r, s = _vectors(truth, world)
    r, s = r - r.mean(), s - s.mean()
    size = math.sqrt(float(r @ r) * float(s @ s))
    return max(-1.0, min(1.0, float(r @ s) / size)) if size > 1e-15 * r.size else math.nan


def spearman(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of mid-ranks."""
    r, s = _vectors(truth, world)
    return pearson(truth=_mid_ranks(r), world=_mid_ranks(s))


def _mid_ranks(x: Float64s) -> Float64s:
    """Ranks from 1, equal values sharing the mean of theirs. As `scipy.stats.rankdata`, whose import takes .7 s of every process."""
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]


def kendall(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Kendall's tau-b: (C - D) / sqrt((P - T_truth) (P - T_world)) of P pairs, T of them tied in one."""
    r, s = _vectors(truth, world)
    upper = np.triu_indices(r.size, 1)
    sign_r, sign_s = np.sign(r[upper[0]] - r[upper[1]]), np.sign(s[upper[0]] - s[upper[1]])
    size = math.sqrt(float((sign_r != 0).sum()) * float((sign_s != 0).sum()))
    return float(sign_r @ sign_s) / size if size > 0 else math.nan


def mmrv(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Mean maximum rank violation, in units of the truth's success rate; 0 is best.

    Li et al., "Evaluating real-world robot manipulation policies in simulation" (SIMPLER, 2024): the mean over i of the
    greatest gap in truth over those j whose order against i differs between world and truth. Orders are
    compared by strict ``>``, so a tie in the world is charged to the truly better policy of the pair.
    """
    r, s = _vectors(truth, world)
    wrong = (s[:, None] > s) != (r[:, None] > r)
    return float(np.where(wrong, np.abs(r[:, None] - r), 0.0).max(axis=1).mean())


def bias(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Mean of world minus truth: positive where the world is optimistic."""
    r, s = _vectors(truth, world)
    return float((s - r).mean())


def mean_absolute_error(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Mean distance of world and truth."""
    r, s = _vectors(truth, world)
    return float(np.abs(s - r).mean())


def order_accuracy(*, truth: ArrayLike, world: ArrayLike, gap: float = 0.05) -> float:
    """Share of the pairs at least `gap` apart in truth that the world orders rightly; its ties count half."""
    r, s = _vectors(truth, world)
    upper = np.triu_indices(r.size, 1)
    apart, sign_s = r[upper[0]] - r[upper[1]], np.sign(s[upper[0]] - s[upper[1]])
    asked = np.abs(apart) >= max(gap, 1e-12)
    if not asked.any():
        return math.nan
    return float(((1 + np.sign(apart[asked]) * sign_s[asked]) / 2).mean())


def recall(*, truth: ArrayLike, world: ArrayLike, k: int, epsilon: float = 0.0) -> float:
    """Share of the world's best k whose truth is at most `epsilon` below the k-th best truth.

    Policies tied at the world's boundary are taken in equal parts, so the result does not depend on their order.
    """
    r, s = _vectors(truth, world)
    k = _check_k(k, r.size)
    good = r >= np.sort(r)[-k] - epsilon - 1e-12
    return float((top_k_membership(s, k=k) * good).sum() / k)


def regret(*, truth: ArrayLike, world: ArrayLike, k: int) -> float:
    """Best truth of all minus best truth among the world's best k (Fu et al., DOPE, 2021); ties are lost."""
    r, s = _vectors(truth, world)
    k = _check_k(k, r.size)
    worst_first_among_ties = np.lexsort((r, -s))[:k]
    return float(r.max() - r[worst_first_among_ties].max())


def set_regret(*, truth: ArrayLike, world: ArrayLike, k: int) -> float:
    """Mean truth of the truly best k minus mean truth of the world's best k."""
    r, s = _vectors(truth, world)
    k = _check_k(k, r.size)
    return max(0.0, float(np.sort(r)[-k:].mean() - (top_k_membership(s, k=k) * r).sum() / k))


def top_k_membership(values: ArrayLike, *, k: int) -> Float64s:
    """Membership [K] in the best k, in 0..1: those tied at the boundary share the places that are left."""
    v = np.asarray(values, dtype=np.float64)
    boundary = np.sort(v)[-_check_k(k, v.size)]
    above, tied = v > boundary, v == boundary
    return np.asarray(above + tied * (k - above.sum()) / tied.sum(), dtype=np.float64)


def _vectors(truth: ArrayLike, world: ArrayLike) -> tuple[Float64s, Float64s]:
    """Check that both are vectors of one length without nan."""
    r, s = np.asarray(truth, dtype=np.float64), np.asarray(world, dtype=np.float64)
    if r.ndim != 1 or r.shape != s.shape or r.size == 0:
        raise InvalidInputError(f"truth and world need one value per policy each; got shapes {r.shape} and {s.shape}.")
    if np.isnan(r).any() or np.isnan(s).any():
        raise InvalidInputError("truth and world must be numbers; leave out policies that have none.")
    return r, s


def _check_k(k: int, policies: int) -> int:
    if not 1 <= k <= policies:
        raise InvalidInputError(f"k must lie in 1..{policies}, the number of policies; got {k}.")
    return k


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
