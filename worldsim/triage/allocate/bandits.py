"""Fully adaptive allocators: KL-LUCB and top-two Thompson sampling for the best k.

Both move in steps, each a batch of pulls decided from the steps before it. `next` replays the steps from the beginning
and returns what the first unfinished one still lacks, so the answer does not depend on which rollouts of a step
happened to finish first, nor on a restart in between. A step's decision is a function of the sums at its beginning and
is cached. A pull of a policy is its next episode in the order of the table. Use sequential halving (`allocation`) for
small budgets and few barriers; these for large ones, or (KL-LUCB) to stop as soon as the answer is certain.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.stats.intervals import confidence_sequence
from worldsim.triage.allocate.pairs import Pairs, check_counts, missing
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.posterior import Prior, fit_sweep

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLLUCB:
    """Lower-upper confidence bounds for the best k: pull where the two sides of the boundary could still change places.

    Kaufmann and Kalyanakrishnan (COLT 2013): of the k best by mean the one with the smallest lower bound, and of the
    rest the one with the greatest upper bound; stop when they are no more than epsilon apart. Their bound is a ball in
    Kullback-Leibler divergence, n kl(mean, p) <= threshold. Here the ball is the beta-binomial mixture confidence
    sequence at alpha / K, whose threshold is log(K / alpha) plus the mixture's regret: proven for every moment at once,
    so when it stops by itself the k best by mean are within epsilon of the true best k with probability 1 - alpha.
    Pulls come in batches spread over the policies nearest to the boundary on either side.

    Attributes:
        k: How many best policies are asked for.
        budget: Rollouts in all; it may stop earlier.
        alpha: Probability that the answer is wrong, in (0, 1).
        epsilon: Difference in success rate that does not matter, 0..1.
        first: Episodes for every policy before the first decision.
        pulls: Episodes per pull.
        width: Policies pulled on either side of the boundary in one step.
    """

    k: int
    budget: int
    alpha: float = 0.05
    epsilon: float = 0.0
    first: int = 5
    pulls: int = 5
    width: int = 4

    def table_size(self, policies: int) -> int:
        """Episodes the table must hold for K policies; a policy that has met them all is not pulled again."""
        return _table_size(self, policies)

    def next(self, evidence: Evidence, room: int) -> Pairs:
        """See `worldsim.protocols.Allocator.next`; empty as soon as the best k are separated from the rest."""
        if not 0 < self.alpha < 1 or not 0 <= self.epsilon <= 1:
            raise InvalidInputError(f"KL-LUCB needs 0 < alpha < 1 and 0 <= epsilon <= 1; got {self}.")
        check_counts("KL-LUCB", k=self.k, budget=self.budget, policies=evidence.policies)
        return _replay(self, evidence, room, functools.partial(_boundary, self), b"")

    def separated(self, evidence: Evidence) -> bool:
        """Return whether the best k are certain, at level alpha and to within epsilon."""
        return not _boundary(self, Sums(wins=evidence.wins, count=evidence.count, alive=~evidence.failed)).any()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopTwoThompson:
    """Thompson sampling at the boundary: draw success rates from the posterior, pull the k-th and the (k+1)-th.

    Russo (COLT 2016) for the best arm; for the best k the pair that matters is the one around the boundary of the draw.
    The prior is learned from the first episodes, which all policies share (`posterior.fit_sweep`).

    Attributes:
        k: How many best policies are asked for.
        budget: Rollouts in all.
        seed: Of the draws.
        first: Episodes for every policy before the first draw, as far as half of the budget allows.
        batch: Pulls per step; None takes one per policy, at least 16.
    """

    k: int
    budget: int
    seed: int = 0
    first: int = 5
    batch: int | None = None

    def table_size(self, policies: int) -> int:
        """Episodes the table must hold for K policies; a policy that has met them all is not pulled again."""
        return _table_size(self, policies)

    def next(self, evidence: Evidence, room: int) -> Pairs:
        """See `worldsim.protocols.Allocator.next`; the rest of the current step."""
        check_counts("Thompson sampling", k=self.k, budget=self.budget, policies=evidence.policies)
        seen = evidence.columns(_first(self, evidence.policies))
        prior = fit_sweep(seen).prior(seen)

        def draw(sums: Sums) -> Ints:
            return _draw(self, sums, prior)

        return _replay(self, evidence, room, draw, prior.mean.tobytes() + prior.strength.tobytes())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """All that a step may be decided from."""

    wins: Floats  # [K]
    count: Ints  # [K]
    alive: Bools  # [K]

    @property
    def digest(self) -> bytes:
        """sha256 of the content."""
        parts = (np.round(self.wins, 9).astype("<f8"), self.count.astype("<i8"), self.alive)
        return hashlib.sha256(b"".join(part.tobytes() for part in parts)).digest()


Bandit = KLLUCB | TopTwoThompson
_DECIDED: dict[bytes, tuple[Ints, Ints]] = {}  # a memo of pure decisions: policies pulled, and how often
_MOST_DECIDED = 20_000
_MOST_SHARE = 20


def _first(bandit: Bandit, policies: int) -> int:
    """Episodes of the opening block: at most half of the budget, at least one each."""
    return max(1, min(bandit.first, bandit.budget // (2 * policies)))


def _table_size(bandit: Bandit, policies: int) -> int:
    """All that could go to one policy, but no more than `_MOST_SHARE` times the mean."""
    check_counts("An adaptive allocator", k=bandit.k, budget=bandit.budget, policies=policies)
    left = bandit.budget - (policies - 1) * _first(bandit, policies)
    return min(left, _MOST_SHARE * math.ceil(bandit.budget / policies))


def _replay(bandit: Bandit, evidence: Evidence, room: int, decide: Callable[[Sums], Ints], context: bytes) -> Pairs:
    """Walk through the steps until one is not finished, and return what it lacks."""
    alive = ~evidence.failed
    first = min(_first(bandit, evidence.policies), evidence.episodes)
    if todo := missing(evidence, np.flatnonzero(alive), first):
        return todo[: max(room, 0)]
    wins_kn = np.cumsum(np.nan_to_num(evidence.success), axis=1)
    count = np.where(alive, first, 0)
    while (left := bandit.budget - int(count.sum())) > 0:
        wins = np.where(alive, wins_kn[np.arange(count.size), np.maximum(count - 1, 0)], 0.0)
        sums = Sums(wins=wins, count=count, alive=alive)
        pulls = np.minimum(_decided(bandit, sums, decide, context), evidence.episodes - count)
        pulls = np.diff(np.minimum(np.cumsum(pulls), left), prepend=0)
        if not pulls.any():
            break
        chosen = np.flatnonzero(pulls)
        todo = [pair for i in chosen for pair in missing(evidence, [i], int(count[i] + pulls[i]), start=int(count[i]))]
        if todo:
            return todo[: max(room, 0)]
        count = count + pulls
    return []


def _decided(bandit: Bandit, sums: Sums, decide: Callable[[Sums], Ints], context: bytes) -> Ints:
    """Return `decide(sums)`, remembered."""
    key = hashlib.sha256(repr(bandit).encode() + context + sums.digest).digest()
    if key not in _DECIDED:
        if len(_DECIDED) >= _MOST_DECIDED:
            _DECIDED.clear()
        pulls = decide(sums)
        _DECIDED[key] = np.flatnonzero(pulls), pulls[pulls > 0]
    index, values = _DECIDED[key]
    found = np.zeros_like(sums.count)
    found[index] = values
    return found


def _boundary(bandit: KLLUCB, sums: Sums) -> Ints:
    """KL-LUCB's pulls: none when the best k are separated."""
    pulls = np.zeros_like(sums.count)
    alive = np.flatnonzero(sums.alive)
    if alive.size <= bandit.k:
        return pulls
    low, high = confidence_sequence(sums.wins, sums.count, alpha=bandit.alpha / sums.alive.size)
    mean = np.divide(sums.wins, sums.count, out=np.full(sums.wins.shape, 0.5), where=sums.count > 0)
    best_first = alive[np.lexsort((alive, -sums.count[alive], -np.round(mean[alive], 12)))]
    inside, outside = best_first[: bandit.k], best_first[bandit.k :]
    if high[outside].max() - low[inside].min() <= bandit.epsilon:
        return pulls
    pulls[inside[np.argsort(low[inside], kind="stable")[: bandit.width]]] = bandit.pulls
    pulls[outside[np.argsort(-high[outside], kind="stable")[: bandit.width]]] = bandit.pulls
    return pulls


def _draw(bandit: TopTwoThompson, sums: Sums, prior: Prior) -> Ints:
    """Thompson's pulls: how often each policy came k-th or (k+1)-th in a draw."""
    alive = np.flatnonzero(sums.alive)
    pulls = np.zeros_like(sums.count)
    if alive.size <= bandit.k:
        return pulls
    a = (prior.mean * prior.strength + sums.wins)[alive]
    b = ((1 - prior.mean) * prior.strength + sums.count - sums.wins)[alive]
    seed = hashlib.sha256(f"thompson:{bandit.seed}:".encode() + sums.digest).digest()
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))
    batch = bandit.batch if bandit.batch is not None else max(16, alive.size)
    draws_dk = generator.beta(a, b, size=((batch + 1) // 2, alive.size))
    pair = np.argpartition(-draws_dk, (bandit.k - 1, bandit.k), axis=1)[:, bandit.k - 1 : bandit.k + 1]
    pulls[alive] = np.bincount(pair.ravel(), minlength=alive.size)
    return pulls
