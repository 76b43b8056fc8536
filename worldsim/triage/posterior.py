"""What to believe about each policy: an empirical-Bayes beta-binomial model of the success rates.

The prior is learned from the sweep itself, on the episodes every policy has seen, so that adaptive allocation does not
tilt it. Progress informs the prior mean of each policy as far as it is found to predict success between policies, so it
matters while successes are few and fades as they accumulate. For decisions and shrunk means; guarantees come from
`intervals`, which uses no prior.

Shape legend: K policies, n shared episodes, D draws.
"""

import dataclasses
import hashlib

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.triage.evidence import Evidence

Floats = NDArray[np.float64]
_DRAWS = 4000
_CHUNK = 500  # draws held in memory at a time
_EDGE = 1e-3  # prior means stay this far from 0 and 1
_FEW = 8  # below this number of policies the relation of progress to success is not estimated


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


def fit_prior(evidence: Evidence) -> Prior:
    """Learn the prior from the episodes that every policy has seen, by moments.

    With s and g the success and progress of a policy on an episode, the part of g that the success of the same episode
    does not explain, u = g - lambda s, has noise independent of that of s. Between policies the success rate p is then
    regressed on mean u: E[p | u] = m + beta (u - mean u), the area model of Fay and Herriot (JASA 74, 1979). Within and
    between components are those of a two-way layout of policies by shared episodes, so the difficulty of an episode
    cancels. The between variance is kept above its standard error, sqrt(2 / K) times the noise.

    Args:
        evidence: What is known; crashed policies are left out of the fit.

    Returns:
        The prior of all K policies. Fewer than 2 shared episodes or 3 policies give a weak prior around the mean.
    """
    alive = ~evidence.failed
    shared = evidence.done[alive].all(axis=0) if alive.any() else np.zeros(evidence.episodes, dtype=np.bool_)
    n, policies = int(shared.sum()), int(alive.sum())
    if n < 2 or policies < 3:
        return _weak_prior(evidence, alive)
    s_kn, g_kn = evidence.success[alive][:, shared], evidence.progress[alive][:, shared]
    noise, spread = _components(s_kn, g_kn)
    floor = np.sqrt(2 / policies) * noise[0, 0] / n + 1e-9
    slope = noise[0, 1] / noise[0, 0] if noise[0, 0] > 0 else 0.0
    to_u = np.array([-slope, 1.0])
    noise_u, spread_u = float(to_u @ noise @ to_u), max(0.0, float(to_u @ spread @ to_u))
    spread_pu = float(spread[0] @ to_u)
    informative = policies >= _FEW and spread_u > np.sqrt(2 / policies) * noise_u / n and spread_pu > 0
    count = np.maximum(evidence.count, 1)
    beta = spread_pu / (spread_u + noise_u / count) if informative else np.zeros(evidence.policies)
    u = np.nan_to_num(evidence.progress_mean - slope * evidence.success_mean)
    centre = float(s_kn.mean())
    mean = np.clip(centre + beta * (u - float((g_kn - slope * s_kn).mean())), _EDGE, 1 - _EDGE)
    left = np.maximum(spread[0, 0] - beta * spread_pu, floor)
    return Prior(mean=mean, strength=np.maximum(mean * (1 - mean) / left - 1, 0.5))


def posterior(evidence: Evidence, *, k: int, prior: Prior | None = None, draws: int = _DRAWS) -> Posterior:
    """Compute what the evidence says about the order of the policies.

    The draws come from a generator seeded by the evidence itself: equal evidence, equal answer.

    Args:
        evidence: What is known.
        k: How many best policies are asked for, at least 1.
        prior: Defaults to `fit_prior(evidence)`.
        draws: Posterior draws D; probabilities have a standard error of at most 0.5 / sqrt(D).

    Raises:
        InvalidInputError: k or draws is below 1.
    """
    if k < 1 or draws < 1:
        raise InvalidInputError(f"posterior needs k and draws of at least 1; got k = {k}, draws = {draws}.")
    prior = fit_prior(evidence) if prior is None else prior
    alive = np.flatnonzero(~evidence.failed)
    a, b = parameters(evidence, prior)
    total = evidence.policies
    score, top, best = np.zeros(total), np.zeros(total), np.zeros(total)
    expected = np.full(total, float(total))
    score[alive] = (a / (a + b))[alive]
    ranks = np.zeros((3, alive.size))
    generator = keyed(evidence, label="posterior")
    for start in range(0, draws, _CHUNK):
        ranks += _tally(generator.beta(a[alive], b[alive], size=(min(_CHUNK, draws - start), alive.size)), k)
    top[alive], best[alive], expected[alive] = ranks / draws
    return Posterior(score=score, p_top_k=top, p_best=best, expected_rank=expected)


def parameters(evidence: Evidence, prior: Prior) -> tuple[Floats, Floats]:
    """Return the two parameters [K], [K] of each policy's posterior beta distribution."""
    wins, count = evidence.wins, evidence.count
    return prior.mean * prior.strength + wins, (1 - prior.mean) * prior.strength + count - wins


def order(evidence: Evidence, *, prior: Prior | None = None) -> NDArray[np.int64]:
    """Return policy indices, best first: crashed ones last, then by score, progress, success mean, and index.

    The score is the posterior mean of the success rate, compared to 12 decimals.

    Args:
        evidence: What is known.
        prior: Defaults to `fit_prior(evidence)`.
    """
    a, b = parameters(evidence, fit_prior(evidence) if prior is None else prior)
    score = np.round(a / (a + b), 12)
    progress, success = np.nan_to_num(evidence.progress_mean), np.nan_to_num(evidence.success_mean)
    index = np.arange(evidence.policies)
    return np.lexsort((index, -success, -np.round(progress, 12), -score, evidence.failed)).astype(np.int64)


def keyed(evidence: Evidence, *, label: str, seed: int = 0) -> np.random.Generator:
    """Return a generator that depends on the sums of the evidence, a label and a seed, and on nothing else."""
    sha = hashlib.sha256(f"{label}:{seed}:{evidence.policies}".encode())
    sha.update(np.round(evidence.wins, 9).astype("<f8").tobytes() + evidence.count.astype("<i8").tobytes())
    sha.update(evidence.failed.tobytes())
    return np.random.Generator(np.random.Philox(key=int.from_bytes(sha.digest()[:16], "little")))


def _components(s_kn: Floats, g_kn: Floats) -> tuple[Floats, Floats]:
    """Within-episode noise and between-policy spread of (success, progress): two 2x2 covariances."""
    policies, n = s_kn.shape
    both = np.stack([s_kn, g_kn])
    rows, columns = both.mean(axis=2, keepdims=True), both.mean(axis=1, keepdims=True)
    left = (both - rows - columns + both.mean(axis=(1, 2), keepdims=True)).reshape(2, -1)
    noise = left @ left.T / ((policies - 1) * (n - 1))
    means = rows[:, :, 0] - both.mean(axis=(1, 2))[:, None]
    return noise, means @ means.T / (policies - 1) - noise / n


def _weak_prior(evidence: Evidence, alive: NDArray[np.bool_]) -> Prior:
    """Two rollouts' worth of belief in the mean of all policies."""
    seen = evidence.count > 0
    pooled = evidence.success_mean[alive & seen]
    centre = (float(pooled.sum()) + 1) / (pooled.size + 2)
    return Prior(mean=np.full(evidence.policies, centre), strength=np.full(evidence.policies, 2.0))


def _tally(draws_dk: Floats, k: int) -> Floats:
    """Sum over draws of: in the top k, best, rank. Returns [3, K]."""
    ranks_dk = np.argsort(np.argsort(-draws_dk, axis=1, kind="stable"), axis=1, kind="stable")
    return np.stack([(ranks_dk < k).sum(axis=0), (ranks_dk == 0).sum(axis=0), (ranks_dk + 1).sum(axis=0)]).astype(
        np.float64
    )
