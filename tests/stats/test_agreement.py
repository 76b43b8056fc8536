"""The agreement report: every number has an interval or a reason, and both are right."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.stats import correlation, intervals
from worldsim.stats.agreement import measure_agreement
from worldsim.stats.intervals import Estimate


def bernoulli(random: np.random.Generator, rates: np.ndarray, n: int) -> np.ndarray:
    return (random.random((rates.size, n)) < rates[:, None]).astype(float)


def sweep(seed: int = 0, policies: int = 12, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    rates = random.uniform(0.1, 0.9, policies)
    return bernoulli(random, rates, n), bernoulli(random, np.clip(rates + 0.05, 0, 1), n)


def test_values_are_those_of_the_formulas_and_lie_in_their_intervals():
    truth, world = sweep()
    report = measure_agreement(truth, world=world, k=4, draws=200)
    r, s = truth.mean(axis=1), world.mean(axis=1)
    assert report["pearson"].value == pytest.approx(correlation.pearson(truth=r, world=s))
    assert report["mmrv"].value == pytest.approx(correlation.mmrv(truth=r, world=s))
    assert report["bias"].value == pytest.approx((s - r).mean())
    assert report["recall"].value == correlation.recall(truth=r, world=s, k=4)
    assert report["recall_within_epsilon"].value == correlation.recall(truth=r, world=s, k=4, epsilon=0.05)
    assert (report.policies, report.truth_rollouts, report.world_rollouts) == (12, 60, 60)
    for estimate in report.estimates:
        assert estimate.low <= estimate.value <= estimate.high
        assert estimate.n == 12 and not estimate.undefined
    assert not any(e.name.startswith("episode") for e in report.estimates)


def test_equal_outcomes_give_equal_reports_and_other_outcomes_do_not():
    truth, world = sweep()
    assert measure_agreement(truth, world=world, k=4, draws=50) == measure_agreement(truth, world=world, k=4, draws=50)
    assert measure_agreement(truth, world=world, k=4, draws=50) != measure_agreement(world, world=truth, k=4, draws=50)


def test_policies_without_outcomes_are_left_out_and_named():
    truth, world = sweep()
    truth[3], world[7] = np.nan, np.nan
    world[5, 10:] = np.nan
    report = measure_agreement(truth, world=world, k=4, draws=50)
    keep = [i for i in range(12) if i not in (3, 7)]
    assert report.left_out == (3, 7) and report.policies == 10 and report.world_rollouts == 10
    clean = measure_agreement(truth[keep], world=world[keep], k=4, draws=50)
    assert report.estimates == clean.estimates


def reason(truth: np.ndarray, world: np.ndarray, name: str, k: int = 1, matched: bool = False) -> str:
    estimate = measure_agreement(truth, world=world, k=k, draws=20, matched=matched)[name]
    assert estimate.value is None and estimate.low is None and estimate.high is None
    assert "undefined because" in str(estimate)
    return estimate.undefined


def test_what_does_not_exist_says_why():
    random = np.random.default_rng(0)
    flat, varied = np.ones((6, 5)), bernoulli(random, np.linspace(0, 1, 6), 40)
    assert "equal in truth" in reason(flat, varied, "pearson")
    assert "equal in the world" in reason(varied, flat, "spearman")
    assert "there are 2 policies, and it needs 3" in reason(varied[:2], varied[:2], "kendall")
    assert "gap" in reason(flat, varied, "order_accuracy")
    assert "k is not smaller" in reason(varied, varied, "recall", k=6)
    assert "too few policies" in reason(varied[:4], varied[:4], "pearson_without_extremes")
    assert "single rollout" in reason(varied[:, 20:21], varied, "noise_ceiling")
    same = np.tile([[1.0, 0.0]], (6, 10))
    same[0, 0] = 0
    assert "sampling noise" in reason(same, varied, "noise_ceiling")
    assert "same outcome in every episode" in reason(flat, varied[:, :5], "episode_phi", matched=True)


def test_bias_of_two_policies_has_a_value_and_says_why_it_has_no_interval():
    estimate = measure_agreement([[0.0, 0.0], [1.0, 1.0]], world=[[1.0, 0.0], [1.0, 1.0]], k=1)["bias"]
    assert estimate.value == 0.25 and estimate.low is None and "no interval because" in str(estimate)


def test_nothing_known_gives_an_empty_report():
    report = measure_agreement(np.full((3, 2), np.nan), world=np.zeros((3, 2)), k=1)
    assert report.policies == 0 and report.left_out == (0, 1, 2) and report.estimates == ()


@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 4))
@settings(max_examples=25)
def test_no_input_breaks_the_report(seed, policies, n):
    random = np.random.default_rng(seed)
    truth, world = (
        np.where(random.random((policies, n)) < 0.3, np.nan, random.integers(0, 2, (policies, n))) for _ in "ab"
    )
    for estimate in measure_agreement(truth, world=world, k=2, matched=True, draws=10).estimates:
        assert estimate.value is None or math.isfinite(estimate.value)
        assert (estimate.low is None) == (estimate.high is None)
        assert estimate.undefined or estimate.low is not None


def test_a_perfect_world_scores_its_noise_ceiling():
    random, ceilings, seen = np.random.default_rng(3), [], []
    for _ in range(60):
        rates = random.uniform(0.6, 0.8, 40)
        truth, world = bernoulli(random, rates, 100), bernoulli(random, rates, 100)
        means = correlation.average_outcomes(truth, world, matched=False)
        ceilings.append(correlation.noise_ceiling(means))
        seen.append(correlation.pearson(truth=means.truth, world=means.world))
    assert np.mean(seen) == pytest.approx(0.617, abs=0.04)  # Var(p) / (Var(p) + E[p(1-p)] / n), computed on paper
    assert np.nanmean(ceilings) == pytest.approx(np.mean(seen), abs=0.03)


def test_disattenuation_undoes_the_noise_even_where_it_is_shared():
    random, found = np.random.default_rng(4), {False: [], True: []}
    for _ in range(60):
        rates = random.uniform(0.2, 0.8, 60)
        other = np.clip(rates + random.normal(0, 0.08, 60), 0, 1)
        true_r = np.corrcoef(rates, other)[0, 1]
        luck = random.random((60, 30))
        for matched in found:
            again = luck if matched else random.random((60, 30))
            truth, world = (luck < rates[:, None]) * 1.0, (again < other[:, None]) * 1.0
            found[matched].append(
                correlation.pearson_disattenuated(correlation.average_outcomes(truth, world, matched=matched)) - true_r
            )
    for errors in found.values():
        assert np.mean(errors) == pytest.approx(0, abs=0.02)


def test_bias_spread_is_that_of_endless_rollouts_even_where_noise_is_shared():
    random, found = np.random.default_rng(14), {False: [], True: []}
    for _ in range(40):
        rates = random.uniform(0.3, 0.7, 60)
        other = rates + random.normal(0, 0.08, 60)
        luck = random.random((60, 40))
        for matched in found:
            again = luck if matched else random.random((60, 40))
            means = correlation.average_outcomes(
                (luck < rates[:, None]) * 1.0, (again < other[:, None]) * 1.0, matched=matched
            )
            found[matched].append(correlation.bias_spread(means))
    for spreads in found.values():
        assert np.mean(spreads) == pytest.approx(0.08, abs=0.008)


def test_intervals_of_correlation_and_error_cover():
    random, policies, n, paths = np.random.default_rng(5), 24, 100, 150

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        rates = random.uniform(0.05, 0.95, count)
        other = np.clip(rates + random.normal(0, 0.08, count), 0, 1)
        return random.binomial(n, rates) / n, random.binomial(n, other) / n

    large = draw(200_000)
    for metric in (correlation.pearson, correlation.mean_absolute_error):
        target, held = metric(truth=large[0], world=large[1]), 0
        for _ in range(paths):
            r, s = draw(policies)
            chosen = intervals.draw_policies(random, draws=250, count=policies)
            values = np.array([metric(truth=r[c], world=s[c]) for c in chosen])
            interval = intervals.bias_corrected_interval(
                values, value=metric(truth=r, world=s), count=policies, alpha=0.1
            )
            held += target in interval
        assert 0.82 <= held / paths <= 0.97


def test_redrawn_episodes_spread_as_sampling_does():
    random = np.random.default_rng(6)
    truth, world = np.full((1, 200), np.nan), np.full((1, 120), np.nan)
    truth[0, ::2], world[0, :90] = random.random(100), random.random(90)
    r, s = intervals.draw_episode_means(random, truth_KN=truth, world_KN=world, draws=3000, matched=False)
    assert r.mean() == pytest.approx(np.nanmean(truth), abs=0.003) and s.mean() == pytest.approx(
        np.nanmean(world), abs=0.003
    )
    assert r.std() == pytest.approx(np.nanstd(truth) / 10, rel=0.06)
    r, s = intervals.draw_episode_means(random, truth_KN=truth, world_KN=truth, draws=20, matched=True)
    assert np.array_equal(r, s)


def test_episode_agreement_matches_the_tables_by_hand():
    truth = np.array([[1, 1, 0, 0, np.nan], [1, 1, 1, 0, 0], [0, 0, 0, 0, 1.0]])
    world = np.array([[1, 0, 0, 1, 1], [1, 1, 1, np.nan, 0], [0, 0, 0, 1, 1.0]])
    report = measure_agreement(truth, world=world, k=1, matched=True, draws=30)
    both = ~(np.isnan(truth) | np.isnan(world))
    r, s = truth[both], world[both]
    a, p, q = (r == s).mean(), r.mean(), s.mean()
    chance = p * q + (1 - p) * (1 - q)
    assert report["episode_accuracy"].value == pytest.approx(a)
    assert report["episode_kappa"].value == pytest.approx((a - chance) / (1 - chance))
    assert report["episode_phi"].value == pytest.approx(np.corrcoef(r, s)[0, 1])
    assert report["episode_phi"].n == 13
    inner = [(t[b] - t[b].mean(), w[b] - w[b].mean()) for t, w, b in zip(truth, world, both, strict=True)]
    rs, rr, ss = (
        sum(float(u @ v) for u, v in pairs) for pairs in (inner, [(u, u) for u, _ in inner], [(v, v) for _, v in inner])
    )
    assert report["episode_phi_within"].value == pytest.approx(rs / math.sqrt(rr * ss))


def test_policies_that_differ_do_not_pass_for_agreement_within():
    random = np.random.default_rng(7)
    rates = np.array([0.02, 0.98] * 6)
    report = measure_agreement(
        bernoulli(random, rates, 100), world=bernoulli(random, rates, 100), k=2, matched=True, draws=50
    )
    assert report["episode_phi"].value > 0.85 and abs(report["episode_phi_within"].value) < 0.15


def test_progress_has_no_kappa():
    random = np.random.default_rng(8)
    values = random.random((5, 20))
    report = measure_agreement(values, world=values, k=2, matched=True, quantity="progress", draws=20)
    assert report["episode_phi"].value == pytest.approx(1)
    with pytest.raises(UnknownNameError, match="episode_kappa"):
        report["episode_kappa"]


def test_wrong_input_is_refused():
    with pytest.raises(InvalidInputError, match="one row per policy"):
        measure_agreement(np.zeros((2, 3)), world=np.zeros((3, 3)), k=1)
    with pytest.raises(InvalidInputError, match="one column per shared episode"):
        measure_agreement(np.zeros((3, 3)), world=np.zeros((3, 4)), k=1, matched=True)
    with pytest.raises(InvalidInputError, match=r"world must lie in 0\.\.1"):
        measure_agreement(np.zeros((3, 3)), world=np.full((3, 3), 2.0), k=1)
    with pytest.raises(InvalidInputError, match="at least 1"):
        measure_agreement(np.zeros((3, 3)), world=np.zeros((3, 3)), k=0)


def test_an_estimate_reads_as_a_sentence():
    assert str(Estimate(name="pearson", value=0.5, low=0.25, high=0.75, n=9)) == "pearson 0.500 (0.250 .. 0.750, n = 9)"
