"""What allocators share: the check of their settings, and the replay of decisions taken in steps.

KL-LUCB and Thompson sampling move in steps, each a batch of pulls decided from the steps before it. A step's decision
is a function of the sums at its beginning and is cached. A pull of a policy is its next episode in the order of the
table.

Shape legend: K policies.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable

import numpy as np

from worldsim.arrays import Bools, Float64s, Int64s
from worldsim.errors import InvalidInputError
from worldsim.triage.ranking.evidence import Evidence

Pairs = list[tuple[int, int]]
"""(policy index, episode index) of each rollout asked for."""
_CACHE: dict[bytes, tuple[Int64s, Int64s]] = {}  # of pure decisions: policies pulled, and how often
_MAX_CACHED = 20_000
_MAX_SHARE = 20


def check_counts(name: str, *, k: int, budget: int, policies: int) -> None:
    """Check that k policies can be sought among `policies` with `budget` rollouts.

    Raises:
        InvalidInputError: k is below 1, or the budget does not give every policy one rollout.
    """
    if k < 1:
        raise InvalidInputError(f"{name} needs k of at least 1; got {k}.")
    if budget < policies:
        raise InvalidInputError(
            f"{name} needs at least one rollout for each of {policies} policies; the budget is {budget}. "
            f"Raise the budget to {policies} or more, or give fewer policies."
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """All that a step may be decided from."""

    wins: Float64s  # [K]
    count: Int64s  # [K]
    alive: Bools  # [K]

    @property
    def digest(self) -> bytes:
        """sha256 of the content."""
        parts = (np.round(self.wins, 9).astype("<f8"), self.count.astype("<i8"), self.alive)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SteppedAllocator:
    """Settings of an allocator that moves in steps.

    Attributes:
        k: How many best policies are asked for.
        budget: Rollouts in all.
        first: Episodes of every policy before the first decision, as far as half of the budget allows.
    """

    k: int
    budget: int
    first: int = 5

    def first_episodes(self, policies: int) -> int:
        """Episodes of each of K policies before the first decision: at most half of the budget, at least one."""
        return max(1, min(self.first, self.budget // (2 * policies)))

    def table_size(self, policies: int) -> int:
        """Episodes the table must hold for K policies; a policy that has used them all is not pulled again.

        All that could go to one policy, but no more than 20 times the mean.
        """
        check_counts("An adaptive allocator", k=self.k, budget=self.budget, policies=policies)
        left = self.budget - (policies - 1) * self.first_episodes(policies)
        return min(left, _MAX_SHARE * math.ceil(self.budget / policies))

    def replay(self, evidence: Evidence, room: int, decide: Callable[[Sums], Int64s], context: bytes = b"") -> Pairs:
        """Walk through the steps until one is not finished, and return what it lacks.

        So the answer depends neither on which rollouts of a step finished first nor on a restart in between.

        Args:
            evidence: What is known.
            room: How many pairs to return at most.
            decide: Pulls int64 [K] of a step; a pure function of the allocator, of the sums and of `context`.
            context: What else `decide` depends on.
        """
        alive = ~evidence.failed
        first = min(self.first_episodes(evidence.policies), evidence.episodes)
        if todo := evidence.missing(np.flatnonzero(alive), first):
            return todo[: max(room, 0)]
        wins_KN = np.cumsum(np.nan_to_num(evidence.success), axis=1)
        count = np.where(alive, first, 0)
        while (left := self.budget - int(count.sum())) > 0:
            wins = np.where(alive, wins_KN[np.arange(count.size), np.maximum(count - 1, 0)], 0.0)
            sums = Sums(wins=wins, count=count, alive=alive)
            pulls = np.minimum(self._decide_once(sums, decide, context), evidence.episodes - count)
            pulls = np.diff(np.minimum(np.cumsum(pulls), left), prepend=0)
            if not pulls.any():
                break
            todo = [
                pair
                for i in np.flatnonzero(pulls)
                for pair in evidence.missing([i], int(count[i] + pulls[i]), start=int(count[i]))
            ]
            if todo:
                return todo[: max(room, 0)]
            count = count + pulls
        return []

    def _decide_once(self, sums: Sums, decide: Callable[[Sums], Int64s], context: bytes) -> Int64s:
        """Return `decide(sums)`, cached."""
        key = hashlib.sha256(repr(self).encode() + context + sums.digest).digest()
        if key not in _CACHE:
            if len(_CACHE) >= _MAX_CACHED:
                _CACHE.clear()
            pulls = decide(sums)
            _CACHE[key] = np.flatnonzero(pulls), pulls[pulls > 0]
        index, values = _CACHE[key]
        found = np.zeros_like(sums.count)
        found[index] = values
        return found
