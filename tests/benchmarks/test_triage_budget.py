"""The replay behind the budget figure: uniform's shortcut is uniform, and the factor is read off the curve rightly."""

import numpy as np
import pytest

from benchmarks.triage_budget import find_uniform_budget, measure_recall, pick_by_halving, pick_by_uniform
from worldsim.triage.allocate import Uniform
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.posterior import order

RATES = np.random.default_rng(0).beta(2, 3, 60)


def test_the_shortcut_for_uniform_is_the_ranking_after_uniform():
    episodes = Uniform(budget=60 * 25).table_size(60)
    wins = np.random.default_rng(3).binomial(episodes, RATES)
    success = (np.arange(episodes) < wins[:, None]) * 1.0
    ranked = order(Evidence(success=success, progress=success, failed=np.zeros(60, dtype=bool)))
    assert pick_by_uniform(RATES, per_policy=25, generator=np.random.default_rng(3)).tolist() == ranked[:10].tolist()


@pytest.mark.parametrize("informative", [False, True])
def test_halving_finds_most_of_the_best(informative):
    picks = pick_by_halving(RATES, per_policy=60, generator=np.random.default_rng(1), informative=informative)
    assert len(set(picks.tolist())) == 10 and measure_recall(picks, RATES) >= 0.7


def test_recall_counts_the_true_best():
    assert measure_recall(np.argsort(-RATES)[:10], RATES) == 1 and measure_recall(np.argsort(RATES)[:10], RATES) == 0


def test_the_factor_is_read_off_the_curve():
    curve = {100: (0.2, 0.0), 400: (0.6, 0.0), 200: (0.4, 0.0)}
    assert find_uniform_budget(curve, 0.6) == pytest.approx(400) and find_uniform_budget(curve, 0.3) == pytest.approx(
        100 * 2**0.5
    )
    assert find_uniform_budget(curve, 0.9) == pytest.approx(400) and find_uniform_budget(curve, 0.1) == pytest.approx(
        100
    )
