"""Claim: sequential halving finds as many of the best 10 of 1,000 checkpoints as uniform with 8 times the rollouts.

Replays synthetic checkpoints with known success rates through the allocator and the ranking order that triage uses.
Three sweeps: wide Beta(2, 3), narrow Beta(30, 30), sparse Beta(0.6, 3). Outcomes are independent, and progress equals
success, so that nothing but the allocation is compared. The claim is judged where halving spends 100 rollouts per
checkpoint; the factors at 50 and 20 stand beside it. A fourth sweep, rare Beta(0.3, 8), measures what informative
progress adds while successes are few. Run: ``python -m benchmarks.triage_budget``.
"""

import functools
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from scipy import special

from benchmarks.record import Figure, run, write
from worldsim.arrays import Float64s, Int64s
from worldsim.stats.correlation import recall
from worldsim.triage.allocate import SequentialHalving, Uniform
from worldsim.triage.ranking.evidence import Evidence

POLICIES, K = 1000, 10
SWEEPS = {"wide": (2.0, 3.0), "narrow": (30.0, 30.0), "sparse": (0.6, 3.0), "rare": (0.3, 8.0)}
CLAIMED = ("wide", "narrow", "sparse")
UNIFORM = (50, 100, 200, 400, 800, 1600, 3200)  # rollouts per checkpoint
HALVING = {20: 100, 50: 150, 100: 200}  # rollouts per checkpoint -> replicas
JUDGED = 100  # the budget at which the claim is judged
UNIFORM_REPLICAS, RARE_REPLICAS, RARE_BUDGET = 400, 100, 5
SEED = 2026
_TO_PROGRESS = 0.35  # progress per standard deviation by which an episode misses


def draw_success_rates(name: str, replica: int) -> Float64s:
    """True success rates [POLICIES] of one synthetic sweep."""
    a, b = SWEEPS[name]
    return np.random.default_rng([SEED, list(SWEEPS).index(name), replica]).beta(a, b, POLICIES)


def draw_outcomes(
    rates: Float64s, episodes: int, generator: np.random.Generator, informative: bool
) -> tuple[Float64s, Float64s]:
    """Success and progress [K, N]: an episode succeeds if skill plus luck is above 0; progress says how far below."""
    if not informative:
        success = (generator.random((rates.size, episodes), dtype=np.float32) < rates[:, None]).astype(np.float64)
        return success, success
    skill = special.ndtri(np.clip(rates, 1e-4, 1 - 1e-4))
    margin = skill[:, None] + generator.standard_normal((rates.size, episodes))
    return (margin > 0).astype(np.float64), np.clip(1 + _TO_PROGRESS * margin, 0, 1)


def pick_by_halving(
    rates: Float64s, *, per_policy: int, generator: np.random.Generator, informative: bool = False
) -> Int64s:
    """Replay sequential halving through its allocator; return the k policies that remain."""
    allocator = SequentialHalving(k=K, budget=per_policy * rates.size)
    truth, shown = draw_outcomes(rates, allocator.table_size(rates.size), generator, informative)
    success, progress = np.full(truth.shape, np.nan), np.full(truth.shape, np.nan)
    failed = np.zeros(rates.size, dtype=np.bool_)
    spent = 0
    while True:
        evidence = Evidence.wrap(success=success, progress=progress, failed=failed)
        pairs = allocator.next(evidence, allocator.budget - spent)
        if not pairs:
            return allocator.survivors(evidence)
        policies, columns = np.array(pairs).T
        success[policies, columns], progress[policies, columns] = truth[policies, columns], shown[policies, columns]
        spent += len(pairs)


def pick_by_uniform(rates: Float64s, *, per_policy: int, generator: np.random.Generator) -> Int64s:
    """The k best after uniform allocation: with equal counts the ranking's order is that of wins, then of the index."""
    episodes = Uniform(budget=per_policy * rates.size).table_size(rates.size)
    wins = generator.binomial(episodes, rates)
    return np.asarray(np.lexsort((np.arange(rates.size), -wins))[:K], dtype=np.int64)


def measure_recall(picks: Int64s, rates: Float64s) -> float:
    """Share of the true best k among the picks."""
    score = np.zeros(rates.size)
    score[picks] = 1
    return recall(truth=rates, world=score, k=K)


class Pick(Protocol):
    """Names the k policies that a method takes for the best."""

    def __call__(self, rates: Float64s, *, generator: np.random.Generator) -> Int64s:
        """Replay the method on policies with these success rates."""


def average_recall(name: str, replicas: int, pick: Pick) -> tuple[float, float]:
    """Mean recall over replicas, and its standard error."""
    values = []
    for replica in range(replicas):
        rates = draw_success_rates(name, replica)
        values.append(measure_recall(pick(rates, generator=np.random.default_rng([SEED, 1000, replica])), rates))
    return float(np.mean(values)), float(np.std(values) / np.sqrt(replicas))


def find_uniform_budget(curve: Mapping[int, tuple[float, float]], recall: float) -> float:
    """Rollouts per checkpoint at which uniform's curve reaches `recall`, interpolated in their logarithm.

    The ends of the curve bound the answer.
    """
    budgets = sorted(curve)
    heights = np.maximum.accumulate([curve[b][0] for b in budgets])
    return float(np.exp(np.interp(recall, heights, np.log(budgets))))


def measure(name: str) -> tuple[list[Figure], dict[str, object]]:
    """Measure one of the claimed sweeps: the figures, and the curves behind them."""
    uniform, halving = {}, {}
    for budget in UNIFORM:
        pick = functools.partial(pick_by_uniform, per_policy=budget)
        uniform[budget] = average_recall(name, UNIFORM_REPLICAS, pick)
    for budget, replicas in HALVING.items():
        pick = functools.partial(pick_by_halving, per_policy=budget)
        halving[budget] = average_recall(name, replicas, pick)
    factor = {budget: find_uniform_budget(uniform, recall) / budget for budget, (recall, _) in halving.items()}
    figures = [
        Figure(name=f"{name}: recall, halving at {JUDGED}", value=halving[JUDGED][0]),
        Figure(name=f"{name}: recall, uniform at {8 * JUDGED}", value=uniform[8 * JUDGED][0]),
    ]
    for budget in sorted(HALVING, reverse=True):
        what = f"{name}: rollouts, uniform over halving at {budget}"
        figures.append(Figure(name=what, value=factor[budget]))
    curves = {"uniform_recall_and_error": uniform, "halving_recall_and_error": halving, "factor": factor}
    return figures, dict(curves)


def main() -> None:
    """Measure and report."""
    figures: list[Figure] = []
    details: dict[str, object] = {"unit of budgets": "rollouts per checkpoint", "recall": f"of the true best {K}"}
    for name in CLAIMED:
        found_figures, details[name] = measure(name)
        figures += found_figures
    for informative in (False, True):
        pick = functools.partial(pick_by_halving, per_policy=RARE_BUDGET, informative=informative)
        recall, _ = average_recall("rare", RARE_REPLICAS, pick)
        what = "informative progress" if informative else "success only"
        figures.append(Figure(name=f"rare: recall, halving at {RARE_BUDGET}, {what}", value=recall))
    write("triage_budget", figures=figures, seeds=[SEED], details=details)


if __name__ == "__main__":
    run(main)
