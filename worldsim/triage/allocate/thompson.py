"""Top-two Thompson sampling for the best k: an allocator that draws from the posterior."""

import dataclasses
import functools
import hashlib

import numpy as np

from worldsim.arrays import Int64s
from worldsim.triage.allocate.steps import Pairs, SteppedAllocator, Sums, check_counts
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.posterior import Prior, fit_prior


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
