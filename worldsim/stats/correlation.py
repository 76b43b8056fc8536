"""How well one set of policy scores predicts another: the statistics, one function each.

Every function takes the truth and the world by keyword, because some are not symmetric and mixing them up is a known
error. Values are success rates or mean progress in 0..1, one per policy. A statistic that does not exist
for its input (a constant vector, too few policies) is nan, silently; `agreement` says why, and adds intervals.

Shape legend: K policies.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from worldsim.arrays import Float64s
from worldsim.errors import InvalidInputError

SOLVED = 0.5
"""An outcome of at least this counts as solved, where solved or not is asked."""


def pearson(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Pearson's correlation. Blind to offset and scale, and ruled by extremes: one broken policy lifts it."""
    r, s = _vectors(truth, world)
    r, s = r - r.mean(), s - s.mean()
    size = math.sqrt(float(r @ r) * float(s @ s))
    return max(-1.0, min(1.0, float(r @ s) / size)) if size > 1e-15 * r.size else math.nan


def spearman(*, truth: ArrayLike, world: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson's of mid-ranks."""
    r, s = _vectors(truth, world)
    return pearson(truth=stats.rankdata(r), world=stats.rankdata(s))


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
