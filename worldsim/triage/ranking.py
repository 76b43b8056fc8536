"""The leaderboard: which policies come first, how sure that is, and what it cost.

A `Ranking` is a pure function of the evidence (and of the audit, where winners were run again on fresh episodes), so
its digest says whether two runs reached the same conclusion. Not for drawing: the report and the terminal read it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.triage.evidence import Evidence
from worldsim.triage.intervals import Interval, clopper_pearson, confidence_sequence, mean_sequence
from worldsim.triage.posterior import fit_prior, order, posterior
from worldsim.triage.tiers import letters, tiers

Floats = NDArray[np.float64]
FORMAT = "worldsim-ranking-1"
_DECIMALS = 9  # numbers are rounded so before they are written or hashed
_LETTERED = 30  # compact letters are for leaderboards a person can read; longer ones have tiers only


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankedPolicy:
    """One line of the leaderboard.

    Attributes:
        rank: 1 is best. Crashed policies come last.
        policy: Row in the evidence.
        name: As given by the user.
        tier: 1 is the leading group; policies in one tier are not separated from its first. 0 for a crashed policy.
        letters: Compact letter display: two policies without a common letter are separated. Empty if crashed.
        score: Posterior mean of the success rate, which orders the leaderboard; None if crashed.
        p_top_k: Posterior probability to be among the best k.
        p_best: Posterior probability to be the best.
        expected_rank: Posterior mean of the rank, 1..K.
        triage: What the triage episodes said. Their mean is optimistic for winners (winner's curse).
        audit: What fresh episodes said, free of that optimism; None where there were none.
        failed: Why the policy crashed; None if it did not.
    """

    rank: int
    policy: int
    name: str
    tier: int
    letters: str
    score: float | None
    p_top_k: float
    p_best: float
    expected_rank: float
    triage: Measured
    audit: Measured | None = None
    failed: str | None = None

    @property
    def shown(self) -> Measured:
        """The audit where there is one, else the triage: what a reader should be shown."""
        return self.audit or self.triage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """The leaderboard.

    Attributes:
        k: How many policies were asked for.
        alpha: Every interval misses its truth with at most this probability; tiers hold together at this level.
        policies: Lines in rank order.
    """

    k: int
    alpha: float
    policies: tuple[RankedPolicy, ...]

    @classmethod
    def from_evidence(
        cls,
        evidence: Evidence,
        *,
        names: Sequence[str],
        k: int,
        alpha: float = 0.05,
        audit: Evidence | None = None,
        failures: Mapping[int, str] | None = None,
    ) -> "Ranking":
        """Draw up the leaderboard.

        Order, probabilities and tiers use triage and audit together; a Bayesian mean needs no correction for having
        been selected, and the tiers' confidence sequences hold under any selection.

        Args:
            evidence: Triage outcomes of all K policies.
            names: K names, in the rows' order.
            k: How many best policies are asked for, at least 1.
            alpha: Probability to miss of each interval; tiers use alpha / K each, so that all hold together.
            audit: The same K policies on other episodes, rolled out for the winners only.
            failures: Why a policy crashed, by row.

        Raises:
            InvalidInputError: The number of names or audited policies is not K, or k is below 1.
        """
        if len(names) != evidence.policies:
            raise InvalidInputError(f"Ranking needs a name for each of {evidence.policies} policies; got {len(names)}.")
        both = evidence if audit is None else evidence.beside(audit)
        prior = fit_prior(both)
        belief = posterior(both, k=k, prior=prior)
        best_first = [int(i) for i in order(both, prior=prior)]
        tier, letter = _groups(both, best_first, alpha)
        triage, audited = _measure(evidence, alpha), None if audit is None else _measure(audit, alpha)
        reasons = failures or {}
        lines = [
            RankedPolicy(
                rank=rank,
                policy=i,
                name=names[i],
                tier=tier[i],
                letters=letter[i],
                score=None if both.failed[i] else float(belief.score[i]),
                p_top_k=float(belief.p_top_k[i]),
                p_best=float(belief.p_best[i]),
                expected_rank=float(belief.expected_rank[i]),
                triage=triage[i],
                audit=audited[i] if audited and audited[i].rollouts else None,
                failed=reasons.get(i, "crashed") if both.failed[i] else None,
            )
            for rank, i in enumerate(best_first, start=1)
        ]
        return cls(k=k, alpha=alpha, policies=tuple(lines))

    @property
    def top(self) -> tuple[RankedPolicy, ...]:
        """The first k lines that did not crash: the policies to try."""
        return tuple(line for line in self.policies[: self.k] if line.failed is None)

    @property
    def rollouts(self) -> int:
        """Rollouts spent, audit included."""
        return sum(p.triage.rollouts + (p.audit.rollouts if p.audit else 0) for p in self.policies)

    @property
    def digest(self) -> str:
        """sha256 of the canonical JSON, in hexadecimal: equal exactly if two rankings say the same to 1e-9."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; success in percent as `pc_success`, under the key names of LeRobot's `eval_info.json`."""
        return {**self._content(), "digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Ranking":
        """Rebuild a ranking from `to_json`.

        Raises:
            InvalidInputError: The value is not a ranking, or its digest does not match its content.
        """
        if value.get("format") != FORMAT:
            raise InvalidInputError(f"Not a ranking: format is {value.get('format')!r}, expected {FORMAT!r}.")
        try:
            lines = tuple(_line_from_json(line) for line in value["per_policy"])
            ranking = cls(k=int(value["k"]), alpha=float(value["alpha"]), policies=lines)
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError(f"The ranking cannot be read ({error!r}). Make it again from its run.") from error
        if ranking.digest != value.get("digest"):
            raise InvalidInputError("The ranking's digest does not match its content: it was edited or is damaged.")
        return ranking

    def _content(self) -> dict[str, Any]:
        percent = [_rounded(100 * p.shown.success) for p in self.top if p.shown.success is not None]
        overall = {
            "n_episodes": self.rollouts,
            "n_policies": len(self.policies),
            "pc_success": _rounded(sum(percent) / len(percent)) if percent else None,
        }
        lines = [_line_to_json(line) for line in self.policies]
        return {"format": FORMAT, "k": self.k, "alpha": self.alpha, "overall": overall, "per_policy": lines}


def _groups(both: Evidence, best_first: Sequence[int], alpha: float) -> tuple[dict[int, int], dict[int, str]]:
    """Tier and letters by row; 0 and nothing for crashed policies."""
    low, high = confidence_sequence(both.wins, both.count, alpha=alpha / both.policies)
    alive = [i for i in best_first if not both.failed[i]]
    spans = [Interval(float(low[i]), float(high[i])) for i in alive]
    tier = dict.fromkeys(best_first, 0) | dict(zip(alive, tiers(spans), strict=True))
    marks = letters(spans) if len(alive) <= _LETTERED else [""] * len(alive)
    return tier, dict.fromkeys(best_first, "") | dict(zip(alive, marks, strict=True))


def _measure(evidence: Evidence, alpha: float) -> list[Measured]:
    """Measure every row."""
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


def _rounded(value: float) -> float:
    return round(value, _DECIMALS) + 0.0


def _measured_to_json(measured: Measured | None) -> dict[str, Any] | None:
    if measured is None:
        return None
    return {
        "n_episodes": measured.rollouts,
        "pc_success": None if measured.success is None else _rounded(100 * measured.success),
        "pc_success_exact": [_rounded(100 * measured.success_exact.low), _rounded(100 * measured.success_exact.high)],
        "pc_success_anytime": [
            _rounded(100 * measured.success_anytime.low),
            _rounded(100 * measured.success_anytime.high),
        ],
        "avg_progress": None if measured.progress is None else _rounded(measured.progress),
        "avg_progress_anytime": [_rounded(measured.progress_anytime.low), _rounded(measured.progress_anytime.high)],
    }


def _measured_from_json(value: Mapping[str, Any] | None) -> Measured | None:
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


def _line_to_json(line: RankedPolicy) -> dict[str, Any]:
    value = {f.name: getattr(line, f.name) for f in dataclasses.fields(line)}
    value = {k: _rounded(v) if isinstance(v, float) else v for k, v in value.items()}
    return {**value, "triage": _measured_to_json(line.triage), "audit": _measured_to_json(line.audit)}


def _line_from_json(value: Mapping[str, Any]) -> RankedPolicy:
    triage = _measured_from_json(value["triage"])
    if triage is None:
        raise ValueError("a line without triage")
    return RankedPolicy(**{**value, "triage": triage, "audit": _measured_from_json(value["audit"])})
