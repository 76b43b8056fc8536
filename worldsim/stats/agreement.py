"""How far a world may be trusted to rank: agreement with a ground truth, every number with its interval and its N.

Takes outcomes of the same policies in truth and in the world. A number that does not exist says why. The bare formulas
are in `metrics`, single episodes in `episodes`, intervals of single success rates in `intervals`.

Shape legend: K policies, N and M episodes, D bootstrap draws.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldsim.errors import InvalidInputError, unknown_name
from worldsim.stats import bootstrap as resample
from worldsim.stats import correlation as metrics
from worldsim.stats.attenuation import (
    INNER,
    Means,
    bias_spread,
    disattenuated,
    noise_ceiling,
    pearson_without_extremes,
    policy_means,
)
from worldsim.stats.estimate import Estimate
from worldsim.stats.intervals import Interval
from worldsim.stats.paired import episode_estimates

__all__ = ["Agreement", "Estimate", "agreement_report"]

Floats = NDArray[np.float64]
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
        estimates: In reading order; look one up by name, as in ``agreement["pearson"]``.
    """

    quantity: str
    policies: int
    left_out: tuple[int, ...]
    truth_rollouts: int
    world_rollouts: int
    k: int
    epsilon: float
    estimates: tuple[Estimate, ...]

    def __getitem__(self, name: str) -> Estimate:
        for estimate in self.estimates:
            if estimate.name == name:
                return estimate
        raise unknown_name("estimate", name, [e.name for e in self.estimates])


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


def agreement_report(
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
    truth_kn, world_km = _check(truth, world, matched=matched, k=k, alpha=alpha, draws=draws)
    usable = ~(np.isnan(truth_kn).all(axis=1) | np.isnan(world_km).all(axis=1))
    truth_kn, world_km = truth_kn[usable], world_km[usable]
    policies = int(usable.sum())
    estimates: tuple[Estimate, ...] = ()
    if policies:
        generator = _generator(truth_kn, world_km)
        chosen_dk = resample.policies(generator, draws=draws, count=policies)
        redrawn = resample.episode_means(generator, truth_kn=truth_kn, world_kn=world_km, draws=draws, matched=matched)
        means = policy_means(truth_kn, world_km, matched=matched)
        estimates = tuple(
            _estimate(name, statistic, means, chosen_dk, redrawn, alpha)
            for name, statistic in _statistics(k, epsilon).items()
        )
        if matched:
            binary = quantity == "success"
            estimates += episode_estimates(truth_kn, world_km, chosen_dk=chosen_dk, alpha=alpha, binary=binary)
    return Agreement(
        quantity=quantity,
        policies=policies,
        left_out=tuple(int(i) for i in np.flatnonzero(~usable)),
        truth_rollouts=int((~np.isnan(truth_kn)).sum(axis=1).min(initial=truth_kn.shape[1])) if policies else 0,
        world_rollouts=int((~np.isnan(world_km)).sum(axis=1).min(initial=world_km.shape[1])) if policies else 0,
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
        "pearson": _Statistic(plain(metrics.pearson)),
        "noise_ceiling": _Statistic(noise_ceiling),
        "pearson_disattenuated": _Statistic(disattenuated),
        "pearson_without_extremes": _Statistic(pearson_without_extremes),
        "spearman": _Statistic(plain(metrics.spearman)),
        "kendall": _Statistic(plain(metrics.kendall)),
        "order_accuracy": _Statistic(plain(metrics.order_accuracy, gap=epsilon)),
        "mmrv": _Statistic(plain(metrics.mmrv), "both"),
        "bias": _Statistic(plain(metrics.bias)),
        "bias_spread": _Statistic(bias_spread),
        "mean_absolute_error": _Statistic(plain(metrics.mean_absolute_error)),
        "recall": _Statistic(best(metrics.recall), "episodes"),
        "recall_within_epsilon": _Statistic(best(metrics.recall, epsilon=epsilon), "episodes"),
        "regret": _Statistic(best(metrics.regret), "episodes"),
        "set_regret": _Statistic(best(metrics.set_regret), "episodes"),
    }


def _estimate(
    name: str,
    statistic: _Statistic,
    means: Means,
    chosen_dk: NDArray[np.int64],
    redrawn: tuple[Floats, Floats],
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
        draws = np.array([statistic.formula(means.rows(chosen)) for chosen in chosen_dk])
        interval = resample.bias_corrected(draws, value=value, count=count, alpha=alpha)
    else:
        pairs = [dataclasses.replace(means, truth=r, world=s) for r, s in zip(*redrawn, strict=True)]
        if statistic.redraws == "both":
            pairs = [pair.rows(chosen) for pair, chosen in zip(pairs, chosen_dk, strict=True)]
        interval = resample.around(np.array([statistic.formula(p) for p in pairs]), value=value, alpha=alpha)
    return Estimate.of(name, value=value, interval=interval, n=count)


def _why(name: str, means: Means) -> str:
    """Say why a statistic is undefined."""
    if name == "order_accuracy":
        return "no two policies differ in truth by the gap asked for"
    if name.startswith(("recall", "regret", "set_regret")):
        return "k is not smaller than the number of policies"
    if name == "pearson_without_extremes" and means.truth.size < INNER:
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
) -> tuple[Floats, Floats]:
    truth_kn, world_km = np.asarray(truth, dtype=np.float64), np.asarray(world, dtype=np.float64)
    shapes = f"{truth_kn.shape} and {world_km.shape}"
    if truth_kn.ndim != 2 or world_km.ndim != 2 or len(truth_kn) != len(world_km):
        raise InvalidInputError(f"truth [K, N] and world [K, M] need one row per policy each; got {shapes}.")
    if matched and truth_kn.shape != world_km.shape:
        raise InvalidInputError(f"Matched outcomes need one column per shared episode; got {shapes}.")
    for name, values in (("truth", truth_kn), ("world", world_km)):
        if bool(((values < 0) | (values > 1)).any()):
            raise InvalidInputError(f"Outcomes of {name} must lie in 0..1, or be nan where there is none.")
    if k < 1 or draws < 1 or not 0 < alpha < 1:
        raise InvalidInputError(f"Needs k and draws of at least 1 and alpha in (0, 1); got {k}, {draws}, {alpha}.")
    return truth_kn, world_km


def _generator(truth_kn: Floats, world_km: Floats) -> np.random.Generator:
    """A generator that depends on the outcomes alone."""
    sha = hashlib.sha256(repr((truth_kn.shape, world_km.shape)).encode())
    for values in (truth_kn, world_km):
        sha.update(np.where(np.isnan(values), -1.0, values).astype("<f8").tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(sha.digest()[:16], "little")))
