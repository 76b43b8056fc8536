"""How well a world ranks: agreement with a ground truth, every number with its interval and its N.

Takes outcomes of the same policies in truth and in the world, and compares means over policies and, where episodes are
matched (same policy, start and noise key), single episodes: how well those agree decides how much a world's rollouts
can replace true ones, and it can be poor while means agree. A number that does not exist says why.

Shape legend: K policies, N and M episodes, D bootstrap draws, C sums.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from worldsim.arrays import Float64s, Int64s
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.stats import correlation, intervals
from worldsim.stats.correlation import Means
from worldsim.stats.intervals import Estimate, Interval

_ALWAYS = ("bias", "mean_absolute_error")  # these have a value, if no interval, for any number of policies
_FEWEST = 3  # policies below which nothing can be said about an order


@dataclasses.dataclass(frozen=True, kw_only=True)
class Agreement:
    """All that can be said about one quantity.

    Attributes:
        quantity: ``"success"`` or ``"progress"``.
        policies: Policies compared.
        left_out: Rows without an outcome on one of the two sides.
        truth_rollouts: Fewest true rollouts of a compared policy.
        world_rollouts: Fewest world rollouts of a compared policy.
        k: Of ``recall`` and the regrets.
        epsilon: Of ``order_accuracy`` and ``recall_within_epsilon``.
        estimates: In reading order; look one up by name, as in ``agreement["pearson"]`` or by `get`.
    """

    quantity: str
    policies: int
    left_out: tuple[int, ...]
    truth_rollouts: int
    world_rollouts: int
    k: int
    epsilon: float
    estimates: tuple[Estimate, ...]

    def get(self, name: str) -> Estimate | None:
        """Return the estimate of that name; None where there is none."""
        return next((estimate for estimate in self.estimates if estimate.name == name), None)

    def __getitem__(self, name: str) -> Estimate:
        found = self.get(name)
        if found is None:
            raise unknown_name("estimate", name, [e.name for e in self.estimates])
        return found


@dataclasses.dataclass(frozen=True)
class _Statistic:
    """A formula, and what its interval redraws.

    ``policies`` redraws policies, each with its rollouts: for statements about policies like these. Their noise is
    redrawn with them; redrawing episodes as well would count it twice (measured: 72 % coverage of the mean absolute
    error at 50 rollouts, against 91 %). ``both`` redraws policies, then episodes: for MMRV, a mean of maxima, which
    redrawn policies alone underestimate (73 % against 91 % and more). ``episodes`` keeps the policies: for statements
    about just these, such as which of them are best.
    """

    formula: Callable[[Means], float]
    redraws: Literal["policies", "both", "episodes"] = "policies"


def measure_agreement(
    truth: ArrayLike,
    *,
    world: ArrayLike,
    k: int,
    matched: bool = False,
    quantity: Literal["success", "progress"] = "success",
    epsilon: float = 0.05,
    alpha: float = 0.05,
    draws: int = 1000,
) -> Agreement:
    """Compare a world with the truth on the same policies.

    Args:
        truth: [K, N] outcomes in 0..1, nan where there is none.
        world: [K, M] outcomes of the same policies.
        k: How many best policies are asked for; recall and regret need 1 <= k < K.
        matched: Column j is the same start and noise key in both, N = M: agreement of single episodes is added.
        quantity: What the outcomes are.
        epsilon: Difference that matters, in the outcome's unit.
        alpha: Probability to miss of each interval.
        draws: Bootstrap draws D. They depend on the outcomes alone: equal outcomes, equal intervals.

    Raises:
        InvalidInputError: Shapes disagree, outcomes lie outside 0..1, or a setting is out of range.
    """
    truth_KN, world_KM = _check(truth, world, matched=matched, k=k, alpha=alpha, draws=draws)
    usable = ~(np.isnan(truth_KN).all(axis=1) | np.isnan(world_KM).all(axis=1))
    truth_KN, world_KM = truth_KN[usable], world_KM[usable]
    policies = int(usable.sum())
    estimates: tuple[Estimate, ...] = ()
    if policies:
        generator = _generator(truth_KN, world_KM)
        chosen_DK = intervals.draw_policies(generator, draws=draws, count=policies)
        redrawn = intervals.draw_episode_means(
            generator, truth_KN=truth_KN, world_KN=world_KM, draws=draws, matched=matched
        )
        means = correlation.average_outcomes(truth_KN, world_KM, matched=matched)
        estimates = tuple(
            _estimate(name, statistic, means, chosen_DK, redrawn, alpha)
            for name, statistic in _statistics(k, epsilon).items()
        )
        if matched:
            binary = quantity == "success"
            estimates += _episode_estimates(truth_KN, world_KM, chosen_DK=chosen_DK, alpha=alpha, binary=binary)
    return Agreement(
        quantity=quantity,
        policies=policies,
        left_out=tuple(int(i) for i in np.flatnonzero(~usable)),
        truth_rollouts=int((~np.isnan(truth_KN)).sum(axis=1).min(initial=truth_KN.shape[1])) if policies else 0,
        world_rollouts=int((~np.isnan(world_KM)).sum(axis=1).min(initial=world_KM.shape[1])) if policies else 0,
        k=k,
        epsilon=epsilon,
        estimates=estimates,
    )


def _statistics(k: int, epsilon: float) -> Mapping[str, _Statistic]:
    """The table of what is reported, in reading order."""

    def plain(metric: Callable[..., float], **settings: float) -> Callable[[Means], float]:
        return lambda m: metric(truth=m.truth, world=m.world, **settings)

    def best(metric: Callable[..., float], **settings: float) -> Callable[[Means], float]:
        return lambda m: metric(truth=m.truth, world=m.world, k=k, **settings) if k < m.truth.size else math.nan

    return {
        "pearson": _Statistic(plain(correlation.pearson)),
        "noise_ceiling": _Statistic(correlation.noise_ceiling),
        "pearson_disattenuated": _Statistic(correlation.pearson_disattenuated),
        "pearson_without_extremes": _Statistic(correlation.pearson_without_extremes),
        "spearman": _Statistic(plain(correlation.spearman)),
        "kendall": _Statistic(plain(correlation.kendall)),
        "order_accuracy": _Statistic(plain(correlation.order_accuracy, gap=epsilon)),
        "mmrv": _Statistic(plain(correlation.mmrv), "both"),
        "bias": _Statistic(plain(correlation.bias)),
        "bias_spread": _Statistic(correlation.bias_spread),
        "mean_absolute_error": _Statistic(plain(correlation.mean_absolute_error)),
        "recall": _Statistic(best(correlation.recall), "episodes"),
        "recall_within_epsilon": _Statistic(best(correlation.recall, epsilon=epsilon), "episodes"),
        "regret": _Statistic(best(correlation.regret), "episodes"),
        "set_regret": _Statistic(best(correlation.set_regret), "episodes"),
    }


def _estimate(
    name: str,
    statistic: _Statistic,
    means: Means,
    chosen_DK: Int64s,
    redrawn: tuple[Float64s, Float64s],
    alpha: float,
) -> Estimate:
    """Value and interval of one statistic, or why there is none."""
    count = means.truth.size
    if count < _FEWEST:
        why = f"there are {count} policies, and it needs {_FEWEST}"
        known = statistic.formula(means) if name in _ALWAYS else None
        return Estimate(name=name, value=known, n=count, undefined=why)
    value = statistic.formula(means)
    if math.isnan(value):
        return Estimate(name=name, value=None, n=count, undefined=_why(name, means))
    interval: Interval | None
    if statistic.redraws == "policies":
        draws = np.array([statistic.formula(means.rows(chosen)) for chosen in chosen_DK])
        interval = intervals.bias_corrected_interval(draws, value=value, count=count, alpha=alpha)
    else:
        pairs = [dataclasses.replace(means, truth=r, world=s) for r, s in zip(*redrawn, strict=True)]
        if statistic.redraws == "both":
            pairs = [pair.rows(chosen) for pair, chosen in zip(pairs, chosen_DK, strict=True)]
        interval = intervals.percentile_interval(
            np.array([statistic.formula(p) for p in pairs]), value=value, alpha=alpha
        )
    return Estimate.of(name, value=value, interval=interval, n=count)


def _episode_estimates(
    truth_KN: Float64s, world_KN: Float64s, *, chosen_DK: Int64s, alpha: float, binary: bool
) -> tuple[Estimate, ...]:
    """Measure agreement on the episodes known to both; intervals redraw policies with all their episodes.

    Args:
        truth_KN: [K, N] outcomes in 0..1, nan where there is none.
        world_KN: [K, N] outcomes of the same pairs.
        chosen_DK: int64 [D, K] bootstrap draws of policies.
        alpha: Probability to miss of each interval.
        binary: Outcomes are solved or not: accuracy and Cohen's kappa are reported besides the correlations.

    Returns:
        ``episode_phi``, the correlation over all pairs (phi, for binary outcomes); ``episode_phi_within``, the same
        after taking out each policy's means, so that differences between policies do not count as agreement;
        ``episode_accuracy`` and ``episode_kappa`` where binary.
    """
    sums_KC = _sums(truth_KN, world_KN)
    statistics = {"episode_phi": _phi, "episode_phi_within": _phi_within}
    if binary:
        statistics |= {"episode_accuracy": _accuracy, "episode_kappa": _kappa}
    n = int(sums_KC[:, 0].sum())
    found = []
    for name, statistic in statistics.items():
        value = statistic(sums_KC) if n else math.nan
        if math.isnan(value):
            why = "one side has the same outcome in every episode" if n else "no episode is known to both sides"
            found.append(Estimate(name=name, value=None, n=n, undefined=why))
            continue
        draws = np.array([statistic(sums_KC[chosen]) for chosen in chosen_DK])
        interval = intervals.bias_corrected_interval(draws, value=value, count=len(sums_KC), alpha=alpha)
        found.append(Estimate.of(name, value=value, interval=interval, n=n))
    return tuple(found)


def _sums(truth_KN: Float64s, world_KN: Float64s) -> Float64s:
    """Per policy: n, sums of r, s, r s, r r, s s, and of solved r, solved s, both alike. Returns [K, 9]."""
    both = ~(np.isnan(truth_KN) | np.isnan(world_KN))
    r, s = np.where(both, truth_KN, 0.0), np.where(both, world_KN, 0.0)
    solved_r, solved_s = both & (r >= correlation.SOLVED), both & (s >= correlation.SOLVED)
    parts = (both, r, s, r * s, r * r, s * s, solved_r, solved_s, both & (solved_r == solved_s))
    return np.stack([part.sum(axis=1).astype(np.float64) for part in parts], axis=1)


def _correlation(rs: float, rr: float, ss: float) -> float:
    return rs / math.sqrt(rr * ss) if rr > 1e-12 and ss > 1e-12 else math.nan


def _phi(sums_KC: Float64s) -> float:
    n, r, s, rs, rr, ss, *_ = sums_KC.sum(axis=0)
    return _correlation(rs - r * s / n, rr - r * r / n, ss - s * s / n) if n else math.nan


def _phi_within(sums_KC: Float64s) -> float:
    known = sums_KC[sums_KC[:, 0] > 0]
    n, r, s, rs, rr, ss, *_ = known.T
    return _correlation(float((rs - r * s / n).sum()), float((rr - r * r / n).sum()), float((ss - s * s / n).sum()))


def _accuracy(sums_KC: Float64s) -> float:
    total = sums_KC.sum(axis=0)
    return float(total[8] / total[0]) if total[0] else math.nan


def _kappa(sums_KC: Float64s) -> float:
    total = sums_KC.sum(axis=0)
    if not total[0]:
        return math.nan
    p, q, same = total[6] / total[0], total[7] / total[0], total[8] / total[0]
    chance = p * q + (1 - p) * (1 - q)
    return float((same - chance) / (1 - chance)) if chance < 1 else math.nan


def _why(name: str, means: Means) -> str:
    """Say why a statistic is undefined."""
    if name == "order_accuracy":
        return "no two policies differ in truth by the gap asked for"
    if name.startswith(("recall", "regret", "set_regret")):
        return "k is not smaller than the number of policies"
    if name == "pearson_without_extremes" and means.truth.size < correlation.FEWEST_INNER:
        return "too few policies remain without the two extremes"
    if np.ptp(means.truth) == 0:
        return "all policies are equal in truth"
    if np.ptp(means.world) == 0:
        return "all policies are equal in the world"
    if np.isnan(means.truth_noise).any() or np.isnan(means.world_noise).any():
        return "a policy has a single rollout, so its noise is unknown"
    return "the policies differ no more than sampling noise would make them"


def _check(
    truth: ArrayLike, world: ArrayLike, *, matched: bool, k: int, alpha: float, draws: int
) -> tuple[Float64s, Float64s]:
    truth_KN, world_KM = np.asarray(truth, dtype=np.float64), np.asarray(world, dtype=np.float64)
    shapes = f"{truth_KN.shape} and {world_KM.shape}"
    if truth_KN.ndim != 2 or world_KM.ndim != 2 or len(truth_KN) != len(world_KM):
        raise InvalidInputError(f"truth [K, N] and world [K, M] need one row per policy each; got {shapes}.")
    if matched and truth_KN.shape != world_KM.shape:
        raise InvalidInputError(f"Matched outcomes need one column per shared episode; got {shapes}.")
    for name, values in (("truth", truth_KN), ("world", world_KM)):
        if bool(((values < 0) | (values > 1)).any()):
            raise InvalidInputError(f"Outcomes of {name} must lie in 0..1, or be nan where there is none.")
    if k < 1 or draws < 1 or not 0 < alpha < 1:
        raise InvalidInputError(f"Needs k and draws of at least 1 and alpha in (0, 1); got {k}, {draws}, {alpha}.")
    return truth_KN, world_KM


def _generator(truth_KN: Float64s, world_KM: Float64s) -> np.random.Generator:
    """A generator that depends on the outcomes alone."""
    sha = hashlib.sha256(repr((truth_KN.shape, world_KM.shape)).encode())
    for values in (truth_KN, world_KM):
        sha.update(np.where(np.isnan(values), -1.0, values).astype("<f8").tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(sha.digest()[:16], "little")))
