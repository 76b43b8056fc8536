"""What to believe about each policy: an empirical-Bayes beta-binomial model of the success rates.

The prior is learned from the sweep itself, on the episodes every policy has seen, so that adaptive allocation does not
tilt it. Progress informs the prior mean of each policy as far as it is found to predict success between policies, so it
matters while successes are few and fades as they accumulate. For decisions and shrunk means; guarantees come from
`intervals`, which uses no prior.

Shape legend: K policies, n shared episodes, D draws.
"""

import dataclasses
import hashlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.triage.ranking.evidence import Evidence

Floats = NDArray[np.float64]
_DRAWS = 4000
_CHUNK = 500  # draws held in memory at a time
_EDGE = 1e-3  # prior means stay this far from 0 and 1
_LEAST = 0.5  # smallest strength, in rollouts
_WEAK = 2.0  # strength where nothing could be learned
_FEW = 8  # below this number of policies the relation of progress to success is not estimated


class Tally(Protocol):
    """What beliefs are formed from: `Evidence`, or rates corrected to as many episodes as they are worth."""

    @property
    def policies(self) -> int:
        """Number of policies K."""

    @property
    def failed(self) -> NDArray[np.bool_]:
        """Bool [K]: crashed."""

    @property
    def wins(self) -> Floats:
        """float64 [K]: sum of success."""

    @property
    def count(self) -> NDArray[Any]:
        """[K]: episodes, whole or not."""

    @property
    def success_mean(self) -> Floats:
        """float64 [K], nan where there is none."""

    @property
    def progress_mean(self) -> Floats:
        """float64 [K], nan where there is none."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Prior:
    """Beta(mean * strength, (1 - mean) * strength) for each policy.

    Attributes:
        mean: float64 [K] in (0, 1).
        strength: float64 [K], > 0: how many rollouts the prior is worth.
    """

    mean: Floats
    strength: Floats


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """Beliefs about the success rates of K policies. Crashed policies hold score 0 and probability 0.

    Attributes:
        score: float64 [K], posterior mean of the success rate: the shrunk mean.
        p_top_k: float64 [K], probability to be among the best k; sums to k (or to the number of policies, if fewer).
        p_best: float64 [K], probability to be the best; sums to 1.
        expected_rank: float64 [K], posterior mean of the rank, 1 is best; crashed policies hold K.
    """

    score: Floats
    p_top_k: Floats
    p_best: Floats
    expected_rank: Floats


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sweep:
    """What the sweep as a whole looks like: the hyperparameters of the prior.

    With s and g the success and progress of a policy on an episode, u = g - slope * s is the part of progress that the
    success of the same episode does not explain; its noise is independent of that of s. Between policies the success
    rate p is regressed on the mean of u: the area model of Fay and Herriot (JASA 74, 1979).

    Attributes:
        policies: Policies it was learned from.
        episodes: Episodes it was learned from, shared by all of them; below 2, only `centre` means something.
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

    def prior(self, evidence: Tally) -> Prior:
        """Return the prior of each policy given its progress: E[p | u] = centre + beta (u - centre_u).

        No prior is worth more than n sqrt(K / 2) rollouts: a smaller spread could not be told from none.
        """
        total = evidence.policies
        if self.episodes < 2 or self.policies < 3:
            return Prior(mean=np.full(total, np.clip(self.centre, 0.1, 0.9)), strength=np.full(total, _WEAK))
        beta: Floats = np.zeros(total)
        error = np.sqrt(2 / self.policies) * self.noise_u / self.episodes
        if self.policies >= _FEW and self.spread_u > error and self.spread_pu > 0:
            beta = self.spread_pu / (self.spread_u + self.noise_u / np.maximum(evidence.count, 1))
        u = evidence.progress_mean - self.slope * evidence.success_mean
        shift = np.where(evidence.count > 0, beta * (np.nan_to_num(u) - self.centre_u), 0.0)
        mean = np.clip(self.centre + shift, _EDGE, 1 - _EDGE)
        left = np.maximum(self.spread - beta * self.spread_pu, 1e-9)
        strength = np.clip(mean * (1 - mean) / left - 1, _LEAST, self.episodes * np.sqrt(self.policies / 2))
        return Prior(mean=mean, strength=strength)


def fit_sweep(evidence: Evidence) -> Sweep:
    """Learn the sweep from the episodes that every policy has seen, by moments.

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
    s_kn, g_kn = evidence.success[alive][:, shared], evidence.progress[alive][:, shared]
    noise, spread = _components(s_kn, g_kn)
    slope = float(noise[0, 1] / noise[0, 0]) if noise[0, 0] > 0 else 0.0
    to_u = np.array([-slope, 1.0])
    return Sweep(
        policies=policies,
        episodes=n,
        centre=float(s_kn.mean()),
        centre_u=float((g_kn - slope * s_kn).mean()),
        slope=slope,
        spread=float(spread[0, 0]),
        spread_u=float(to_u @ spread @ to_u),
        spread_pu=float(spread[0] @ to_u),
        noise_u=float(to_u @ noise @ to_u),
    )


def fit_prior(evidence: Evidence) -> Prior:
    """Return the prior of each policy, learned from the evidence itself: `fit_sweep` and `Sweep.prior` in one."""
    return fit_sweep(evidence).prior(evidence)


def posterior(evidence: Tally, *, k: int, prior: Prior | None = None, draws: int = _DRAWS) -> Posterior:
    """Compute what the evidence says about the order of the policies.

    The draws come from a generator seeded by the evidence itself: equal evidence, equal answer.

    Args:
        evidence: What is known.
        k: How many best policies are asked for, at least 1.
        prior: Defaults to `fit_prior(evidence)`; corrected rates bring their own.
        draws: Posterior draws D; probabilities have a standard error of at most 0.5 / sqrt(D).

    Raises:
        InvalidInputError: k or draws is below 1.
    """
    if k < 1 or draws < 1:
        raise InvalidInputError(f"posterior needs k and draws of at least 1; got k = {k}, draws = {draws}.")
    prior = _prior(evidence) if prior is None else prior
    alive = np.flatnonzero(~evidence.failed)
    a, b = parameters(evidence, prior)
    total = evidence.policies
    score, top, best = np.zeros(total), np.zeros(total), np.zeros(total)
    expected = np.full(total, float(total))
    score[alive] = (a / (a + b))[alive]
    ranks = np.zeros((3, alive.size))
    generator = keyed(evidence, label="posterior")
    for start in range(0, draws, _CHUNK):
        drawn = generator.beta(a[alive], b[alive], size=(min(_CHUNK, draws - start), alive.size))
        ranks += _tally(drawn, generator.random(drawn.shape), k)
    top[alive], best[alive], expected[alive] = ranks / draws
    return Posterior(score=score, p_top_k=top, p_best=best, expected_rank=expected)


def parameters(evidence: Tally, prior: Prior) -> tuple[Floats, Floats]:
    """Return the two parameters [K], [K] of each policy's posterior beta distribution."""
    wins, count = evidence.wins, evidence.count
    return prior.mean * prior.strength + wins, (1 - prior.mean) * prior.strength + count - wins


def order(evidence: Tally, *, prior: Prior | None = None) -> NDArray[np.int64]:
    """Return policy indices, best first: crashed ones last, then by score, progress, success mean, and index.

    The score is the posterior mean of the success rate, compared to 12 decimals.

    Args:
        evidence: What is known.
        prior: Defaults to `fit_prior(evidence)`.
    """
    a, b = parameters(evidence, _prior(evidence) if prior is None else prior)
    score = np.round(a / (a + b), 12)
    progress, success = np.nan_to_num(evidence.progress_mean), np.nan_to_num(evidence.success_mean)
    index = np.arange(evidence.policies)
    return np.asarray(np.lexsort((index, -success, -np.round(progress, 12), -score, evidence.failed)), dtype=np.int64)


def keyed(evidence: Tally, *, label: str, seed: int = 0) -> np.random.Generator:
    """Return a generator that depends on the sums of the evidence, a label and a seed, and on nothing else."""
    sha = hashlib.sha256(f"{label}:{seed}:{evidence.policies}".encode())
    sha.update(np.round(evidence.wins, 9).astype("<f8").tobytes() + evidence.count.astype("<i8").tobytes())
    sha.update(evidence.failed.tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(sha.digest()[:16], "little")))


def _prior(evidence: Tally) -> Prior:
    assert isinstance(evidence, Evidence), "corrected rates bring their own prior"
    return fit_prior(evidence)


def _components(s_kn: Floats, g_kn: Floats) -> tuple[Floats, Floats]:
    """Within-episode noise and between-policy spread of (success, progress): two 2x2 covariances."""
    policies, n = s_kn.shape
    both = np.stack([s_kn, g_kn])
    rows, columns = both.mean(axis=2, keepdims=True), both.mean(axis=1, keepdims=True)
    left = (both - rows - columns + both.mean(axis=(1, 2), keepdims=True)).reshape(2, -1)
    noise = left @ left.T / ((policies - 1) * (n - 1))
    means = rows[:, :, 0] - both.mean(axis=(1, 2))[:, None]
    return noise, means @ means.T / (policies - 1) - noise / n


def _tally(draws_dk: Floats, lots_dk: Floats, k: int) -> Floats:
    """Sum over draws of: in the top k, best, rank; equal draws (rates of 1, to float precision) go by lot. [3, K]."""
    ranks_dk = np.argsort(np.lexsort((lots_dk, -draws_dk), axis=1), axis=1, kind="stable")
    return np.stack([(ranks_dk < k).sum(axis=0), (ranks_dk == 0).sum(axis=0), (ranks_dk + 1).sum(axis=0)]).astype(
        np.float64
    )
