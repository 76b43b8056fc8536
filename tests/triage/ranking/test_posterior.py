"""The empirical-Bayes model: closed forms, recovery of known sweeps, what progress may and may not do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from worldsim.errors import InvalidInputError
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.posterior import (
    Prior,
    beta_parameters,
    compute_posterior,
    fit_prior,
    fit_sweep,
    order,
    seeded_generator,
)


def table(success: np.ndarray, progress: np.ndarray | None = None, failed: list[int] | None = None) -> Evidence:
    crashed = np.zeros(len(success), dtype=bool)
    crashed[failed or []] = True
    return Evidence(success=success, progress=success if progress is None else progress, failed=crashed)


def bernoulli(random: np.random.Generator, rates: np.ndarray, n: int) -> np.ndarray:
    return (random.random((rates.size, n)) < rates[:, None]).astype(float)


def flat(policies: int) -> Prior:
    return Prior(mean=np.full(policies, 0.5), strength=np.full(policies, 2.0))


def test_two_policies_are_compared_as_the_integral_says():
    evidence = table(np.array([[1, 1, 1, 0, 1, 1.0], [1, 0, 1, 0, 0, 1.0]]))
    belief = compute_posterior(evidence, k=1, prior=flat(2), draws=40_000)
    exact, _ = integrate.quad(lambda p: stats.beta.pdf(p, 6, 2) * stats.beta.cdf(p, 4, 4), 0, 1)
    assert belief.p_best[0] == pytest.approx(exact, abs=0.008)
    assert belief.p_top_k == pytest.approx(belief.p_best)
    assert belief.score == pytest.approx([6 / 8, 4 / 8])
    assert belief.expected_rank[0] == pytest.approx(2 - exact, abs=0.008)


@given(st.integers(0, 1000), st.integers(1, 7), st.integers(1, 8))
@settings(max_examples=25)
def test_probabilities_add_up(seed, policies, k):
    random = np.random.default_rng(seed)
    failed = [0] if policies > 1 and seed % 2 else []
    evidence = table(bernoulli(random, random.random(policies), 5), failed=failed)
    belief = compute_posterior(evidence, k=k, draws=200)
    alive = policies - len(failed)
    assert belief.p_top_k.sum() == pytest.approx(min(k, alive)) and belief.p_best.sum() == pytest.approx(1)
    assert belief.expected_rank[~evidence.failed].sum() == pytest.approx(alive * (alive + 1) / 2)
    for policy in failed:
        assert belief.score[policy] == belief.p_top_k[policy] == 0 and belief.expected_rank[policy] == policies


def test_equal_evidence_gives_equal_draws_and_nothing_else_matters():
    random = np.random.default_rng(0)
    success = bernoulli(random, random.random(6), 10)
    shuffled = random.permuted(success, axis=1)
    first, again = (
        compute_posterior(table(success), k=2, prior=flat(6)),
        compute_posterior(table(shuffled), k=2, prior=flat(6)),
    )
    assert np.array_equal(first.p_top_k, again.p_top_k)
    np.random.seed(1)  # a global generator must be without effect
    assert np.array_equal(compute_posterior(table(success), k=2).p_best, compute_posterior(table(success), k=2).p_best)
    assert seeded_generator(table(success), label="a").random() != seeded_generator(table(success), label="b").random()
    assert (
        seeded_generator(table(success), label="a").random()
        != seeded_generator(table(success), label="a", seed=1).random()
    )


@pytest.mark.parametrize(("a", "b"), [(2, 3), (30, 30), (8, 2)])
def test_a_known_sweep_is_recovered(a, b):
    random = np.random.default_rng(1)
    rates = random.beta(a, b, 3000)
    sweep = fit_sweep(table(bernoulli(random, rates, 20)))
    assert sweep.centre == pytest.approx(a / (a + b), abs=0.02)
    assert sweep.spread == pytest.approx(rates.var(), rel=0.2)
    prior = sweep.prior(table(bernoulli(random, rates, 20)))
    assert prior.strength == pytest.approx(a + b, rel=0.25)


def test_difficulty_shared_by_all_policies_does_not_pass_for_noise():
    random = np.random.default_rng(2)
    skill, luck = random.normal(0, 1, 400), random.normal(0, 3, 30)
    success = (skill[:, None] + luck + random.normal(0, 0.3, (400, 30)) > 0).astype(float)
    split = success[:, ::2].mean(axis=1), success[:, 1::2].mean(axis=1)
    sweep = fit_sweep(table(success))
    assert sweep.spread == pytest.approx(np.cov(*split)[0, 1], rel=0.25)


def test_shrunk_means_are_closer_to_the_truth_than_bare_ones():
    random = np.random.default_rng(3)
    rates = random.beta(20, 20, 500)
    evidence = table(bernoulli(random, rates, 10))
    a, b = beta_parameters(evidence, fit_prior(evidence))
    assert np.mean((a / (a + b) - rates) ** 2) < 0.5 * np.mean((evidence.success_mean - rates) ** 2)


def skilled(seed: int, policies: int, n: int, sign: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates, success and progress; progress says how far an episode missed, or the opposite, or nothing."""
    random = np.random.default_rng(seed)
    skill = random.normal(-2, 0.7, policies)
    margin = skill[:, None] + random.normal(0, 1, (policies, n))
    shown = margin if sign else random.normal(-2, 1, (policies, n))
    return stats.norm.cdf(skill), (margin > 0) * 1.0, np.clip(0.6 + 0.2 * (sign or 1) * shown, 0, 1)


@pytest.mark.parametrize(("sign", "gain"), [(1.0, 0.08), (0.0, -0.08)])
def test_progress_finds_the_best_where_successes_are_rare_and_does_no_harm_where_it_says_nothing(sign, gain):
    without, with_progress = [], []
    for seed in range(8):
        rates, success, progress = skilled(seed, 300, 6, sign)
        best = set(np.argsort(-rates)[:30])
        without.append(len(best & set(order(table(success))[:30])) / 30)
        with_progress.append(len(best & set(order(table(success, progress))[:30])) / 30)
    assert np.mean(with_progress) - np.mean(without) > gain


def test_misleading_progress_is_not_believed():
    _, success, progress = skilled(0, 300, 20, -1.0)
    prior = fit_prior(table(success, progress))
    assert np.ptp(prior.mean) == 0


def test_progress_fades_as_successes_accumulate():
    _, success, progress = skilled(1, 300, 2000, 1.0)
    shifts = []
    for n in (6, 2000):
        plain, informed = table(success[:, :n]), table(success[:, :n], progress[:, :n])
        (a, b), (c, d) = (beta_parameters(e, fit_prior(e)) for e in (plain, informed))
        shifts.append(np.abs(a / (a + b) - c / (c + d)).mean())
    assert shifts[1] < 0.1 * shifts[0]


def test_ties_go_to_progress_then_success_then_index_and_crashed_policies_go_last():
    success = np.array([[1, 0.0], [1, 0], [0, 0], [1, 1], [1, 0]])
    progress = np.array([[0.5, 0.5], [0.7, 0.5], [0.1, 0.1], [1, 1], [0.7, 0.5]])
    evidence = table(success, progress, failed=[3])
    assert order(evidence, prior=flat(5)).tolist() == [1, 4, 0, 2, 3]


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_sweep_without_any_spread_is_no_trouble(value):
    evidence = table(np.full((20, 5), value))
    belief = compute_posterior(evidence, k=4, draws=2000)
    assert belief.p_top_k == pytest.approx(0.2, abs=0.05)
    prior = fit_prior(evidence)
    assert (prior.mean > 0).all() and (prior.mean < 1).all() and np.isfinite(prior.strength).all()


def test_little_evidence_gives_a_weak_prior():
    blank = Evidence.empty(5, episodes=3)
    prior = fit_prior(blank)
    assert prior.mean == pytest.approx(0.5) and prior.strength == pytest.approx(2)
    assert order(blank).tolist() == [0, 1, 2, 3, 4]
    assert fit_prior(table(np.ones((2, 50)))).strength == pytest.approx(2)
    assert fit_prior(Evidence.empty(2, episodes=2).fail(0).fail(1)).mean == pytest.approx(0.5)


def test_adaptive_episodes_do_not_tilt_the_prior():
    random = np.random.default_rng(4)
    rates = random.beta(2, 3, 400)
    success = bernoulli(random, rates, 60)
    success[np.argsort(success[:, :10].mean(axis=1))[:350], 10:] = np.nan  # only the leaders go on
    sweep = fit_sweep(table(success))
    assert sweep.episodes == 10 and sweep.centre == pytest.approx(0.4, abs=0.03)


def test_wrong_settings_are_refused():
    with pytest.raises(InvalidInputError, match="k and draws"):
        compute_posterior(Evidence.empty(2, episodes=2), k=0)
