"""The leaderboard: which policies come first, how sure that is, and what it cost.

A `Ranking` is a pure function of the evidence (and of the audit, where winners were run again on fresh episodes), so its
digest says whether two runs reached the same conclusion. Not for drawing: the report and the terminal read it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from worldsim.errors import InvalidInputError
from worldsim.triage.evidence import Evidence
from worldsim.triage.intervals import Interval

FORMAT = "worldsim-ranking-1"


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
