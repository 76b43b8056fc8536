"""The allocators: uniform, sequential halving, KL-LUCB and top-two Thompson sampling.

KL-LUCB and Thompson sampling move in steps, each a batch of pulls decided from the steps before it. A step's decision
is a function of the sums at its beginning and is cached. A pull of a policy is its next episode in the order of the
table.

Shape legend: K policies, D draws.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable

import numpy as np

from worldsim.arrays import Bools, Float64s, Int64s
from worldsim.errors import InvalidInputError
from worldsim.stats.intervals import confidence_sequence
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.posterior import Prior, Sweep, fit_prior, fit_sweep, order

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """One round of sequential halving: so many policies go on, until each has so many episodes."""

    policies: int
    episodes: int  # cumulative


@dataclasses.dataclass(frozen=True, kw_only=True)
class SequentialHalving:
    """Rounds of shared episode blocks; after each, the worst leave, until k remain.

    Karnin, Koren and Somekh (ICML 2013) for the best arm; here for the best k, stopping at k survivors, with cumulative
    statistics: a round is judged on all episodes so far, and its survivors have all seen the same ones. The judgement
    is `posterior.order`: shrunk success first, in which progress counts while successes are few; ties go to progress,
    then success mean, then index. A policy that crashes is treated as if it had never entered: its place in every round
    passes to the next best, who catches up on the blocks it missed.

    Attributes:
        k: How many best policies are asked for.
        budget: Rollouts in all; at least one per policy.
        keep: Share of the policies that goes on to the next round, in (0, 1). Halves (0.5) mean the fewest rounds;
            three quarters find 1 to 3 points more of the true top 10 for the same budget (measured on synthetic
            sweeps).
    """

    k: int
    budget: int
    keep: float = 0.75

    def rounds(self, policies: int) -> tuple[Round, ...]:
        """Return the schedule for K policies. It is fixed before the first rollout.

        Every round gives each of its policies at least one new episode; what is left of the budget is split evenly
        between rounds. Where the budget cannot pay for that, the widest rounds after the first are left out.

        Raises:
            InvalidInputError: The budget does not give every policy one rollout, or k or keep is out of range.
        """
        check_counts("Sequential halving", k=self.k, budget=self.budget, policies=policies)
        if not 0 < self.keep < 1:
            raise InvalidInputError(f"keep is the share of policies that goes on, in (0, 1); got {self.keep}.")
        sizes = [policies]
        while (size := max(self.k, min(sizes[-1] - 1, math.ceil(sizes[-1] * self.keep)))) > self.k:
            sizes.append(size)
        while sum(sizes) > self.budget:
            sizes.pop(1)
        spare, used, episodes, found = self.budget - sum(sizes), 0, 0, []
        for i, size in enumerate(sizes, start=1):
            more = (spare * i // len(sizes) - used) // size
            used += more * size
            episodes += 1 + more
            found.append(Round(policies=size, episodes=episodes))
        return tuple(found)

    def table_size(self, policies: int) -> int:
        """Episodes the table must hold for K policies."""
        return self.rounds(policies)[-1].episodes

    def next(self, evidence: Evidence, room: int) -> Pairs:
        """See `worldsim.protocols.Allocator.next`; the rest of the current round, episode by episode."""
        return self._replay(evidence)[1][: max(room, 0)]

    def survivors(self, evidence: Evidence) -> Int64s:
        """Return the policies that remain after every finished round, best first; k of them when all are finished."""
        return self._replay(evidence)[0]

    def _replay(self, evidence: Evidence) -> tuple[Int64s, Pairs]:
        """Walk through the rounds until one is not finished: its policies, and what it lacks."""
        rounds = self.rounds(evidence.policies)
        going, sweep = np.flatnonzero(~evidence.failed), fit_sweep(evidence.columns(rounds[0].episodes))
        for i, stage in enumerate(rounds):
            if todo := evidence.missing(going, min(stage.episodes, evidence.episodes)):
                return going, todo
            size = rounds[i + 1].policies if i + 1 < len(rounds) else self.k
            going = _select(evidence, sweep, going, size, stage.episodes)
        return going, []


def _select(evidence: Evidence, sweep: Sweep, going: Int64s, size: int, episodes: int) -> Int64s:
    """Return the best `size` of the policies `going`, judged on the first `episodes` of the table."""
    if going.size <= size:
        return going
    going = np.sort(going)
    seen = evidence.columns(episodes).rows(going)
    return going[order(seen, prior=sweep.prior(seen))[:size]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KLLUCB(SteppedAllocator):
    """Lower-upper confidence bounds for the best k: pull where the two sides of the boundary could still change places.

    Kaufmann and Kalyanakrishnan (COLT 2013): of the k best by mean the one with the smallest lower bound, and of the
    rest the one with the greatest upper bound; stop when they are no more than epsilon apart. Their bound is a ball in
    Kullback-Leibler divergence, n kl(mean, p) <= threshold. Here the ball is the beta-binomial mixture confidence
    sequence at alpha / K, whose threshold is log(K / alpha) plus the mixture's regret: proven for all times at once, so
    when it stops by itself the k best by mean are within epsilon of the true best k with probability 1 - alpha. Pulls
    come in batches spread over the policies nearest to the boundary on either side.

    Attributes:
        k: How many best policies are asked for.
        budget: Rollouts in all; it may stop earlier.
        first: Episodes of every policy before the first decision, as far as half of the budget allows.
        alpha: Probability that the answer is wrong, in (0, 1).
        epsilon: Difference in success rate that does not matter, 0..1.
        pulls: Episodes per pull.
        width: Policies pulled on either side of the boundary in one step.
    """

    alpha: float = 0.05
    epsilon: float = 0.0
    pulls: int = 5
    width: int = 4

    def next(self, evidence: Evidence, room: int) -> Pairs:
        """See `worldsim.protocols.Allocator.next`; empty as soon as the best k are separated from the rest."""
        if not 0 < self.alpha < 1 or not 0 <= self.epsilon <= 1:
            raise InvalidInputError(f"KL-LUCB needs 0 < alpha < 1 and 0 <= epsilon <= 1; got {self}.")
        check_counts("KL-LUCB", k=self.k, budget=self.budget, policies=evidence.policies)
        return self.replay(evidence, room, self._decide)

    def _decide(self, sums: Sums) -> Int64s:
        """Return the pulls [K] of a step: none when the best k are separated."""
        pulls = np.zeros_like(sums.count)
        alive = np.flatnonzero(sums.alive)
        if alive.size <= self.k:
            return pulls
        low, high = confidence_sequence(sums.wins, sums.count, alpha=self.alpha / sums.alive.size)
        mean = np.divide(sums.wins, sums.count, out=np.full(sums.wins.shape, 0.5), where=sums.count > 0)
        best_first = alive[np.lexsort((alive, -sums.count[alive], -np.round(mean[alive], 12)))]
        inside, outside = best_first[: self.k], best_first[self.k :]
        if high[outside].max() - low[inside].min() <= self.epsilon:
            return pulls
        pulls[inside[np.argsort(low[inside], kind="stable")[: self.width]]] = self.pulls
        pulls[outside[np.argsort(-high[outside], kind="stable")[: self.width]]] = self.pulls
        return pulls


@dataclasses.dataclass(frozen=True, kw_only=True)
class TopTwoThompson(SteppedAllocator):
    """Thompson sampling at the boundary: draw success rates from the posterior, pull the k-th and the (k+1)-th.

    Russo (COLT 2016) for the best arm; for the best k the pair that matters is the one around the boundary of the draw.
    The prior is fitted to the first episodes, which all policies share (`posterior.fit_prior`).

    Attributes:
        k: How many best policies are asked for.
        budget: Rollouts in all.
        first: Episodes of every policy before the first draw, as far as half of the budget allows.
        seed: Of the draws.
        batch: Pulls per step; None takes one per policy, at least 16.
    """

    seed: int = 0
    batch: int | None = None

    def next(self, evidence: Evidence, room: int) -> Pairs:
        """See `worldsim.protocols.Allocator.next`; the rest of the current step."""
        check_counts("Thompson sampling", k=self.k, budget=self.budget, policies=evidence.policies)
        prior = fit_prior(evidence.columns(self.first_episodes(evidence.policies)))
        context = prior.mean.tobytes() + prior.strength.tobytes()
        return self.replay(evidence, room, functools.partial(self._decide, prior=prior), context)

    def _decide(self, sums: Sums, *, prior: Prior) -> Int64s:
        """Return the pulls [K] of a step: how often each policy came k-th or (k+1)-th in a draw."""
        alive = np.flatnonzero(sums.alive)
        pulls = np.zeros_like(sums.count)
        if alive.size <= self.k:
            return pulls
        a = (prior.mean * prior.strength + sums.wins)[alive]
        b = ((1 - prior.mean) * prior.strength + sums.count - sums.wins)[alive]
        seed = hashlib.sha256(f"thompson:{self.seed}:".encode() + sums.digest).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(seed[:16], "little")))
        batch = self.batch if self.batch is not None else max(16, alive.size)
        draws_DK = generator.beta(a, b, size=((batch + 1) // 2, alive.size))
        pair = np.argpartition(-draws_DK, (self.k - 1, self.k), axis=1)[:, self.k - 1 : self.k + 1]
        pulls[alive] = np.bincount(pair.ravel(), minlength=alive.size)
        return pulls
