"""Success rates corrected for a judge's errors.

Two ways. Where some episodes were also run in the truth, the judge's verdict is a prediction and the truth corrects it:
PPI++, which never trusts the judge more than the paired episodes warrant, and corrects the world's error with the
judge's. Else the judge's known sensitivity and specificity correct its rate: Rogan-Gladen, which corrects the judge and
not the world.

Shape legend: K policies, n paired episodes, M others.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy import special

from worldsim.arrays import Float64s, Int64s
from worldsim.errors import InvalidInputError
from worldsim.stats.correlation import SOLVED
from worldsim.stats.intervals import Interval, clopper_pearson
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.ranking.evidence import Evidence, row_means
from worldsim.triage.ranking.measured import interval_from_percent, interval_to_percent, round_number

Method = Literal["truth", "rates"]
_FEWEST = 2  # true episodes of a policy from which the truth corrects
_PAIRS = 8  # degrees of freedom of all pairs together below which the judge is given no weight
_PRIOR = 4.0  # how many degrees of freedom the policies' common variance is worth beside a policy's own
_INFORMED = 0.1  # sensitivity + specificity - 1 of a judge that can be corrected at all


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corrected:
    """A success rate without the judge's errors.

    Attributes:
        value: In 0..1.
        interval: Misses with the probability asked for, approximately; it knows the uncertainty of the correction.
        method: ``"truth"`` by paired true episodes (PPI++), ``"rates"`` by sensitivity and specificity (Rogan-Gladen).
        episodes: Judged episodes.
        truths: True episodes; 0 for ``"rates"``.
        weight: Of the judge's verdicts, 0..1 (lambda of PPI++); 1 for ``"rates"``.
        effective: True episodes that would say as much about this policy against the others. Errors of rates that hold for
            all policies leave the order as it is, so they count in the interval and not here.
    """

    value: float
    interval: Interval
    method: Method
    episodes: int
    truths: int
    weight: float
    effective: float

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; success in percent."""
        return {
            "pc_success": round_number(100 * self.value),
            "pc_success_interval": interval_to_percent(self.interval),
            "method": self.method,
            "n_episodes": self.episodes,
            "n_truths": self.truths,
            "weight": round_number(self.weight),
            "n_effective": round_number(self.effective),
        }

    @staticmethod
    def fields_from_json(value: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `to_json` gave as fields for `storage.from_json`.

        Raises:
            KeyError, TypeError, ValueError: The value is something else.
        """
        return {
            "value": value["pc_success"] / 100,
            "interval": interval_from_percent(value["pc_success_interval"]),
            "method": value["method"],
            "episodes": value["n_episodes"],
            "truths": value["n_truths"],
            "weight": value["weight"],
            "effective": value["n_effective"],
        }


def correct_by_truth(
    truth_KN: Float64s, *, judged_KN: Float64s, others_KM: Float64s, alpha: float = 0.05
) -> list[Corrected | None]:
    """PPI++ (Angelopoulos, Duchi and Zrnic, 2023) for the mean of each policy.

    theta = mean_n(Y) + lambda (mean_M(f) - mean_n(f)), lambda = Cov(Y, f) / ((1 + n / M) Var f), with the truth Y and the
    judge's probability f. A dozen pairs say little about a covariance, so Cov and Var are those within policies, pooled
    over all of them, and lambda is kept in 0..1; with fewer than 8 degrees of freedom in all, or without other episodes,
    it is 0 and the truth stands alone. So lambda hardly depends on any one policy's outcomes, and theta is unbiased.
    True episodes that the judge did not see count in mean_n(Y) and not in mean_n(f); lambda shrinks accordingly.

    The interval is Clopper and Pearson's for as many episodes as theta is worth: theirs of the truth alone where lambda is
    0, and it keeps a width where all outcomes are alike. For the worth, Y is split into what f explains with the pooled
    slope and a rest; the variances of f and of the rest are the policy's own, shrunk towards the pooled ones as if these had 4
    degrees of freedom more.

    Args:
        truth_KN: [K, n] true outcomes in 0..1; nan where there is none.
        judged_KN: [K, n] the judge's probabilities of the same episodes in the world; nan where there is none.
        others_KM: [K, M] its probabilities of other episodes; nan where there is none.
        alpha: Probability to miss of each interval.

    Returns:
        A rate for each policy; None where fewer than 2 true outcomes are known.

    Raises:
        InvalidInputError: Shapes that do not fit, or values outside 0..1.
    """
    _check(truth_KN, judged_KN, others_KM)
    f_KN = np.where(np.isnan(truth_KN), np.nan, judged_KN)
    true_K, pair_K, other_K = (_count(x) for x in (truth_KN, f_KN, others_KM))
    n, p, m = (np.maximum(x, 1) for x in (true_K, pair_K, other_K))
    useful, slope = (pair_K > 0) & (other_K > 0), _pool_slope(truth_KN, f_KN, others_KM)
    weight_K = np.where(useful, np.clip(slope / n / (1 / m + 1 / p), 0, 1), 0.0)
    shift_K = np.where(useful, row_means(others_KM) - row_means(f_KN), 0.0)
    theta_K = np.clip(np.nan_to_num(row_means(truth_KN)) + weight_K * shift_K, 0, 1)
    spread, rest = (
        _moderate_variance(np.concatenate([f_KN, others_KM], axis=1)),
        _moderate_variance(truth_KN - slope * f_KN),
    )
    own = rest / n + slope**2 * spread / n
    seen = (slope * p / n - weight_K) ** 2 / p + slope**2 * (true_K - pair_K) / n**2 + weight_K**2 / m
    gain = np.divide(own, rest / n + spread * seen, out=np.ones(len(own)), where=(weight_K > 0) & (own > 0))
    worth_K = np.minimum(true_K * gain, true_K + other_K)
    low, high = clopper_pearson(theta_K * worth_K, worth_K, alpha=alpha)
    return [
        Corrected(
            value=float(theta_K[i]),
            interval=Interval(float(low[i]), float(high[i])),
            method="truth",
            episodes=int(_count(judged_KN)[i] + other_K[i]),
            truths=int(true_K[i]),
            weight=float(weight_K[i]),
            effective=float(worth_K[i]),
        )
        if true_K[i] >= _FEWEST
        else None
        for i in range(len(true_K))
    ]


def correct_by_rates(judged: Float64s, *, rates: JudgeRates, alpha: float = 0.05) -> Corrected | None:
    """Rogan and Gladen's estimate of one policy's rate (Am. J. Epidemiol. 107, 1978).

    p = (q + Sp - 1) / (Se + Sp - 1), q the share of episodes that the judge calls solved, kept in 0..1. The interval is
    Lang and Reiczigel's (Prev. Vet. Med. 113, 2014): the delta method for q, Se and Sp together, after pseudo-counts that
    keep it honest near 0 and 1.

    Args:
        judged: [N] the judge's probabilities; nan where there is none.
        rates: How often it was right elsewhere.
        alpha: Probability to miss.

    Returns:
        None where no episode was judged, an outcome never occurred in measuring the judge, or it is hardly better than
        chance (Se + Sp - 1 below 0.1).
    """
    votes = judged[~np.isnan(judged)] >= SOLVED
    n, z = votes.size, float(special.ndtri(1 - alpha / 2))
    if not n or not rates.solved or not rates.unsolved:
        return None
    informed = rates.solved_right / rates.solved + rates.unsolved_right / rates.unsolved - 1
    n_se, n_sp, n_q = rates.solved + 2, rates.unsolved + 2, n + z**2
    se, sp = (rates.solved_right + 1) / n_se, (rates.unsolved_right + 1) / n_sp
    q = (votes.sum() + z**2 / 2) / n_q
    sharp = se + sp - 1
    if min(informed, sharp) < _INFORMED:
        return None
    value = (votes.mean() - 1 + rates.unsolved_right / rates.unsolved) / informed
    p = float(np.clip((q + sp - 1) / sharp, 0, 1))
    se_noise, sp_noise = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    drawn, measured = q * (1 - q) / n_q / sharp**2, (p**2 * se_noise + (1 - p) ** 2 * sp_noise) / sharp**2
    own = drawn + (measured if rates.group else 0.0)
    middle, half = p + 2 * z**2 * (p * se_noise - (1 - p) * sp_noise), z * float(np.sqrt(drawn + measured))
    return Corrected(
        value=float(np.clip(value, 0, 1)),
        interval=Interval(float(np.clip(middle - half, 0, 1)), float(np.clip(middle + half, 0, 1))),
        method="rates",
        episodes=int(n),
        truths=0,
        weight=1.0,
        effective=float(min(n, max(p * (1 - p), 1 / (4 * n_q)) / own)),
    )


def correct_rates(
    triage: Evidence,
    *,
    audit: Evidence | None,
    truth: Evidence | None,
    names: Sequence[str],
    rates: Sequence[JudgeRates],
    alpha: float,
) -> list[Corrected | None]:
    """Correct a judge's success rate of every policy: by the truth where it has paired episodes, else by the judge's rates.

    Args:
        triage: The judge's outcomes [K, N].
        audit: Its outcomes on fresh episodes, of the winners.
        truth: True outcomes [K, n]; column j is episode j of the triage. None where there is no paired truth.
        names: K names.
        rates: How often the judge was right elsewhere; may be empty.
        alpha: Probability to miss of each interval.

    Returns:
        A rate for each policy; None where neither way applies.
    """
    n = 0 if truth is None else truth.episodes
    others = [triage.success[:, n:]] + ([] if audit is None else [audit.success])
    judged = np.concatenate([triage.success[:, :n], *others], axis=1)
    if truth is None:
        found: list[Corrected | None] = [None] * triage.policies
    else:
        others_KM = np.concatenate(others, axis=1)
        found = correct_by_truth(truth.success, judged_KN=triage.success[:, :n], others_KM=others_KM, alpha=alpha)
    for i, name in enumerate(names):
        own = find_rates(name, rates)
        if found[i] is None and own is not None:
            found[i] = correct_by_rates(judged[i], rates=own, alpha=alpha)
    return found


def find_rates(policy: str, rates: Sequence[JudgeRates]) -> JudgeRates | None:
    """The rates of the closest group that a policy's name belongs to and that has enough episodes; else those of all."""
    fitting = [r for r in rates if not r.group or policy == r.group or policy.startswith(f"{r.group}/")]
    known = [r for r in fitting if not r.group or not r.few]
    return max(known, key=lambda r: len(r.group), default=None)


def _pool_slope(y_KN: Float64s, f_KN: Float64s, others_KM: Float64s) -> float:
    """Cov(Y, f) / Var(f) within policies, pooled; 0 where they are not known."""
    both = ~np.isnan(f_KN)
    y, f = _centre(np.where(both, y_KN, np.nan)), _centre(f_KN)
    everywhere = np.concatenate([f_KN, others_KM], axis=1)
    pairs, freedom = (int(np.maximum(_count(x) - 1, 0).sum()) for x in (f_KN, everywhere))
    square = float(np.nansum(_centre(everywhere) ** 2))
    if pairs < _PAIRS or square <= 1e-12:
        return 0.0
    return float(np.nansum(y * f)) / pairs / (square / freedom)


def _moderate_variance(x_KN: Float64s) -> Float64s:
    """Variance of each row, shrunk towards that within all rows."""
    freedom = np.maximum(_count(x_KN) - 1, 0)
    square = np.nansum(_centre(x_KN) ** 2, axis=1)
    pooled = square.sum() / max(int(freedom.sum()), 1)
    return np.asarray((square + _PRIOR * pooled) / (freedom + _PRIOR))


def _centre(x_KN: Float64s) -> Float64s:
    return np.asarray(x_KN - row_means(x_KN)[:, None])


def _count(x_KN: Float64s) -> Int64s:
    return np.asarray((~np.isnan(x_KN)).sum(1), dtype=np.int64)


def _check(truth_KN: Float64s, judged_KN: Float64s, others_KM: Float64s) -> None:
    if (
        truth_KN.ndim != 2
        or truth_KN.shape != judged_KN.shape
        or others_KM.ndim != 2
        or len(others_KM) != len(truth_KN)
    ):
        raise InvalidInputError(
            f"Needs truth and judgements [K, n] of the same episodes and judgements [K, M] of others; got {truth_KN.shape}, "
            f"{judged_KN.shape} and {others_KM.shape}."
        )
    if any(bool(((x < 0) | (x > 1)).any()) for x in (truth_KN, judged_KN, others_KM)):
        raise InvalidInputError("Outcomes and probabilities must lie in 0..1, or be nan where there is none.")
