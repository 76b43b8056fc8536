"""The leaderboard: which policies come first, how certain that is, and what it cost.

A `Ranking` is a pure function of the evidence (and of the audit, where winners were run again on fresh episodes), so
its digest says whether two runs reached the same conclusion. Tiers and letters group policies that the data cannot
separate: two policies are separated when their simultaneous intervals do not meet.
"""

import dataclasses
import hashlib
import itertools
import json
import string
from collections.abc import Mapping, Sequence
from typing import Any, Self

from worldsim import storage
from worldsim.errors import InvalidInputError
from worldsim.stats.intervals import Interval, confidence_sequence
from worldsim.triage.ranking.censoring import Censoring, deciding
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import Corrected
from worldsim.triage.ranking.measured import Measured, measure, round_number
from worldsim.triage.ranking.posterior import CorrectedTally, Tally, compute_posterior, fit_prior, order

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
        score: Posterior mean of the success rate, or of progress where policies are ranked by it, which orders the
            leaderboard; None if crashed.
        p_top_k: Posterior probability to be among the best k.
        p_best: Posterior probability to be the best.
        expected_rank: Posterior mean of the rank, 1..K.
        triage: Measured on the triage episodes. The mean is optimistic for winners (winner's curse).
        audit: Measured on fresh episodes, free of that optimism; None where there were none.
        failed: Why the policy crashed; None if it did not.
        corrected: Success without the errors of the judge, where one judged and they could be corrected.
        outside: Share of its actions in the world that it took outside of what the world was trained on; None where not known.
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
    outside: float | None = None

    @property
    def shown(self) -> Measured:
        """The audit where there is one, else the triage: what a reader should be shown."""
        return self.audit or self.triage

    @property
    def overall(self) -> tuple[float, float] | None:
        """Success, corrected where it is, and progress over all rollouts, to 9 decimals; None without rollouts or if crashed."""
        parts = [m for m in (self.triage, self.audit) if m is not None and m.rollouts]
        number = sum(m.rollouts for m in parts)
        if not number or self.failed is not None:
            return None
        success = sum((m.success or 0.0) * m.rollouts for m in parts) / number
        progress = sum((m.progress or 0.0) * m.rollouts for m in parts) / number
        return round_number(self.corrected.value if self.corrected else success), round_number(progress)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; ``corrected`` and ``outside`` only where there is one."""
        value = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "corrected"}
        if self.outside is None:
            del value["outside"]
        value |= {name: round_number(number) for name, number in value.items() if isinstance(number, float)}
        value |= {"triage": self.triage.to_json(), "audit": self.audit.to_json() if self.audit else None}
        return value | ({"corrected": self.corrected.to_json()} if self.corrected else {})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: The value is something else.
        """
        audit, corrected = value["audit"], value.get("corrected")
        fields = {
            **value,
            "triage": Measured.fields_from_json(value["triage"]),
            "audit": None if audit is None else Measured.fields_from_json(audit),
            "corrected": None if corrected is None else Corrected.fields_from_json(corrected),
        }
        return storage.from_json(cls, fields)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranking:
    """The leaderboard.

    Attributes:
        k: How many policies were asked for.
        alpha: Every interval misses its truth with at most this probability; tiers hold together at this level.
        policies: Lines in rank order.
        censoring: How many rollouts are undecided, where episodes are not played to their end; they count as not solved.
    """

    k: int
    alpha: float
    policies: tuple[RankedPolicy, ...]
    censoring: Censoring | None = None

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
        censoring: Censoring | None = None,
        outside: Mapping[int, float] | None = None,
    ) -> Self:
        """Rank the policies.

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
                probabilities and tiers follow them: each counts as the true episodes that it is worth.
            censoring: How many rollouts are undecided. Where those are too many, order, probabilities and tiers follow
                progress, and rates are not corrected.
            outside: Share of each policy's actions that it took outside of what the world was trained on, by row, where known.

        Raises:
            InvalidInputError: The number of names or audited policies is not K, or k is below 1.
        """
        if len(names) != evidence.policies:
            raise InvalidInputError(f"Ranking needs a name for each of {evidence.policies} policies; got {len(names)}.")
        both = evidence if audit is None else evidence.beside(audit)
        corrected = None if censoring is not None and censoring.by_progress else corrected
        corrected_tally = None if corrected is None else CorrectedTally.of(both, corrected)
        tally: Tally = deciding(both, censoring) if corrected_tally is None else corrected_tally
        prior = fit_prior(tally)
        posterior = compute_posterior(tally, k=k, prior=prior)
        best_first = [int(i) for i in order(tally, prior=prior)]
        tier, letters = _group(tally, best_first, alpha)
        triage, audited = measure(evidence, alpha=alpha), None if audit is None else measure(audit, alpha=alpha)
        reasons, far = failures or {}, outside or {}
        lines = [
            RankedPolicy(
                rank=rank,
                policy=i,
                name=names[i],
                tier=tier[i],
                letters=letters[i],
                score=None if both.failed[i] else float(posterior.score[i]),
                p_top_k=float(posterior.p_top_k[i]),
                p_best=float(posterior.p_best[i]),
                expected_rank=float(posterior.expected_rank[i]),
                triage=triage[i],
                audit=audited[i] if audited and audited[i].rollouts else None,
                failed=reasons.get(i, "crashed") if both.failed[i] else None,
                corrected=None if corrected is None else corrected[i],
                outside=far.get(i),
            )
            for rank, i in enumerate(best_first, start=1)
        ]
        return cls(k=k, alpha=alpha, policies=tuple(lines), censoring=censoring)

    @property
    def by_progress(self) -> bool:
        """Whether policies are ranked by progress, as too many rollouts are undecided."""
        return self.censoring is not None and self.censoring.by_progress

    @property
    def top(self) -> tuple[RankedPolicy, ...]:
        """The first k lines that did not crash: the policies to try."""
        return tuple(line for line in self.policies[: self.k] if line.failed is None)

    @property
    def selects(self) -> bool:
        """Whether more policies ran than were asked for: else there was nothing to choose from, and no chance of being chosen."""
        return sum(line.failed is None for line in self.policies) > self.k

    @property
    def places(self) -> dict[int, str]:
        """Rank of each policy that did not crash, by row, as people write it: ``3``, and ``3=`` for each of a tie.

        A tie has the same success and the same progress, or the same progress where that ranks, and no score can part it.
        """
        alive = [line for line in self.policies if line.failed is None]
        found: dict[int, str] = {}
        first = 1 if self.by_progress else 0
        for _, group in itertools.groupby(alive, key=lambda line: line.overall[first:] if line.overall else line.rank):
            lines = list(group)
            found |= {line.policy: f"{lines[0].rank}{'=' if len(lines) > 1 else ''}" for line in lines}
        return found

    @property
    def same_success(self) -> float | None:
        """The success that all policies that did not crash have, over all rollouts; None where they differ, or success does not rank."""
        if self.by_progress:
            return None
        rates = {None if line.overall is None else line.overall[0] for line in self.policies if line.failed is None}
        number = sum(line.failed is None for line in self.policies)
        return rates.pop() if len(rates) == 1 and number > 1 else None

    @property
    def corrected(self) -> bool:
        """Whether the order follows corrected rates: every policy that did not crash has one, and one is there."""
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
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Rebuild a ranking from `to_json`.

        Raises:
            InvalidInputError: The value is not a ranking, or its digest does not match its content.
        """
        found = value.get("format") if isinstance(value, Mapping) else type(value).__name__
        if found != FORMAT:
            raise InvalidInputError(f"Not a ranking: format is {found!r}, expected {FORMAT!r}.")
        try:
            lines = tuple(RankedPolicy.from_json(line) for line in value["per_policy"])
            cut = value.get("censoring")
            censoring = None if cut is None else storage.from_json(Censoring, Censoring.fields_from_json(cut))
            ranking = cls(k=int(value["k"]), alpha=float(value["alpha"]), policies=lines, censoring=censoring)
        except (KeyError, TypeError, ValueError, OverflowError, LookupError) as error:
            raise InvalidInputError(f"The ranking cannot be read ({error!r}). Make it again from its run.") from error
        if ranking.digest != value.get("digest"):
            raise InvalidInputError("The ranking's digest does not match its content: it was edited or is damaged.")
        return ranking

    def _content(self) -> dict[str, Any]:
        percent = [round_number(100 * p.shown.success) for p in self.top if p.shown.success is not None]
        overall = {
            "n_episodes": self.rollouts,
            "n_policies": len(self.policies),
            "pc_success": round_number(sum(percent) / len(percent)) if percent else None,
        }
        lines = [line.to_json() for line in self.policies]
        content = {"format": FORMAT, "k": self.k, "alpha": self.alpha, "overall": overall, "per_policy": lines}
        return content | ({"censoring": self.censoring.to_json()} if self.censoring else {})


def _group(tally: Tally, best_first: Sequence[int], alpha: float) -> tuple[dict[int, int], dict[int, str]]:
    """Return tier and letters by row; 0 and nothing for crashed policies."""
    low, high = confidence_sequence(tally.wins, tally.count, alpha=alpha / tally.policies)
    alive = [i for i in best_first if not tally.failed[i]]
    intervals = [Interval(float(low[i]), float(high[i])) for i in alive]
    tier = dict.fromkeys(best_first, 0) | dict(zip(alive, assign_tiers(intervals), strict=True))
    marks = assign_letters(intervals) if len(alive) <= _LETTERED else [""] * len(alive)
    return tier, dict.fromkeys(best_first, "") | dict(zip(alive, marks, strict=True))


def assign_tiers(intervals: Sequence[Interval]) -> tuple[int, ...]:
    """Cut a leaderboard into consecutive groups.

    A tier opens with a leader and holds everyone after it who is not separated from that leader; the first who is opens
    the next tier.

    Args:
        intervals: Simultaneous intervals in rank order, best first.

    Returns:
        The tier of each, from 1.
    """
    found: list[int] = []
    leader = 0
    for i, interval in enumerate(intervals):
        if i == 0 or interval.high < intervals[leader].low:
            leader = i
            found.append((found[-1] if found else 0) + 1)
        else:
            found.append(found[-1])
    return tuple(found)


def assign_letters(intervals: Sequence[Interval]) -> tuple[str, ...]:
    """Compact letter display: two policies share a letter exactly if they are not separated.

    The groups are the maximal sets of mutually meeting intervals, which insert-and-absorb finds for any relation
    (Piepho, J. Comput. Graph. Stat. 13, 2004). Intervals that meet pairwise have a common point (Helly), so one pass
    from the top finds them: a group is complete when an interval ends after another has begun.

    Args:
        intervals: Simultaneous intervals in any order.

    Returns:
        The letters of each; ``a`` is the group with the highest values, after ``z`` comes ``aa``.
    """
    opens = sorted((-interval.high, 0, j) for j, interval in enumerate(intervals))
    closes = sorted((-interval.low, 1, j) for j, interval in enumerate(intervals))
    found: list[list[str]] = [[] for _ in intervals]
    open_now: set[int] = set()
    grown, groups = False, 0
    for _, closing, j in sorted(opens + closes):
        if not closing:
            open_now.add(j)
            grown = True
            continue
        if grown:
            for member in open_now:
                found[member].append(_label(groups))
            grown, groups = False, groups + 1
        open_now.remove(j)
    return tuple(" ".join(labels) for labels in found)


def _label(i: int) -> str:
    """Return a, b, ..., z, aa, ab, ..."""
    text = ""
    i += 1
    while i > 0:
        i, rest = divmod(i - 1, 26)
        text = string.ascii_lowercase[rest] + text
    return text
