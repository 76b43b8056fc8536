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
from worldsim.stats.intervals import Interval, confidence_sequence
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import Corrected
from worldsim.triage.ranking.measured import (
    Measured,
    corrected_from_json,
    corrected_to_json,
    measure,
    measured_from_json,
    measured_to_json,
    rounded,
)
from worldsim.triage.ranking.posterior import Tally, fit_prior, order, posterior
from worldsim.triage.ranking.standing import Standing
from worldsim.triage.ranking.tiers import letters, tiers

Floats = NDArray[np.float64]
FORMAT = "worldsim-ranking-1"
_LETTERED = 30  # compact letters are for leaderboards a person can read; longer ones have tiers only


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
        corrected: Success without the errors of the judge, where one judged and they could be corrected.
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
    corrected: Corrected | None = None

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
        corrected: Sequence[Corrected | None] | None = None,
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
            corrected: Rates without the judge's errors. If every policy that did not crash has one, order,
                probabilities and tiers go by them: each counts as the true episodes that it is worth.

        Raises:
            InvalidInputError: The number of names or audited policies is not K, or k is below 1.
        """
        if len(names) != evidence.policies:
            raise InvalidInputError(f"Ranking needs a name for each of {evidence.policies} policies; got {len(names)}.")
        both = evidence if audit is None else evidence.beside(audit)
        standing = None if corrected is None else Standing.of(both, corrected)
        tally: Tally = both if standing is None else standing
        prior = fit_prior(both) if standing is None else standing.prior()
        belief = posterior(tally, k=k, prior=prior)
        best_first = [int(i) for i in order(tally, prior=prior)]
        tier, letter = _groups(tally, best_first, alpha)
        triage, audited = measure(evidence, alpha=alpha), None if audit is None else measure(audit, alpha=alpha)
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
                corrected=None if corrected is None else corrected[i],
            )
            for rank, i in enumerate(best_first, start=1)
        ]
        return cls(k=k, alpha=alpha, policies=tuple(lines))

    @property
    def top(self) -> tuple[RankedPolicy, ...]:
        """The first k lines that did not crash: the policies to try."""
        return tuple(line for line in self.policies[: self.k] if line.failed is None)

    @property
    def corrected(self) -> bool:
        """Whether the order goes by corrected rates: every policy that did not crash has one, and one is there."""
        alive = [p for p in self.policies if p.failed is None]
        return bool(alive) and all(p.corrected is not None for p in alive)

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
        percent = [rounded(100 * p.shown.success) for p in self.top if p.shown.success is not None]
        overall = {
            "n_episodes": self.rollouts,
            "n_policies": len(self.policies),
            "pc_success": rounded(sum(percent) / len(percent)) if percent else None,
        }
        lines = [_line_to_json(line) for line in self.policies]
        return {"format": FORMAT, "k": self.k, "alpha": self.alpha, "overall": overall, "per_policy": lines}


def _groups(both: Tally, best_first: Sequence[int], alpha: float) -> tuple[dict[int, int], dict[int, str]]:
    """Tier and letters by row; 0 and nothing for crashed policies."""
    low, high = confidence_sequence(both.wins, both.count, alpha=alpha / both.policies)
    alive = [i for i in best_first if not both.failed[i]]
    spans = [Interval(float(low[i]), float(high[i])) for i in alive]
    tier = dict.fromkeys(best_first, 0) | dict(zip(alive, tiers(spans), strict=True))
    marks = letters(spans) if len(alive) <= _LETTERED else [""] * len(alive)
    return tier, dict.fromkeys(best_first, "") | dict(zip(alive, marks, strict=True))


def _line_to_json(line: RankedPolicy) -> dict[str, Any]:
    value = {f.name: getattr(line, f.name) for f in dataclasses.fields(line)}
    value = {k: rounded(v) if isinstance(v, float) else v for k, v in value.items()}
    told = {} if line.corrected is None else {"corrected": corrected_to_json(line.corrected)}
    del value["corrected"]  # a line without a correction reads as it always has
    return {**value, "triage": measured_to_json(line.triage), "audit": measured_to_json(line.audit), **told}


def _line_from_json(value: Mapping[str, Any]) -> RankedPolicy:
    triage = measured_from_json(value["triage"])
    if triage is None:
        raise ValueError("a line without triage")
    known = {"audit": measured_from_json(value["audit"]), "corrected": corrected_from_json(value.get("corrected"))}
    return RankedPolicy(**{**value, "triage": triage, **known})
