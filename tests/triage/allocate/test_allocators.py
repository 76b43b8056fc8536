"""Allocators: same end in any order, budgets kept, and the right policies found."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.protocols import Allocator
from worldsim.triage.allocate import (
    ALLOCATORS,
    KLLUCB,
    SequentialHalving,
    TopTwoThompson,
    Uniform,
    make_allocator,
)
from worldsim.triage.ranking.evidence import Evidence, Outcome
from worldsim.triage.ranking.posterior import order


class Replay:
    """Policies with known success rates; episode j of policy i always ends the same."""

    def __init__(self, rates, episodes: int, seed: int = 0, crashing=()):
        random = np.random.default_rng(seed)
        self.rates = np.asarray(rates, dtype=float)
        self.success = (random.random((self.rates.size, episodes)) < self.rates[:, None]).astype(float)
        self.progress = np.round(np.clip(0.5 * self.success + 0.5 * random.random(self.success.shape), 0, 1), 6)
        self.crashing = set(crashing)

    def blank(self) -> Evidence:
        return Evidence.empty(*self.success.shape[:1], episodes=self.success.shape[1])

    def roll(self, evidence: Evidence, pairs) -> Evidence:
        for policy in {p for p, _ in pairs} & self.crashing:
            evidence = evidence.fail(policy)
        rows = [
            Outcome(policy=p, episode=e, success=self.success[p, e], progress=self.progress[p, e])
            for p, e in pairs
            if p not in self.crashing
        ]
        return evidence.add(rows)

    def run(self, allocator, budget: int) -> Evidence:
        """Roll out every answer completely."""
        evidence = self.blank()
        while pairs := allocator.next(evidence, budget - evidence.rollouts):
            evidence = self.roll(evidence, pairs)
        return evidence

    def wander(self, allocator, budget: int, seed: int) -> Evidence:
        """Roll out a random part of every answer, in random order, as after kills with any number of workers."""
        random, evidence = np.random.default_rng(seed), self.blank()
        while pairs := allocator.next(evidence, budget - evidence.rollouts):
            size = int(random.integers(1, len(pairs) + 1))
            part = [pairs[i] for i in random.permutation(len(pairs))[:size]]
            evidence = self.roll(evidence, part)
        return evidence


RATES = [0.9, 0.2, 0.7, 0.5, 0.85, 0.1, 0.6, 0.3]


def build(name: str, k: int = 2, budget: int = 160):
    return make_allocator(name, k=k, budget=budget, epsilon=0.02)


@pytest.mark.parametrize("name", ALLOCATORS)
def test_every_allocator_fits_the_protocol(name):
    assert isinstance(build(name), Allocator)


@pytest.mark.parametrize("name", ALLOCATORS)
@given(seed=st.integers(0, 10_000), world=st.integers(0, 50))
@settings(max_examples=12)
def test_the_end_does_not_depend_on_the_order_of_rollouts(name, seed, world):
    replay = Replay(RATES, build(name).table_size(8), seed=world)
    assert replay.wander(build(name), 160, seed).digest == replay.run(build(name), 160).digest


@pytest.mark.parametrize("name", ALLOCATORS)
@given(seed=st.integers(0, 10_000), crashing=st.sets(st.integers(0, 7), max_size=3))
@settings(max_examples=12)
def test_crashed_policies_leave_the_end_to_the_others(name, seed, crashing):
    replay = Replay(RATES, build(name).table_size(8), seed=1, crashing=crashing)
    evidence = replay.wander(build(name), 10_000, seed)
    assert set(np.flatnonzero(evidence.failed)) == crashing
    assert order(evidence).tolist() == order(replay.run(build(name), 10_000)).tolist()


@pytest.mark.parametrize("name", ALLOCATORS)
@given(seed=st.integers(0, 100), budget=st.integers(8, 300), k=st.integers(1, 8))
@settings(max_examples=15)
def test_budgets_are_kept_and_nothing_is_asked_twice(name, seed, budget, k):
    allocator = build(name, k=k, budget=budget)
    replay, evidence = (
        Replay(RATES, allocator.table_size(8), seed=seed),
        Evidence.empty(8, episodes=allocator.table_size(8)),
    )
    while pairs := allocator.next(evidence, budget - evidence.rollouts):
        assert len(set(pairs)) == len(pairs) <= budget - evidence.rollouts
        assert not any(evidence.done[p, e] for p, e in pairs)
        evidence = replay.roll(evidence, pairs)
    assert evidence.rollouts <= budget and (evidence.count >= 1).all()
    assert (np.sort(~evidence.done, axis=1) == ~evidence.done).all(), "every policy goes through the table in order"
    assert allocator.next(evidence, 0) == []


@pytest.mark.parametrize("name", ALLOCATORS)
@given(budget=st.integers(8, 300))
@settings(max_examples=10)
def test_an_allocator_keeps_its_own_budget_when_there_is_room_for_more(name, budget):
    allocator = build(name, budget=budget)
    assert Replay(RATES, allocator.table_size(8)).run(allocator, 100_000).rollouts <= budget


@pytest.mark.parametrize("name", ALLOCATORS)
def test_a_short_table_ends_the_run_instead_of_breaking_it(name):
    evidence = Replay(RATES, 3).run(build(name, budget=400), 400)
    assert evidence.count.max() == 3


@pytest.mark.parametrize("name", ALLOCATORS)
def test_room_cuts_an_answer_and_no_room_empties_it(name):
    evidence = Evidence.empty(8, episodes=50)
    everything = build(name).next(evidence, 1000)
    assert build(name).next(evidence, 5) == everything[:5] and build(name).next(evidence, -3) == []


@pytest.mark.parametrize("name", ALLOCATORS)
def test_a_budget_below_one_rollout_each_is_refused(name):
    with pytest.raises(InvalidInputError, match="at least one rollout for each of 8 policies"):
        build(name, budget=7).next(Evidence.empty(8, episodes=4), 7)
    with pytest.raises(InvalidInputError, match="at least one rollout"):
        build(name, budget=7).table_size(8)


def test_uniform_gives_all_the_same():
    evidence = Replay(RATES, 30).run(Uniform(budget=165), 165)
    assert set(evidence.count) == {20} and Uniform(budget=165).table_size(8) == 20


@given(st.integers(1, 3000), st.integers(1, 40), st.floats(1, 200), st.sampled_from([0.34, 0.5, 0.75, 0.9]))
def test_a_schedule_spends_its_budget_in_shrinking_rounds(policies, k, mean, keep):
    budget = math.ceil(mean * policies)
    rounds = SequentialHalving(k=k, budget=budget, keep=keep).rounds(policies)
    sizes, episodes = [r.policies for r in rounds], [0, *(r.episodes for r in rounds)]
    assert sizes[0] == policies and all(a > b for a, b in itertools.pairwise(sizes))
    assert all(b > a for a, b in itertools.pairwise(episodes))
    assert all(size > k for size in sizes[1:])
    spent = sum(s * (b - a) for s, a, b in zip(sizes, episodes, episodes[1:], strict=False))
    assert budget - sizes[-1] < spent <= budget


def test_halving_goes_on_with_the_leaders_and_ends_with_k():
    allocator, replay = SequentialHalving(k=2, budget=400), Replay(RATES, 200, seed=3)
    evidence = replay.run(allocator, 400)
    assert allocator.survivors(evidence).tolist() == [0, 4]
    assert set(evidence.count) <= {r.episodes for r in allocator.rounds(8)}
    first = allocator.rounds(8)[0].episodes
    partial = replay.blank().add(
        [Outcome(policy=p, episode=e, success=1.0, progress=1.0) for p in range(8) for e in range(first)]
    )
    assert allocator.survivors(partial).size == allocator.rounds(8)[1].policies


def test_a_round_is_judged_on_its_own_episodes_only():
    allocator = SequentialHalving(k=2, budget=400)
    replay = Replay(RATES, 200, seed=4)
    first = allocator.rounds(8)[0].episodes
    opening = replay.roll(replay.blank(), [(p, e) for p in range(8) for e in range(first)])
    ahead = opening.add([Outcome(policy=1, episode=first + i, success=1.0, progress=1.0) for i in range(30)])
    asked = {p for p, _ in allocator.next(opening, 400)}
    assert {p for p, _ in allocator.next(ahead, 400)} - {1} == asked - {1}


@given(st.integers(0, 300))
@settings(max_examples=20)
def test_episodes_beyond_a_round_do_not_tilt_its_judgement(seed):
    allocator, replay = SequentialHalving(k=2, budget=800, keep=0.5), Replay(np.linspace(0.4, 0.6, 16), 300, seed=seed)
    first = allocator.rounds(16)[0].episodes
    opening = replay.roll(replay.blank(), [(p, e) for p in range(16) for e in range(first)])
    later = replay.roll(opening, [(p, e) for p in range(16) for e in range(250, 300)])
    assert {p for p, _ in allocator.next(opening, 800)} == {p for p, _ in allocator.next(later, 800)}


def test_halving_finds_more_of_the_best_than_uniform_does():
    hits = {"halving": 0, "uniform": 0}
    for seed in range(6):
        rates = np.random.default_rng(seed).beta(2, 3, 200)
        best = set(np.argsort(-rates)[:5])
        for name in hits:
            allocator = make_allocator(name, k=5, budget=4000)
            evidence = Replay(rates, allocator.table_size(200), seed=seed).run(allocator, 4000)
            hits[name] += len(best & set(order(evidence)[:5]))
    assert hits["halving"] > hits["uniform"] + 3


def test_kl_lucb_stops_early_when_the_answer_is_certain_and_is_right():
    wrong, spent = 0, []
    for seed in range(20):
        replay = Replay([0.9, 0.85, 0.3, 0.25, 0.2, 0.1], 400, seed=seed)
        allocator = KLLUCB(k=2, budget=2000, alpha=0.1)
        evidence = replay.run(allocator, 2000)
        assert evidence.rollouts < 2000 and not allocator.next(evidence, 2000), "it stopped by itself"
        spent.append(evidence.rollouts)
        wrong += set(np.argsort(-evidence.success_mean)[:2]) != {0, 1}
    assert wrong <= 2 and np.mean(spent) < 500


def test_kl_lucb_is_seldom_wrong_even_when_it_is_hard():
    wrong = finished = 0
    for seed in range(25):
        replay = Replay([0.7, 0.45, 0.4], 600, seed=seed)
        allocator = KLLUCB(k=1, budget=1500, alpha=0.2, pulls=25)
        evidence = replay.run(allocator, 1500)
        certain = evidence.rollouts < 1500
        finished += certain
        wrong += certain and int(np.argmax(evidence.success_mean)) != 0
    assert finished > 20 and wrong <= 25 * 0.2


def test_kl_lucb_stops_within_epsilon():
    evidence = Replay([0.5, 0.5, 0.1], 600).run(KLLUCB(k=1, budget=1500, epsilon=0.3), 1500)
    assert evidence.rollouts < 500
    assert KLLUCB(k=1, budget=1500, epsilon=0.0).next(evidence, 1500)


def test_thompson_spends_where_the_boundary_is():
    replay = Replay([0.95, 0.7, 0.65, 0.2, 0.15, 0.1], 400, seed=2)
    evidence = replay.run(TopTwoThompson(k=2, budget=600), 600)
    assert evidence.count[[1, 2]].sum() > 0.6 * evidence.rollouts
    assert replay.run(TopTwoThompson(k=2, budget=600, seed=1), 600).digest != evidence.digest


def test_settings_out_of_range_are_refused():
    evidence = Evidence.empty(4, episodes=5)
    for allocator in (
        SequentialHalving(k=0, budget=40),
        SequentialHalving(k=1, budget=40, keep=1.0),
        KLLUCB(k=1, budget=40, alpha=0.0),
        KLLUCB(k=1, budget=40, epsilon=2.0),
        TopTwoThompson(k=0, budget=40),
    ):
        with pytest.raises(InvalidInputError):
            allocator.next(evidence, 10)
    with pytest.raises(UnknownNameError, match="Did you mean 'halving'"):
        make_allocator("halfing", k=1, budget=10)


def test_all_policies_crashed_ends_the_run():
    evidence = Evidence.empty(3, episodes=5)
    for policy in range(3):
        evidence = evidence.fail(policy)
    for name in ALLOCATORS:
        assert make_allocator(name, k=1, budget=30).next(evidence, 30) == []


def test_allocators_are_configs_that_cannot_change():
    for name in ALLOCATORS:
        with pytest.raises(dataclasses.FrozenInstanceError):
            build(name).budget = 3
