"""KL-LUCB for the best k: an allocator that stops as soon as the answer is certain."""

import dataclasses

import numpy as np

from worldsim.arrays import Int64s
from worldsim.errors import InvalidInputError
from worldsim.stats.intervals import confidence_sequence
from worldsim.triage.allocate.steps import Pairs, SteppedAllocator, Sums, check_counts
from worldsim.triage.ranking.evidence import Evidence


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
