import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.stats.intervals import clopper_pearson
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.judge_correction import (
    correct_by_rates,
    correct_by_truth,
    correct_rates,
    find_rates,
)
from worldsim.triage.ranking.posterior import CorrectedTally


def sweep(rates, *, pairs, others, accuracy, seed, uneven=False):
    """Truth and a judge's probabilities: right with `accuracy`, or differently good by policy."""
    draw, k = np.random.default_rng(seed), len(rates)
    y = draw.random((k, pairs + others)) < np.asarray(rates)[:, None]
    good = draw.uniform(accuracy - 0.2, min(1, accuracy + 0.1), (k, 1)) if uneven else np.full((k, 1), accuracy)
    vote = np.where(draw.random(y.shape) < good, y, ~y)
    f = np.clip(np.where(vote, 0.9, 0.1) + draw.normal(0, 0.05, y.shape), 0, 1)
    return y[:, :pairs].astype(float), f[:, :pairs], f[:, pairs:]


def corrected(rates, **options):
    y, f, others = sweep(rates, **options)
    found = correct_by_truth(y, judged_KN=f, others_KM=others)
    return y, f, others, found


def simulated(*, repeats=60, policies=20, **options):
    """Share covered by place of the true rate, mean error and its root mean square."""
    rates = np.linspace(0.02, 0.98, policies)
    hits, off = [], []
    for seed in range(repeats):
        found = corrected(rates, seed=seed, **options)[3]
        hits.append([c.interval.low <= r <= c.interval.high for c, r in zip(found, rates, strict=True)])
        off.append([c.value - r for c, r in zip(found, rates, strict=True)])
    thirds = np.array_split(np.array(hits).mean(0), 3)
    return [float(t.mean()) for t in thirds], float(np.mean(off)), float(np.sqrt(np.mean(np.square(off))))


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("accuracy", [0.5, 0.8, 0.98])
def test_the_truth_corrects_without_bias_and_its_intervals_cover(accuracy, uneven):
    covered, off, spread = simulated(pairs=12, others=60, accuracy=accuracy, uneven=uneven)
    assert min(covered) > 0.93
    assert abs(off) < 0.01
    alone = np.sqrt(np.mean([r * (1 - r) / 12 for r in np.linspace(0.02, 0.98, 20)]))
    assert spread < alone * (1.06 if accuracy == 0.5 else 1.02)
    if accuracy == 0.98 and not uneven:
        assert spread < 0.62 * alone  # what a good judge of 60 more episodes is worth


def test_a_judge_that_is_always_wrong_in_the_same_way_is_corrected():
    rates = np.full(30, 0.5)
    y, f, others = sweep(rates, pairs=12, others=60, accuracy=0.97, seed=3)
    kind = [np.clip(x + 0.3, 0, 1) for x in (f, others)]
    found = correct_by_truth(y, judged_KN=kind[0], others_KM=kind[1])
    assert np.mean([c.value for c in found]) == pytest.approx(0.5, abs=0.03)
    assert kind[1].mean() > 0.65


def test_without_weight_it_is_the_plain_mean_with_its_exact_interval():
    rates = np.linspace(0.1, 0.9, 10)
    y, f, _ = sweep(rates, pairs=12, others=8, accuracy=0.9, seed=0)
    for judged, others in ((f, np.full((10, 0), np.nan)), (np.full_like(f, 0.4), np.full((10, 5), 0.4))):
        for i, c in enumerate(correct_by_truth(y, judged_KN=judged, others_KM=others)):
            low, high = clopper_pearson([y[i].sum()], [12])
            assert c.weight == 0 and c.value == pytest.approx(y[i].mean()) and c.effective == 12
            assert c.interval.low == pytest.approx(float(low[0])) and c.interval.high == pytest.approx(float(high[0]))


def test_weight_is_that_of_ppi_plus_plus():
    y, f, others, found = corrected(np.linspace(0.2, 0.8, 40), pairs=30, others=90, accuracy=0.8, seed=1)
    inner = np.concatenate([f, others], 1)
    variance = ((inner - inner.mean(1, keepdims=True)) ** 2).sum() / (40 * 119)
    covariance = ((y - y.mean(1, keepdims=True)) * (f - f.mean(1, keepdims=True))).sum() / (40 * 29)
    assert found[7].weight == pytest.approx(covariance / ((1 + 30 / 90) * variance))
    assert found[7].value == pytest.approx(y[7].mean() + found[7].weight * (others[7].mean() - f[7].mean()))


@pytest.mark.parametrize("others", [30, 90, 300])
def test_a_rate_is_worth_what_the_theory_says(others):
    """n / (1 - rho^2 M / (M + n)) episodes for a judge with correlation 0.6 (0.8 right, at a rate of one half)."""
    found = corrected(np.full(200, 0.5), pairs=30, others=others, accuracy=0.8, seed=2)[3]
    assert np.mean([c.effective for c in found]) == pytest.approx(30 / (1 - 0.36 * others / (others + 30)), rel=0.04)


def test_a_judge_that_contradicts_the_truth_gets_no_weight():
    y, f, others = sweep(np.full(10, 0.5), pairs=12, others=40, accuracy=0.1, seed=0)
    assert all(c.weight == 0 for c in correct_by_truth(y, judged_KN=f, others_KM=others))
    few = correct_by_truth(y[:1, :6], judged_KN=1 - f[:1, :6], others_KM=1 - others[:1])[0]
    assert few.weight == 0  # five degrees of freedom are too few to estimate a covariance


def test_true_episodes_that_no_judge_saw_count_too():
    rates = np.linspace(0.05, 0.95, 20)
    covered, alone = [], []
    for seed in range(60):
        y, f, others = sweep(rates, pairs=12, others=60, accuracy=0.95, seed=seed)
        known = np.where(np.arange(12) < (np.arange(20) % 12)[:, None], f, np.nan)
        found = correct_by_truth(y, judged_KN=known, others_KM=others)
        assert found[0].weight == 0 and found[0].value == pytest.approx(y[0].mean())  # none of its episodes was judged
        assert all(c.truths == 12 for c in found)
        covered.append([c.interval.low <= r <= c.interval.high for c, r in zip(found, rates, strict=True)])
        alone.append([c.effective for c in found])
    assert np.mean(covered) > 0.94 and np.min(np.mean(covered, 0)) > 0.85
    assert np.mean(alone) > 13


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    policies=st.integers(1, 5),
    pairs=st.integers(0, 6),
    others=st.integers(0, 6),
    blank=st.floats(0, 0.6),
)
def test_whatever_is_known_rates_and_intervals_are_in_order(seed, policies, pairs, others, blank):
    draw = np.random.default_rng(seed)
    y = (draw.random((policies, pairs)) < 0.5).astype(float)
    f, more = draw.random((policies, pairs)).round(1), draw.random((policies, others)).round(1)
    for x in (y, f, more):
        x[draw.random(x.shape) < blank] = np.nan
    found = correct_by_truth(y, judged_KN=f, others_KM=more)
    for i, c in enumerate(found):
        truths = int((~np.isnan(y[i])).sum())
        assert (c is None) == (truths < 2)
        if c is not None:
            assert 0 <= c.interval.low <= c.value + 1e-9 and c.value <= c.interval.high + 1e-9 <= 1 + 1e-9
            assert 0 <= c.weight <= 1 and 0 < c.effective <= truths + others and c.truths == truths


@pytest.mark.parametrize(("se", "sp", "measured"), [(0.95, 0.9, 40), (0.7, 0.8, 200), (1.0, 1.0, 200)])
def test_known_rates_correct_and_their_intervals_cover(se, sp, measured):
    draw, off = np.random.default_rng(0), []
    for p in (0.05, 0.3, 0.7, 0.95):
        hits, values = [], []
        for _ in range(400):
            wins = draw.binomial(60, p * se + (1 - p) * (1 - sp))
            rates = JudgeRates(
                solved=measured,
                solved_right=draw.binomial(measured, se),
                unsolved=measured,
                unsolved_right=draw.binomial(measured, sp),
            )
            found = correct_by_rates(np.r_[np.full(wins, 0.8), np.full(60 - wins, 0.3)], rates=rates)
            hits.append(found.interval.low <= p <= found.interval.high)
            values.append(found.value)
        assert np.mean(hits) > 0.92, p
        off.append(np.mean(values) - p)
    assert np.abs(off[1:3]).max() < 0.02  # near 0 and 1 clipping shows


def test_rogan_gladen_by_hand():
    rates = JudgeRates(solved=100, solved_right=90, unsolved=100, unsolved_right=70)
    found = correct_by_rates(np.r_[np.full(48, 0.9), np.full(52, 0.1), [np.nan]], rates=rates)
    assert found.value == pytest.approx(0.3) and found.episodes == 100 and found.method == "rates"  # B.4's example
    assert (
        correct_by_rates(np.zeros(10), rates=rates).value == 0 and correct_by_rates(np.ones(10), rates=rates).value == 1
    )
    perfect = JudgeRates(solved=10**6, solved_right=10**6, unsolved=10**6, unsolved_right=10**6)
    exact = correct_by_rates(np.r_[np.ones(3), np.zeros(7)], rates=perfect)
    assert exact.value == pytest.approx(0.3) and exact.effective == pytest.approx(10)
    loose = JudgeRates(solved=20, solved_right=18, unsolved=20, unsolved_right=14)
    votes = np.r_[np.ones(48), np.zeros(52)]
    assert (
        correct_by_rates(votes, rates=loose).interval.width > 1.4 * correct_by_rates(votes, rates=rates).interval.width
    )
    grouped = JudgeRates(group="a", solved=20, solved_right=18, unsolved=20, unsolved_right=14)
    assert correct_by_rates(votes, rates=grouped).effective < 0.6 * correct_by_rates(votes, rates=loose).effective


def test_lang_and_reiczigels_interval_by_hand():
    found = correct_by_rates(
        np.r_[np.ones(6), np.zeros(34)], rates=JudgeRates(solved=20, solved_right=14, unsolved=30, unsolved_right=27)
    )
    z = 1.959964
    q, se, sp = (6 + z * z / 2) / (40 + z * z), 15 / 22, 28 / 32
    p, j = (q + sp - 1) / (se + sp - 1), se + sp - 1
    shift = 2 * z * z * (p * se * (1 - se) / 22 - (1 - p) * sp * (1 - sp) / 32)
    noise = q * (1 - q) / (40 + z * z) + p**2 * se * (1 - se) / 22 + (1 - p) ** 2 * sp * (1 - sp) / 32
    assert found.interval.low == pytest.approx(max(0, p + shift - z * noise**0.5 / j), abs=1e-6)
    assert found.interval.high == pytest.approx(p + shift + z * noise**0.5 / j, abs=1e-6)
    assert abs(shift) > 0.005


def test_what_cannot_be_corrected_is_not():
    useless = JudgeRates(solved=100, solved_right=52, unsolved=100, unsolved_right=51)
    assert correct_by_rates(np.ones(5), rates=useless) is None
    assert (
        correct_by_rates(np.full(5, np.nan), rates=JudgeRates(solved=9, solved_right=9, unsolved=9, unsolved_right=9))
        is None
    )
    assert (
        correct_by_rates(np.ones(5), rates=JudgeRates(solved=0, solved_right=0, unsolved=9, unsolved_right=9)) is None
    )


def test_the_closest_group_with_enough_episodes_counts():
    def rates(group, count):
        return JudgeRates(group=group, solved=count, solved_right=count, unsolved=count, unsolved_right=count)

    known = [rates("", 50), rates("run1", 30), rates("run1/100", 30), rates("run2", 5)]
    chosen = {n: find_rates(n, known).group for n in ("run1/100", "run1/200", "run1", "run10", "run2/100", "other")}
    assert chosen == {
        "run1/100": "run1/100",
        "run1/200": "run1",
        "run1": "run1",
        "run10": "",
        "run2/100": "",
        "other": "",
    }
    assert find_rates("run2", known[3:]) is None


def table(success):
    success = np.asarray(success, float)
    return Evidence(success=success, progress=success * 0.5, failed=np.zeros(len(success), bool))


def test_each_policy_is_corrected_in_the_best_way_that_is_open():
    draw = np.random.default_rng(0)
    triage, audit = table(draw.random((4, 20))), table(np.where(np.arange(4)[:, None] < 2, draw.random((4, 9)), np.nan))
    truth = (draw.random((4, 6)) < 0.5).astype(float)
    truth[2, 1:] = np.nan
    rates = [JudgeRates(solved=90, solved_right=80, unsolved=90, unsolved_right=80)]
    names = ["a", "b", "c", "d"]
    found = correct_rates(triage, audit=audit, truth=table(truth), names=names, rates=rates, alpha=0.05)
    assert [c.method for c in found] == ["truth", "truth", "rates", "truth"]
    assert [c.episodes for c in found] == [29, 29, 20, 20]
    alone = correct_rates(triage, audit=audit, truth=None, names=names, rates=rates, alpha=0.05)
    assert [c.method for c in alone] == ["rates"] * 4 and alone[0].episodes == 29
    assert alone[2] == found[2]
    none = correct_rates(triage, audit=None, truth=None, names=names, rates=(), alpha=0.05)
    assert none == [None] * 4 and CorrectedTally.of(triage, none) is None
    mixed = CorrectedTally.of(triage, [*found[:3], None])
    assert mixed is None and CorrectedTally.of(triage.fail(3), [*found[:3], None]) is not None


def test_bad_input():
    with pytest.raises(InvalidInputError, match="same episodes"):
        correct_by_truth(np.zeros((2, 3)), judged_KN=np.zeros((2, 4)), others_KM=np.zeros((2, 1)))
    with pytest.raises(InvalidInputError, match="0..1"):
        correct_by_truth(np.zeros((2, 3)), judged_KN=np.full((2, 3), 1.5), others_KM=np.zeros((2, 1)))
    with pytest.raises(InvalidInputError, match="more often"):
        JudgeRates(solved=1, solved_right=2, unsolved=1, unsolved_right=0)
