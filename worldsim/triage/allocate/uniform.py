"""Uniform allocation: the same number of episodes for every policy."""

import dataclasses

import numpy as np

from worldsim.triage.allocate.steps import Pairs, check_counts
from worldsim.triage.ranking.evidence import Evidence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniform:
    """The same number of episodes for every policy: the baseline.

    Attributes:
        budget: Rollouts in all, at least one per policy; what does not divide evenly is left unspent.
    """

    budget: int

    def table_size(self, policies: int) -> int:
        """Episodes the table must hold for K policies."""
        check_counts("Uniform allocation", k=1, budget=self.budget, policies=policies)
        return self.budget // policies

    def next(self, evidence: Evidence, room: int) -> Pairs:
        """See `worldsim.protocols.Allocator.next`; episode by episode, all policies each."""
        stop = min(self.table_size(evidence.policies), evidence.episodes)
        return evidence.missing(np.flatnonzero(~evidence.failed), stop)[: max(room, 0)]
