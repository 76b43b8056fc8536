"""Agreement formulas: published tables, brute force, scipy, and the traps of ties and argument order."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from worldsim.errors import InvalidInputError
from worldsim.stats import correlation

# Success rates published with SIMPLER (Li et al. 2024): real robot, simulation. Policies in the order RT-2-X, RT-1
# converged, RT-1 at 15 %, RT-1-X, RT-1 at the beginning, Octo base; the last four tasks: RT-1-X, Octo base, Octo small.
SIMPLER = {
    "pick coke can": (
        [0.907, 0.853, 0.920, 0.760, 0.133, 0.293],
        [0.787, 0.857, 0.710, 0.567, 0.027, 0.170],
        0.975,
        0.031,
    ),
    "move near": ([0.733, 0.633, 0.583, 0.450, 0.017, 0.350], [0.779, 0.442, 0.354, 0.317, 0.050, 0.042], 0.856, 0.111),
    "open drawer": ([0.333, 0.815, 0.704, 0.519, 0, 0.148], [0.157, 0.601, 0.463, 0.296, 0, 0.009], 0.983, 0.0),
    "close drawer": ([0.630, 0.926, 0.889, 0.741, 0, 0.519], [0.343, 0.861, 0.667, 0.891, 0.278, 0.444], 0.771, 0.123),
    "place apple": ([0.074, 0.185, 0.185, 0.407, 0, 0], [0.037, 0.065, 0.130, 0.213, 0, 0], 0.969, 0.0),
    "spoon on towel": ([0, 0.333, 0.417], [0, 0.125, 0.472], 0.827, 0.0),
    "carrot on plate": ([0, 0.250, 0.083], [0.042, 0.083, 0.097], 0.571, 0.111),
    "stack cube": ([0, 0, 0.125], [0, 0, 0.042], 1.0, 0.0),
    "eggplant in basket": ([0, 0.250, 0.400], [0, 0.431, 0.569], 0.989, 0.0),
}
RATES = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=9).map(
    lambda pairs: (np.array([p[0] for p in pairs]) / 6, np.array([p[1] for p in pairs]) / 6)
)


@pytest.mark.parametrize("task", SIMPLER)
def test_published_tables_are_reproduced(task):
    real, simulation, r, violation = SIMPLER[task]
    assert correlation.pearson(truth=real, world=simulation) == pytest.approx(r, abs=6e-4)
    assert correlation.mmrv(truth=real, world=simulation) == pytest.approx(violation, abs=6e-4)


def test_the_order_of_arguments_matters_and_cannot_be_mistaken():
    real, simulation, *_ = SIMPLER["move near"]
    assert correlation.mmrv(truth=simulation, world=real) == pytest.approx(0.0027, abs=1e-4)
    with pytest.raises(TypeError):
        correlation.mmrv(real, simulation)


@given(RATES)
def test_mmrv_is_its_definition(rates):
    r, s = rates
    worst = [
        max([abs(r[i] - r[j]) for j in range(len(r)) if (s[i] > s[j]) != (r[i] > r[j])], default=0.0)
        for i in range(len(r))
    ]
    assert correlation.mmrv(truth=r, world=s) == pytest.approx(np.mean(worst))
    assert correlation.mmrv(truth=r, world=r) == 0


def test_a_tie_in_the_world_is_charged_to_the_better_policy():
    assert correlation.mmrv(truth=[0.9, 0.1], world=[0.5, 0.5]) == pytest.approx(0.4)
    assert correlation.mmrv(truth=[0.5, 0.5], world=[0.9, 0.1]) == 0


@given(RATES)
def test_correlations_are_scipys(rates):
    r, s = rates
    if np.ptp(r) == 0 or np.ptp(s) == 0:
        for metric in (correlation.pearson, correlation.spearman, correlation.kendall):
            assert math.isnan(metric(truth=r, world=s))
        return
    assert correlation.pearson(truth=r, world=s) == pytest.approx(stats.pearsonr(r, s).statistic, abs=1e-9)
    assert correlation.spearman(truth=r, world=s) == pytest.approx(stats.spearmanr(r, s).statistic, abs=1e-9)
    assert correlation.kendall(truth=r, world=s) == pytest.approx(stats.kendalltau(r, s).statistic, abs=1e-9)


@given(RATES, st.sampled_from([0.0, 0.2, 0.5]))
def test_order_accuracy_counts_pairs(rates, gap):
    r, s = rates
    scores = [
        (np.sign(s[i] - s[j]) * np.sign(r[i] - r[j]) + 1) / 2
        for i, j in itertools.combinations(range(len(r)), 2)
        if r[i] != r[j] and abs(r[i] - r[j]) >= gap
    ]
    found = correlation.order_accuracy(truth=r, world=s, gap=gap)
    assert math.isnan(found) if not scores else found == pytest.approx(np.mean(scores))


@given(RATES, st.integers(1, 9), st.sampled_from([0.0, 0.2]))
def test_recall_and_set_regret_are_means_over_ways_to_break_ties(rates, k, epsilon):
    r, s = rates
    assume(k <= len(r))
    boundary = np.sort(s)[-k]
    sure, tied = np.flatnonzero(s > boundary), np.flatnonzero(s == boundary)
    sets = [[*sure, *rest] for rest in itertools.combinations(tied, k - len(sure))]
    bar = np.sort(r)[-k] - epsilon
    assert correlation.recall(truth=r, world=s, k=k, epsilon=epsilon) == pytest.approx(
        np.mean([[r[i] >= bar - 1e-9 for i in chosen] for chosen in sets])
    )
    lost = np.sort(r)[-k:].mean() - np.mean([r[list(chosen)].mean() for chosen in sets])
    assert correlation.set_regret(truth=r, world=s, k=k) == pytest.approx(lost, abs=1e-9)
    worst = max(r.max() - r[list(chosen)].max() for chosen in sets)
    assert correlation.regret(truth=r, world=s, k=k) == pytest.approx(worst, abs=1e-9)


def test_bias_has_a_sign_and_error_has_none():
    assert correlation.bias(truth=[0.2, 0.4], world=[0.4, 0.4]) == pytest.approx(0.1)
    assert correlation.bias(truth=[0.4, 0.4], world=[0.2, 0.4]) == pytest.approx(-0.1)
    assert correlation.mean_absolute_error(truth=[0.2, 0.6], world=[0.4, 0.4]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("truth", "world", "message"),
    [([1, 2], [1], "one value per policy"), ([], [], "one value per policy"), ([1.0, math.nan], [0.0, 0.0], "numbers")],
)
def test_wrong_input_is_refused(truth, world, message):
    with pytest.raises(InvalidInputError, match=message):
        correlation.bias(truth=truth, world=world)
    with pytest.raises(InvalidInputError, match=r"k must lie in 1\.\.2"):
        correlation.recall(truth=[0, 1], world=[0, 1], k=3)
