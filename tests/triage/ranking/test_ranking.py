"""The leaderboard: same evidence, same digest; no winner's curse in the audit; a file others can read."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.stats.intervals import Interval, clopper_pearson, confidence_sequence, mean_sequence
from worldsim.triage.ranking.evidence import Evidence, Outcome
from worldsim.triage.ranking.ranking import Ranking, assign_letters, assign_tiers


def bernoulli(random: np.random.Generator, rates: np.ndarray, n: int) -> np.ndarray:
    return (random.random((rates.size, n)) < rates[:, None]).astype(float)


def table(success: np.ndarray) -> Evidence:
    return Evidence(success=success, progress=success * 0.5, failed=np.zeros(len(success), dtype=bool))


def names(count: int) -> list[str]:
    return [f"run/{i:06d}" for i in range(count)]


def sample(seed: int = 0, policies: int = 6, n: int = 20, crash: int | None = 2) -> tuple[Evidence, Evidence]:
    random = np.random.default_rng(seed)
    rates = random.random(policies)
    evidence = table(bernoulli(random, rates, n))
    audited = bernoulli(random, rates, 30)
    audited[np.argsort(-rates)[2:]] = np.nan
    if crash is not None:
        evidence = evidence.fail(crash)
    return evidence, table(audited)


def test_a_line_says_what_the_evidence_says():
    evidence, audit = sample()
    ranking = Ranking.from_evidence(evidence, names=names(6), k=2, audit=audit, failures={2: "raised at step 3"})
    low, high = confidence_sequence(evidence.wins, evidence.count)
    exact = clopper_pearson(evidence.wins, evidence.count)
    progress = mean_sequence(evidence.progress)
    for line in ranking.policies:
        i, triage = line.policy, line.triage
        assert line.name == f"run/{i:06d}" and triage.rollouts == 20
        assert triage.success == pytest.approx(evidence.success_mean[i])
        assert (triage.success_anytime.low, triage.success_anytime.high) == (low[i], high[i])
        assert (triage.success_exact.low, triage.success_exact.high) == (exact[0][i], exact[1][i])
        assert (triage.progress_anytime.low, triage.progress_anytime.high) == (progress[0][i], progress[1][i])
        assert (line.audit is not None) == bool(audit.count[i]) and line.shown is (line.audit or triage)
    assert [line.rank for line in ranking.policies] == [1, 2, 3, 4, 5, 6]
    assert ranking.rollouts == 120 + 60


def test_crashed_policies_come_last_with_their_reason_and_are_never_picked():
    evidence, _ = sample(policies=3, crash=None)
    ranking = Ranking.from_evidence(evidence.fail(0).fail(1), names=names(3), k=2, failures={0: "actions are NaN"})
    last = {line.policy: line for line in ranking.policies[1:]}
    assert last[0].failed == "actions are NaN" and last[1].failed == "crashed"
    assert all(
        line.tier == 0 and line.score is None and line.letters == "" and line.p_top_k == 0 for line in last.values()
    )
    assert [line.policy for line in ranking.top] == [2]


def test_order_follows_the_score_and_tiers_follow_the_order():
    random = np.random.default_rng(1)
    evidence = table(bernoulli(random, np.array([0.05, 0.95, 0.5, 0.9]), 300))
    ranking = Ranking.from_evidence(evidence, names=names(4), k=2)
    scores = [line.score for line in ranking.policies]
    assert scores == sorted(scores, reverse=True) and [line.policy for line in ranking.policies][2:] == [2, 0]
    assert [line.tier for line in ranking.policies] == [1, 1, 2, 3]
    assert [line.letters for line in ranking.policies] == ["a", "a", "b", "c"]
    assert sum(line.p_top_k for line in ranking.policies) == pytest.approx(2)


def test_long_leaderboards_have_tiers_but_no_letters():
    evidence, _ = sample(policies=31, crash=None)
    assert {line.letters for line in Ranking.from_evidence(evidence, names=names(31), k=2).policies} == {""}


@given(st.integers(0, 500), st.integers(1, 6))
@settings(max_examples=20)
def test_the_digest_does_not_know_how_the_evidence_arrived(seed, k):
    evidence, audit = sample(seed)
    random = np.random.default_rng(seed)
    cells = [tuple(int(x) for x in cell) for cell in random.permutation(np.argwhere(evidence.done))]
    again = Evidence.empty(6, episodes=20).fail(2)
    for part in np.array_split(np.arange(len(cells)), 4):
        again = again.add(
            Outcome(policy=p, episode=e, success=evidence.success[p, e], progress=evidence.progress[p, e])
            for p, e in (cells[i] for i in part)
        )
    first = Ranking.from_evidence(evidence, names=names(6), k=k, audit=audit)
    second = Ranking.from_evidence(again, names=names(6), k=k, audit=audit)
    assert first.digest == second.digest and first == second


def test_the_digest_knows_everything_else():
    evidence, audit = sample()
    rankings = [
        Ranking.from_evidence(evidence, names=names(6), k=2, audit=audit),
        Ranking.from_evidence(evidence, names=names(6), k=2),
        Ranking.from_evidence(evidence, names=names(6), k=3, audit=audit),
        Ranking.from_evidence(evidence, names=names(6), k=2, audit=audit, alpha=0.1),
        Ranking.from_evidence(evidence, names=[*names(5), "other"], k=2, audit=audit),
        Ranking.from_evidence(evidence.fail(0), names=names(6), k=2, audit=audit),
        Ranking.from_evidence(sample(1)[0], names=names(6), k=2, audit=audit),
    ]
    assert len({ranking.digest for ranking in rankings}) == len(rankings)
    line = rankings[0].policies[0]
    for change, same in ((1e-12, True), (1e-7, False)):
        moved = dataclasses.replace(line, p_top_k=line.p_top_k - change)
        other = dataclasses.replace(rankings[0], policies=(moved, *rankings[0].policies[1:]))
        assert (other.digest == rankings[0].digest) is same


@given(st.integers(0, 500), st.booleans())
@settings(max_examples=20)
def test_json_there_and_back(seed, audited):
    evidence, audit = sample(seed, n=7)
    ranking = Ranking.from_evidence(evidence, names=names(6), k=2, audit=audit if audited else None)
    value = json.loads(json.dumps(ranking.to_json(), allow_nan=False))
    again = Ranking.from_json(value)
    assert again.digest == ranking.digest == value["digest"] and again.to_json() == ranking.to_json()
    assert [line.name for line in again.top] == [line.name for line in ranking.top]


def test_the_file_uses_lerobots_names():
    value = Ranking.from_evidence(sample()[0], names=names(6), k=2).to_json()
    assert {"pc_success", "n_episodes"} <= value["overall"].keys()
    first = value["per_policy"][0]["triage"]
    assert first["pc_success"] == pytest.approx(100 * first["avg_progress"] * 2) and first["n_episodes"] == 20


def test_a_policy_without_rollouts_has_no_mean_and_the_widest_intervals():
    evidence = Evidence.empty(2, episodes=3).add([Outcome(policy=0, episode=0, success=1.0, progress=1.0)])
    line = next(p for p in Ranking.from_evidence(evidence, names=names(2), k=1).policies if p.policy == 1)
    assert line.triage.success is None and line.triage.progress is None
    assert line.triage.success_anytime.width == line.triage.success_exact.width == 1


def test_an_edited_or_foreign_file_is_refused():
    value = Ranking.from_evidence(sample()[0], names=names(6), k=2).to_json()
    edited = json.loads(json.dumps(value))
    edited["per_policy"][0]["name"] = "mine"
    with pytest.raises(InvalidInputError, match="edited or is damaged"):
        Ranking.from_json(edited)
    for foreign in ({"overall": {}}, [], "ranking", None):
        with pytest.raises(InvalidInputError, match="Not a ranking"):
            Ranking.from_json(foreign)
    for key, wrong in (("rank", "1"), ("name", 3), ("p_best", [0.5]), ("triage", [1, 2]), ("audit", {"a": 1})):
        broken = json.loads(json.dumps(value))
        broken["per_policy"][0][key] = wrong
        with pytest.raises(InvalidInputError, match="cannot be read"):
            Ranking.from_json(broken)
    for key in ("triage", "tier"):
        broken = json.loads(json.dumps(value))
        del broken["per_policy"][0][key]
        with pytest.raises(InvalidInputError, match="cannot be read"):
            Ranking.from_json(broken)


def test_the_audit_is_free_of_the_winners_curse():
    shown, audited, true = [], [], []
    for seed in range(12):
        random = np.random.default_rng(seed)
        rates = random.beta(30, 30, 100)
        evidence = table(bernoulli(random, rates, 10))
        winners = [line.policy for line in Ranking.from_evidence(evidence, names=names(100), k=5).top]
        fresh = bernoulli(random, rates, 50)
        fresh[[i for i in range(100) if i not in winners]] = np.nan
        ranking = Ranking.from_evidence(evidence, names=names(100), k=5, audit=table(fresh))
        for line in (line for line in ranking.policies if line.policy in winners):
            shown.append(line.triage.success)
            audited.append(line.shown.success)
            true.append(rates[line.policy])
    assert np.mean(shown) - np.mean(true) > 0.2
    assert np.mean(audited) == pytest.approx(np.mean(true), abs=0.03)


def test_intervals_of_the_audit_cover():
    missed = 0
    for seed in range(60):
        random = np.random.default_rng(1000 + seed)
        rates = random.beta(2, 2, 10)
        evidence, audit = table(bernoulli(random, rates, 10)), table(bernoulli(random, rates, 60))
        for line in Ranking.from_evidence(evidence, names=names(10), k=3, audit=audit, alpha=0.1).policies:
            missed += rates[line.policy] not in line.shown.success_exact
    assert missed / 600 <= 0.1


def test_names_must_match():
    with pytest.raises(InvalidInputError, match="a name for each of 6 policies; got 2"):
        Ranking.from_evidence(sample()[0], names=["a", "b"], k=1)


ENDS = st.tuples(st.integers(0, 12), st.integers(0, 5)).map(lambda t: Interval(t[0] / 10, (t[0] + t[1]) / 10))


def meet(a: Interval, b: Interval) -> bool:
    return a.low <= b.high and b.low <= a.high


@given(st.lists(ENDS, max_size=9))
def test_a_common_letter_means_not_separated(intervals):
    marks = [set(text.split()) for text in assign_letters(intervals)]
    for i, a in enumerate(intervals):
        for j, b in enumerate(intervals):
            assert bool(marks[i] & marks[j]) == meet(a, b)


@given(st.lists(ENDS, max_size=9))
def test_no_letter_is_redundant(intervals):
    groups: dict[str, set[int]] = {}
    for i, text in enumerate(assign_letters(intervals)):
        for letter in text.split():
            groups.setdefault(letter, set()).add(i)
    assert not any(a < b or (a == b and x != y) for x, a in groups.items() for y, b in groups.items())


def test_letters_start_at_the_top_and_go_on_after_z():
    apart = [Interval(1 - i / 30, 1 - i / 30) for i in range(28)]
    assert assign_letters(apart)[0] == "a" and assign_letters(apart)[25:] == ("z", "aa", "ab")


@given(st.lists(ENDS, min_size=1, max_size=9))
def test_a_tier_ends_at_the_first_policy_separated_from_its_leader(intervals):
    found = assign_tiers(intervals)
    assert found[0] == 1 and all(b - a in (0, 1) for a, b in itertools.pairwise(found))
    for tier in set(found):
        members = [i for i, t in enumerate(found) if t == tier]
        leader = intervals[members[0]]
        assert all(intervals[i].high >= leader.low for i in members)
        if members[-1] + 1 < len(intervals):
            assert intervals[members[-1] + 1].high < leader.low


def test_no_policies_give_no_tiers():
    assert assign_tiers([]) == () and assign_letters([]) == ()
