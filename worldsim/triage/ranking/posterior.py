"""An empirical-Bayes beta-binomial model of the policies' success rates.

The prior is fitted to the sweep itself, on the episodes that every policy has seen, so that adaptive allocation does
not bias it. Progress informs the prior mean of each policy as far as it is found to predict success between policies,
so it matters while successes are few and fades as they accumulate. For decisions and shrunk means; guarantees come from
`worldsim.stats.intervals`, which uses no prior.

Shape legend: K policies, n shared episodes, D draws.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from typing import Protocol, Self

import numpy as np

from worldsim.arrays import Bools, Float64s, Int64s
from worldsim.errors import InvalidInputError
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import Corrected

_DRAWS = 4000
_CHUNK = 500  # draws held in memory at a time
_EDGE = 1e-3  # prior means stay this far from 0 and 1
_LEAST = 0.5  # smallest strength, in rollouts
_WEAK = 2.0  # strength where nothing could be learned
_FEW = 8  # below this number of policies the relation of progress to success is not estimated


class Tally(Protocol):
    """Sums that a posterior is computed from: `Evidence`, or a `CorrectedTally`."""

    @property
    def policies(self) -> int:
        """Number of policies K."""

    @property
    def failed(self) -> Bools:
        """Bool [K]: crashed."""

    @property
    def wins(self) -> Float64s:
        """float64 [K]: sum of success."""

    @property
    def count(self) -> Int64s | Float64s:
        """[K]: episodes; effective ones may be fractional."""

    @property
    def success_mean(self) -> Float64s:
        """float64 [K], nan where there is none."""

    @property
    def progress_mean(self) -> Float64s:
        """float64 [K], nan where there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class CorrectedTally:
    """Success rates without a judge's errors, each as wins among as many true episodes as it is worth; see `Tally`.

    Attributes:
        policies: Number of policies K.
        failed: bool [K].
        wins: float64 [K], rate times count.
        count: float64 [K], effective episodes.
        success_mean: float64 [K], the corrected rate; nan where there is none.
        progress_mean: float64 [K], as judged.
    """

    policies: int
    failed: Bools
    wins: Float64s
    count: Float64s
    success_mean: Float64s
    progress_mean: Float64s

    @classmethod
    def of(cls, evidence: Evidence, corrected: Sequence[Corrected | None]) -> Self | None:
        """Return the tally of all policies, or None where one that did not crash has no corrected rate."""
        if any(c is None and not f for c, f in zip(corrected, evidence.failed, strict=True)):
            return None
        value = np.array([np.nan if c is None else c.value for c in corrected])
        count = np.array([0.0 if c is None else c.effective for c in corrected])
        return cls(
            policies=evidence.policies,
            failed=evidence.failed,
            wins=np.nan_to_num(value) * count,
            count=count,
            success_mean=value,
            progress_mean=evidence.progress_mean,
        )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """Beta(mean * strength, (1 - mean) * strength) for each policy.

    Attributes:
        mean: float64 [K] in (0, 1).
        strength: float64 [K], > 0: how many rollouts the prior is worth.
    """

    mean: Float64s
    strength: Float64s


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """The posterior of the success rates of K policies. Crashed policies hold score 0 and probability 0.

    Attributes:
        score: float64 [K], posterior mean of the success rate: the shrunk mean.
        p_top_k: float64 [K], probability to be among the best k; sums to k (or to the number of policies, if fewer). The
            same for all where all have the same success.
        p_best: float64 [K], probability to be the best; sums to 1.
        expected_rank: float64 [K], posterior mean of the rank, 1 is best; crashed policies hold K.
    """

    score: Float64s
    p_top_k: Float64s
    p_best: Float64s
    expected_rank: Float64s


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """Hyperparameters of the prior: how success rates and progress are distributed over all policies.

    With s and g the success and progress of a policy on an episode, u = g - slope * s is the part of progress that the
    success of the same episode does not explain; its noise is independent of that of s. Between policies the success
    rate p is regressed on the mean of u: the area model of Fay and Herriot (JASA 74, 1979).

    Attributes:
        policies: Policies it was fitted to.
        episodes: Episodes it was fitted to, shared by all of them; below 2, only `centre` means something.
        centre: Mean success rate over policies.
        centre_u: Mean of u.
        slope: Of progress on success within a policy.
        spread: Variance of p between policies, net of noise.
        spread_u: The same of u.
        spread_pu: Covariance of p and u between policies.
        noise_u: Variance of u on one episode.
    """

    policies: int
    episodes: int
    centre: float
    centre_u: float = 0.0
    slope: float = 0.0
    spread: float = 0.0
    spread_u: float = 0.0
    spread_pu: float = 0.0
    noise_u: float = 0.0

    def prior(self, tally: Tally) -> Prior:
        """Return the prior of each policy given its progress: E[p | u] = centre + beta (u - centre_u).

        No prior is worth more than n sqrt(K / 2) rollouts: a smaller spread could not be distinguished from none.
        """
        total = tally.policies
        if self.episodes < 2 or self.policies < 3:
            return Prior(mean=np.full(total, np.clip(self.centre, 0.1, 0.9)), strength=np.full(total, _WEAK))
        beta: Float64s = np.zeros(total)
        error = np.sqrt(2 / self.policies) * self.noise_u / self.episodes
        if self.policies >= _FEW and self.spread_u > error and self.spread_pu > 0:
            beta = self.spread_pu / (self.spread_u + self.noise_u / np.maximum(tally.count, 1))
        u = tally.progress_mean - self.slope * tally.success_mean
        shift = np.where(tally.count > 0, beta * (np.nan_to_num(u) - self.centre_u), 0.0)
        mean = np.clip(self.centre + shift, _EDGE, 1 - _EDGE)
        left = np.maximum(self.spread - beta * self.spread_pu, 1e-9)
        strength = np.clip(mean * (1 - mean) / left - 1, _LEAST, self.episodes * np.sqrt(self.policies / 2))
        return Prior(mean=mean, strength=strength)


def fit_sweep(evidence: Evidence) -> Sweep:
    """Fit the hyperparameters to the episodes that every policy has seen, by moments.

    Components are those of a two-way layout of policies by shared episodes, so the difficulty of an episode cancels.
    Crashed policies are left out. Episodes that only some policies saw are left out too: adaptive allocation chose
    those policies for having done well.
    """
    alive = ~evidence.failed
    policies = int(alive.sum())
    shared = evidence.done[alive].all(axis=0) if policies else np.zeros(evidence.episodes, dtype=np.bool_)
    n = int(shared.sum())
    if n < 2 or policies < 3:
        known = evidence.success_mean[alive & (evidence.count > 0)]
        return Sweep(policies=policies, episodes=0, centre=(float(known.sum()) + 1) / (known.size + 2))
    s_KN, g_KN = evidence.success[alive][:, shared], evidence.progress[alive][:, shared]
    noise, spread = _components(s_KN, g_KN)
    slope = float(noise[0, 1] / noise[0, 0]) if noise[0, 0] > 0 else 0.0
    to_u = np.array([-slope, 1.0])
    return Sweep(
        policies=policies,
        episodes=n,
        centre=float(s_KN.mean()),
        centre_u=float((g_KN - slope * s_KN).mean()),
        slope=slope,
        spread=float(spread[0, 0]),
        spread_u=float(to_u @ spread @ to_u),
        spread_pu=float(spread[0] @ to_u),
        noise_u=float(to_u @ noise @ to_u),
    )


def fit_prior(tally: Tally) -> Prior:
    """Return the prior of each policy, fitted to the tally itself."""
    sweep = fit_sweep(tally) if isinstance(tally, Evidence) else _fit_rates(tally)
    return sweep.prior(tally)


def _fit_rates(tally: Tally) -> Sweep:
    """Fit the hyperparameters to rates alone: their spread between policies, net of their noise.

    The noise of a rate is p (1 - p) / count at the common mean p, which no rate of 0 or 1 makes vanish.
    """
    alive = ~tally.failed & (tally.count > 0)
    value, count = tally.success_mean[alive], tally.count[alive]
    total, few = int(alive.sum()), int(count.min()) if count.size else 0
    centre = (float(value.sum()) + 1) / (total + 2)
    if total < 3 or few < 2:
        return Sweep(policies=total, episodes=0, centre=centre)
    centre = float(value.mean())
    spread = float(value.var(ddof=1) - (centre * (1 - centre) / count).mean())
    return Sweep(policies=total, episodes=few, centre=centre, spread=spread)


def compute_posterior(tally: Tally, *, k: int, prior: Prior | None = None, draws: int = _DRAWS) -> Posterior:
    """Compute the posterior of the success rates and of the policies' ranks.

    The draws come from a generator seeded by the tally itself: equal evidence, equal answer.

    Args:
        tally: What is known.
        k: How many best policies are asked for, at least 1.
        prior: Defaults to `fit_prior(tally)`.
        draws: Posterior draws D; probabilities have a standard error of at most 0.5 / sqrt(D).

    Raises:
        InvalidInputError: k or draws is below 1.
    """
    if k < 1 or draws < 1:
        raise InvalidInputError(f"A posterior needs k and draws of at least 1; got k = {k}, draws = {draws}.")
    prior = fit_prior(tally) if prior is None else prior
    alive = np.flatnonzero(~tally.failed)
    a, b = beta_parameters(tally, prior)
    total = tally.policies
    score, top, best = np.zeros(total), np.zeros(total), np.zeros(total)
    expected = np.full(total, float(total))
    score[alive] = (a / (a + b))[alive]
    if is_uniform(tally):  # draws would follow the numbers of rollouts
        top[alive], best[alive], expected[alive] = min(1.0, k / alive.size), 1 / alive.size, (alive.size + 1) / 2
        return Posterior(score=score, p_top_k=top, p_best=best, expected_rank=expected)
    ranks = np.zeros((3, alive.size))
    generator = seeded_generator(tally, label="posterior")
    for start in range(0, draws, _CHUNK):
        drawn = generator.beta(a[alive], b[alive], size=(min(_CHUNK, draws - start), alive.size))
        ranks += _count_ranks(drawn, generator.random(drawn.shape), k)
    top[alive], best[alive], expected[alive] = ranks / draws
    return Posterior(score=score, p_top_k=top, p_best=best, expected_rank=expected)


def beta_parameters(tally: Tally, prior: Prior) -> tuple[Float64s, Float64s]:
    """Return the two parameters [K], [K] of each policy's posterior beta distribution."""
    wins, count = tally.wins, tally.count
    return prior.mean * prior.strength + wins, (1 - prior.mean) * prior.strength + count - wins


def order(tally: Tally, *, prior: Prior | None = None) -> Int64s:
    """Order policies by score, and neighbours of equal success by progress.

    The score is the posterior mean of the success rate, compared to 12 decimals. It pulls few rollouts less far from the
    average than many, so among neighbours whose success means are equal (all solve nothing) it would follow the number of
    rollouts; they are ordered by progress, then by score, then by the lower index.

    Args:
        tally: What is known.
        prior: Defaults to `fit_prior(tally)`.

    Returns:
        Policy indices int64 [K], best first, crashed ones last.
    """
    a, b = beta_parameters(tally, fit_prior(tally) if prior is None else prior)
    score = np.round(a / (a + b), 12)
    progress, success = np.round(np.nan_to_num(tally.progress_mean), 12), np.nan_to_num(tally.success_mean)
    index = np.arange(tally.policies)
    by_score = np.lexsort((index, -success, -progress, -score, tally.failed))
    known = (tally.count > 0) & ~tally.failed
    mean = np.round(success, 12)
    tied = [known[i] and known[j] and mean[i] == mean[j] for i, j in itertools.pairwise(by_score)]
    run = np.zeros(tally.policies, dtype=np.int64)
    run[by_score] = np.cumsum([0, *(not t for t in tied)])[: tally.policies]
    return np.asarray(np.lexsort((index, -score, -progress, run)), dtype=np.int64)


def is_uniform(tally: Tally) -> bool:
    """Whether all policies that did not crash have the same success, so that it says nothing about their order."""
    known = tally.success_mean[~tally.failed]
    return known.size > 1 and bool(np.isfinite(known).all()) and bool((np.round(known - known[0], 12) == 0).all())


def seeded_generator(tally: Tally, *, label: str, seed: int = 0) -> np.random.Generator:
    """Return a generator seeded by the sums of the tally, a label and a seed, and by nothing else."""
    sha = hashlib.sha256(f"{label}:{seed}:{tally.policies}".encode())
    sha.update(np.round(tally.wins, 9).astype("<f8").tobytes() + tally.count.astype("<i8").tobytes())
    sha.update(tally.failed.tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(sha.digest()[:16], "little")))


def _components(s_KN: Float64s, g_KN: Float64s) -> tuple[Float64s, Float64s]:
    """Within-episode noise and between-policy spread of (success, progress): two 2x2 covariances."""
    policies, n = s_KN.shape
    both = np.stack([s_KN, g_KN])
    rows, columns = both.mean(axis=2, keepdims=True), both.mean(axis=1, keepdims=True)
    left = (both - rows - columns + both.mean(axis=(1, 2), keepdims=True)).reshape(2, -1)
    noise = left @ left.T / ((policies - 1) * (n - 1))
    means = rows[:, :, 0] - both.mean(axis=(1, 2))[:, None]
    return noise, means @ means.T / (policies - 1) - noise / n


def _count_ranks(draws_DK: Float64s, tiebreak_DK: Float64s, k: int) -> Float64s:
    """Sum over draws of: in the top k, best, rank; equal draws (rates of 1, to float precision) are ordered at random. [3, K]."""
    ranks_DK = np.argsort(np.lexsort((tiebreak_DK, -draws_DK), axis=1), axis=1, kind="stable")
    return np.stack([(ranks_DK < k).sum(axis=0), (ranks_DK == 0).sum(axis=0), (ranks_DK + 1).sum(axis=0)]).astype(
        np.float64
    )
