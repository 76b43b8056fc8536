"""Intervals: closed forms against brute force, coverage when one peeks, published values."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from worldsim.errors import InvalidInputError
from worldsim.stats.intervals import clopper_pearson, confidence_sequence, mean_sequence

COUNTS = st.integers(0, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(COUNTS, st.sampled_from([0.01, 0.05, 0.3]))
def test_clopper_pearson_is_scipys(counts, alpha):
    k, n = counts
    low, high = clopper_pearson([k], [n], alpha=alpha)
    if n == 0:
        assert (low[0], high[0]) == (0, 1)
        return
    exact = stats.binomtest(k, n).proportion_ci(1 - alpha, method="exact")
    assert low[0] == pytest.approx(exact.low, abs=1e-9) and high[0] == pytest.approx(exact.high, abs=1e-9)


@given(COUNTS, st.sampled_from([0.001, 0.05, 0.3]))
def test_confidence_sequence_is_the_set_it_says(counts, alpha):
    k, n = counts
    low, high = (float(end[0]) for end in confidence_sequence([k], [n], alpha=alpha))
    p = np.linspace(0, 1, 501)
    ratio = special.betaln(k + 1, n - k + 1) - special.xlogy(k, p) - special.xlog1py(n - k, -p)
    inside = ratio < math.log(1 / alpha)
    assert np.array_equal(inside, (p > low) & (p < high) | inside & ((p == low) | (p == high)))
    if n:
        assert low <= k / n <= high


def test_confidence_sequence_takes_many_policies_at_once():
    wins, count = np.array([0, 3, 50, 7.5]), np.array([0, 3, 80, 20])
    low, high = confidence_sequence(wins, count)
    for i in range(4):
        alone = confidence_sequence(wins[i : i + 1], count[i : i + 1])
        assert (low[i], high[i]) == (alone[0][0], alone[1][0])
    assert (low[0], high[0]) == (0, 1)


@pytest.mark.parametrize(("k", "n", "width"), [(50, 100, 0.309), (500, 1000, 0.111), (80, 100, 0.251)])
def test_confidence_sequence_is_as_wide_as_published(k, n, width):
    low, high = confidence_sequence([k], [n])
    assert high[0] - low[0] == pytest.approx(width, abs=0.006)


def ever_missed(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """Share of paths [R, T] on which some interval misses."""
    return float(((low > truth) | (high < truth)).any(axis=1).mean())


@pytest.mark.parametrize("p", [0.03, 0.4, 0.9])
def test_peeking_costs_the_sequence_nothing_and_the_fixed_interval_its_promise(p):
    random, paths, alpha = np.random.default_rng(7), 1500, 0.1
    n = np.unique(np.geomspace(1, 600, 60).astype(int))
    wins = np.cumsum(random.random((paths, n[-1])) < p, axis=1)[:, n - 1]
    count = np.broadcast_to(n, wins.shape)
    assert ever_missed(*confidence_sequence(wins, count, alpha=alpha), p) <= alpha
    assert ever_missed(*clopper_pearson(wins, count, alpha=alpha), p) > 1.5 * alpha


def test_the_sequence_also_holds_for_outcomes_between_zero_and_one():
    random, paths, alpha = np.random.default_rng(8), 800, 0.1
    x = random.beta(0.3, 0.7, (paths, 300))
    n = np.arange(1, 301)
    assert ever_missed(*confidence_sequence(np.cumsum(x, axis=1), n[None].repeat(paths, 0), alpha=alpha), 0.3) <= alpha


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.2), (8, 2), (0.1, 2)])
def test_mean_sequence_holds_under_peeking(a, b):
    random, paths, alpha = np.random.default_rng(9), 400, 0.1
    x = random.beta(a, b, (paths, 200))
    missed = np.zeros(paths, dtype=bool)
    for t in (1, 2, 5, 10, 20, 50, 100, 200):
        low, high = mean_sequence(x[:, :t], alpha=alpha)
        missed |= (low > a / (a + b)) | (high < a / (a + b))
    assert missed.mean() <= alpha


def hedged_set(x: np.ndarray, alpha: float, m: np.ndarray) -> np.ndarray:
    """Which candidate means survive, by the definition: one step, one candidate at a time."""
    kept = []
    for mean in m:
        up = down = 1.0
        for t in range(1, len(x) + 1):
            past = x[: t - 1]
            centres = [(0.5 + past[: j + 1].sum()) / (j + 2) for j in range(len(past))]
            variance = (0.25 + sum((v - c) ** 2 for v, c in zip(past, centres, strict=True))) / t
            bet = math.sqrt(2 * math.log(2 / alpha) / (variance * t * math.log(1 + t)))
            up *= 1 + min(bet, 0.5 / mean) * (x[t - 1] - mean)
            down *= 1 - min(bet, 0.5 / (1 - mean)) * (x[t - 1] - mean)
        kept.append(max(up, down) / 2 < 1 / alpha)
    return np.array(kept)


@given(st.lists(st.floats(0, 1), max_size=25), st.sampled_from([0.02, 0.2]))
def test_mean_sequence_is_the_set_it_says(values, alpha):
    x, m = np.array(values), np.linspace(0.02, 0.98, 25)
    low, high = (float(end[0]) for end in mean_sequence(x[None], alpha=alpha))
    near = (np.abs(m - low) < 1e-6) | (np.abs(m - high) < 1e-6)
    assert (hedged_set(x, alpha, m) == ((m > low) & (m < high)))[~near].all()


def test_mean_sequence_skips_what_is_not_known():
    x = np.array([[0.2, np.nan, 0.9, 0.4, np.nan], [np.nan] * 5])
    low, high = mean_sequence(x)
    dense = mean_sequence(np.array([[0.2, 0.9, 0.4]]))
    assert (low[0], high[0]) == (dense[0][0], dense[1][0])
    assert (low[1], high[1]) == (0, 1)


def test_low_variance_narrows_the_mean_sequence():
    random = np.random.default_rng(1)
    quiet, loud = 0.6 + 0.02 * random.standard_normal((1, 200)), (random.random((1, 200)) < 0.6) * 1.0
    widths = [float((high - low)[0]) for low, high in map(mean_sequence, (quiet, loud))]
    assert widths[0] < 0.35 * widths[1]


def test_wrong_input_is_refused():
    with pytest.raises(InvalidInputError, match="rollouts"):
        clopper_pearson([3], [2])
    with pytest.raises(InvalidInputError, match="alpha"):
        confidence_sequence([1], [2], alpha=0)
    with pytest.raises(InvalidInputError, match=r"0\.\.1"):
        mean_sequence([[1.2]])
