"""Intervals of success rates, of bounded means and from bootstrap draws, and the estimate that carries one.

Fixed-n intervals hold where the number of rollouts was fixed in advance. Confidence sequences hold at all times at
once, so that one may peek, stop and allocate adaptively.

Shape legend: K policies, N rollouts of each, D bootstrap draws.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from worldsim.arrays import Bools, Float64s, Int64s
from worldsim.errors import InvalidInputError

_BISECTIONS = 60  # halvings of [0, 1]: the ends are exact to float64
_TRUNCATION = 0.5  # c of the betting sequence: no bet risks more than half of the capital
_TINY = 1e-12


@dataclasses.dataclass(frozen=True)
class Interval:
    """A closed interval."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """High - low."""
        return self.high - self.low

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its uncertainty.

    Attributes:
        name: What it is.
        value: None where it is undefined.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        n: Independent units behind it: policies, or matched episodes for ``episode_...``.
        undefined: Why there is no value, or no interval; empty otherwise.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int
    undefined: str = ""

    @classmethod
    def of(cls, name: str, *, value: float, interval: Interval | None, n: int, undefined: str = "") -> "Estimate":
        """Build an estimate; `undefined` is kept only where the interval is missing."""
        if interval is None:
            return cls(name=name, value=value, n=n, undefined=undefined or "too few of its bootstrap draws are defined")
        return cls(name=name, value=value, low=interval.low, high=interval.high, n=n)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name} undefined because {self.undefined} (n = {self.n})"
        span = f"{self.low:.3f} .. {self.high:.3f}" if self.low is not None else f"no interval because {self.undefined}"
        return f"{self.name} {self.value:.3f} ({span}, n = {self.n})"


def clopper_pearson(wins: ArrayLike, count: ArrayLike, *, alpha: float = 0.05) -> tuple[Float64s, Float64s]:
    """Exact fixed-n interval of a success rate (Clopper and Pearson, Biometrika 26, 1934).

    Args:
        wins: [K] successes; fractional sums of probabilities are taken as they are.
        count: [K] rollouts; 0 gives the interval 0..1.
        alpha: Probability to miss, in (0, 1).

    Returns:
        Lower and upper ends, float64 [K].

    Raises:
        InvalidInputError: wins lie outside 0..count, or alpha outside (0, 1).
    """
    k, n = _counts(wins, count, alpha)
    low = np.where(k > 0, special.betaincinv(np.maximum(k, 1e-12), n - k + 1, alpha / 2), 0.0)
    high = np.where(k < n, special.betaincinv(k + 1, np.maximum(n - k, 1e-12), 1 - alpha / 2), 1.0)
    return low, high


def confidence_sequence(wins: ArrayLike, count: ArrayLike, *, alpha: float = 0.05) -> tuple[Float64s, Float64s]:
    """Anytime-valid interval of a success rate: the beta-binomial mixture, in closed form.

    The set of all p with B(k + 1, n - k + 1) / (p^k (1 - p)^(n - k)) < 1 / alpha, where B is the beta function: the
    likelihood ratio of a uniform mixture against p is a martingale, and Ville's inequality bounds how high it may ever
    climb (Robbins, Ann. Math. Stat. 41, 1970, for the method of mixtures; Howard, Ramdas, McAuliffe and Sekhon, Ann.
    Stat. 49, 2021, for its use as a confidence sequence). For outcomes in [0, 1] that are not 0 or 1 the ratio is a
    supermartingale by convexity, so the interval stays valid. It depends on the sums only, not on their order.

    Args:
        wins: [K] sums of outcomes.
        count: [K] rollouts; 0 gives the interval 0..1.
        alpha: Probability to ever miss, in (0, 1); divide it by K to cover K policies at once.

    Returns:
        Lower and upper ends, float64 [K].

    Raises:
        InvalidInputError: wins lie outside 0..count, or alpha outside (0, 1).
    """
    k, n = _counts(wins, count, alpha)
    mixture = special.betaln(k + 1, n - k + 1) + math.log(alpha)
    mean = np.divide(k, n, out=np.full(k.shape, 0.5), where=n > 0)

    def rejected(p: Float64s) -> Bools:
        return np.asarray(special.xlogy(k, p) + special.xlog1py(n - k, -p) <= mixture)

    low = _bisect(rejected, outside=np.zeros_like(mean), inside=mean)
    high = _bisect(rejected, outside=np.ones_like(mean), inside=mean)
    return low, high


def mean_sequence(values_KN: ArrayLike, *, alpha: float = 0.05) -> tuple[Float64s, Float64s]:
    """Anytime-valid interval of the mean of values in [0, 1]: the hedged betting confidence sequence.

    Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", JRSS-B 86, 2024 (arXiv
    2010.09686), Theorem 3: the wealths of bets above and below m, K+ = prod(1 + min(b_i, c/m) (x_i - m)) and K- =
    prod(1 - min(b_i, c/(1-m)) (x_i - m)), each on half of the capital, with c = 1/2 and the predictable plug-in bets
    b_t = sqrt(2 log(2/alpha) / (v_(t-1) t log(1 + t))), v the running variance. K+ falls and K- rises with m, so both
    ends are found by bisection. Values are taken in column order, which must not depend on what they are: the frozen
    order of the episode table, never the order in which rollouts finished.

    Args:
        values_KN: [K, N] values in 0..1; nan where there is none (skipped).
        alpha: Probability to ever miss, in (0, 1).

    Returns:
        Lower and upper ends, float64 [K]; 0..1 for a row without values. The running intersection is not taken: the
        interval is the one at the last value.

    Raises:
        InvalidInputError: A value lies outside 0..1, the array is not two-dimensional, or alpha is outside (0, 1).
    """
    _check_alpha(alpha)
    x_KN = np.asarray(values_KN, dtype=np.float64)
    if x_KN.ndim != 2 or bool(((x_KN < 0) | (x_KN > 1)).any()):
        raise InvalidInputError(f"mean_sequence needs values [K, N] in 0..1; got shape {x_KN.shape}.")
    known_KN = ~np.isnan(x_KN)
    x_KN = np.where(known_KN, x_KN, 0.0)
    stake_KN = np.where(known_KN, _stakes(x_KN, known_KN, alpha), 0.0)
    limit = math.log(2 / alpha)  # each side holds half of the capital

    def too_low(m: Float64s) -> Bools:
        bet_KN = np.minimum(stake_KN, _TRUNCATION / np.maximum(m, _TINY)[:, None])
        return np.asarray(np.log1p(bet_KN * (x_KN - m[:, None])).sum(axis=1) >= limit)

    def too_high(m: Float64s) -> Bools:
        bet_KN = np.minimum(stake_KN, _TRUNCATION / np.maximum(1 - m, _TINY)[:, None])
        return np.asarray(np.log1p(-bet_KN * (x_KN - m[:, None])).sum(axis=1) >= limit)

    zero, one = np.zeros(len(x_KN)), np.ones(len(x_KN))
    return _bisect(too_low, outside=zero, inside=one), _bisect(too_high, outside=one, inside=zero)


def _stakes(x_KN: Float64s, known_KN: Bools, alpha: float) -> Float64s:
    """Predictable plug-in bets [K, N], before truncation: each is fixed before its value is seen."""
    t_KN = np.cumsum(known_KN, axis=1)
    mean_KN = (0.5 + np.cumsum(x_KN, axis=1)) / (t_KN + 1)
    square_KN = np.where(known_KN, (x_KN - mean_KN) ** 2, 0.0)
    spread_KN = (0.25 + np.cumsum(square_KN, axis=1)) / (t_KN + 1)
    before_KN = np.concatenate([np.full((len(x_KN), 1), 0.25), spread_KN[:, :-1]], axis=1)
    t_KN = np.maximum(t_KN, 1)
    return np.asarray(np.sqrt(2 * math.log(2 / alpha) / (before_KN * t_KN * np.log1p(t_KN))))


def _bisect(rejected: Callable[[Float64s], Bools], *, outside: Float64s, inside: Float64s) -> Float64s:
    """Find where `rejected` begins between `inside` (kept) and `outside`; the answer errs outwards."""
    for _ in range(_BISECTIONS):
        middle = (outside + inside) / 2
        out = rejected(middle)
        outside, inside = np.where(out, middle, outside), np.where(out, inside, middle)
    return outside


def _counts(wins: ArrayLike, count: ArrayLike, alpha: float) -> tuple[Float64s, Float64s]:
    """Check and broadcast successes and rollouts."""
    _check_alpha(alpha)
    k, n = np.broadcast_arrays(np.asarray(wins, dtype=np.float64), np.asarray(count, dtype=np.float64))
    if not bool(((k >= 0) & (k <= n)).all()):
        raise InvalidInputError("Successes must lie in 0..rollouts for every policy.")
    return k, n


def _check_alpha(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidInputError(f"alpha is the probability to miss and must lie in (0, 1); got {alpha}.")


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
