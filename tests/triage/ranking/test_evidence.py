"""The outcome table: what goes in comes out, in any order, and nothing wrong gets in."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.triage.ranking.evidence import Evidence, Outcome

K, N = 4, 6


@st.composite
def outcomes(draw: st.DrawFn) -> list[Outcome]:
    cells = draw(st.sets(st.tuples(st.integers(0, K - 1), st.integers(0, N - 1))))
    value = st.sampled_from([0.0, 0.25, 1.0])
    return [Outcome(policy=p, episode=e, success=draw(value), progress=draw(value)) for p, e in sorted(cells)]


@given(outcomes(), st.randoms(use_true_random=False), st.integers(0, K * N))
def test_order_and_grouping_of_outcomes_leave_no_trace(rows, random, cut):
    full = Evidence.empty(K, episodes=N).add(rows)
    mixed = list(rows)
    random.shuffle(mixed)
    parts = Evidence.empty(K, episodes=N).add(mixed[:cut]).add(mixed[cut:])
    merged = Evidence.empty(K, episodes=N).add(mixed[cut:]).merge(Evidence.empty(K, episodes=N).add(mixed[: cut + 1]))
    assert full.digest == parts.digest == merged.digest


@given(outcomes())
def test_counts_and_means_are_those_of_the_rows(rows):
    table = Evidence.empty(K, episodes=N).add(rows)
    for policy in range(K):
        mine = [r for r in rows if r.policy == policy]
        assert table.count[policy] == len(mine)
        assert table.wins[policy] == pytest.approx(sum(r.success for r in mine))
        if mine:
            assert table.success_mean[policy] == pytest.approx(np.mean([r.success for r in mine]))
            assert table.progress_mean[policy] == pytest.approx(np.mean([r.progress for r in mine]))
        else:
            assert np.isnan(table.success_mean[policy]) and np.isnan(table.progress_mean[policy])
    assert table.rollouts == len(rows)


@given(outcomes(), outcomes(), st.integers(0, N))
@settings(max_examples=40)
def test_beside_columns_and_rows_undo_each_other(left, right, stop):
    a, b = Evidence.empty(K, episodes=N).add(left), Evidence.empty(K, episodes=N).add(right)
    both = a.beside(b)
    assert both.episodes == 2 * N and both.rollouts == a.rollouts + b.rollouts
    assert both.columns(N).digest == a.digest
    assert a.columns(stop).rollouts == sum(r.episode < stop for r in left)
    assert a.rows([2, 0]).rows([1]).digest == a.rows([0]).digest


def test_digest_tells_tables_apart():
    blank = Evidence.empty(2, episodes=2)
    row = Outcome(policy=0, episode=0, success=0.0, progress=0.0)
    tables = [
        blank,
        blank.add([row]),
        blank.add([dataclasses.replace(row, success=1.0)]),
        blank.add([dataclasses.replace(row, progress=0.5)]),
        blank.add([dataclasses.replace(row, policy=1)]),
        blank.add([dataclasses.replace(row, episode=1)]),
        blank.fail(0),
        Evidence.empty(1, episodes=4),
    ]
    assert len({t.digest for t in tables}) == len(tables)


def test_a_table_cannot_be_changed_from_outside():
    mine = np.zeros((1, 2))
    table = Evidence(success=mine, progress=mine, failed=np.zeros(1, dtype=bool))
    mine[0, 0] = 1
    assert table.success[0, 0] == 0
    with pytest.raises(ValueError, match="read-only"):
        table.success[0, 0] = 1


def test_the_same_rollout_twice_is_fine_and_two_outcomes_are_not():
    row = Outcome(policy=1, episode=2, success=1.0, progress=1.0)
    table = Evidence.empty(K, episodes=N).add([row])
    assert table.add([row]).digest == table.digest
    with pytest.raises(InvalidInputError, match="two different outcomes"):
        table.add([dataclasses.replace(row, progress=0.9)])
    other = Evidence.empty(K, episodes=N).add([dataclasses.replace(row, success=0.0)])
    with pytest.raises(InvalidInputError, match="Policy 1, episode 2 has two different outcomes"):
        table.merge(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": K}, "outside the table"),
        ({"episode": -1}, "outside the table"),
        ({"success": 1.5}, r"success of policy 0, episode 0 is 1.5; it must lie in 0..1"),
        ({"progress": -0.1}, "progress of policy 0"),
        ({"success": float("nan")}, "not a number"),
    ],
)
def test_wrong_outcomes_are_named(change, message):
    row = dataclasses.replace(Outcome(policy=0, episode=0, success=0.0, progress=0.0), **change)
    with pytest.raises(InvalidInputError, match=message):
        Evidence.empty(K, episodes=N).add([row])


def test_wrong_tables_are_refused():
    nan = np.nan
    with pytest.raises(InvalidInputError, match="one row per policy"):
        Evidence(success=np.zeros((2, 3)), progress=np.zeros((2, 2)), failed=np.zeros(2, dtype=bool))
    with pytest.raises(InvalidInputError, match="only one of success and progress"):
        Evidence(success=np.array([[0.0]]), progress=np.array([[nan]]), failed=np.zeros(1, dtype=bool))
    with pytest.raises(InvalidInputError, match="at least one policy"):
        Evidence.empty(0, episodes=3)
    with pytest.raises(InvalidInputError, match="no policy 9"):
        Evidence.empty(1, episodes=1).fail(9)
    with pytest.raises(InvalidInputError, match="cannot be merged"):
        Evidence.empty(1, episodes=1).merge(Evidence.empty(1, episodes=2))
    with pytest.raises(InvalidInputError, match="cannot be joined"):
        Evidence.empty(1, episodes=1).beside(Evidence.empty(2, episodes=1))


def test_a_crashed_policy_keeps_what_it_had():
    table = Evidence.empty(2, episodes=2).add([Outcome(policy=1, episode=0, success=1.0, progress=1.0)]).fail(1)
    assert table.failed.tolist() == [False, True] and table.rollouts == 1
    assert table.merge(Evidence.empty(2, episodes=2)).failed[1]


@given(outcomes(), st.integers(0, N), st.integers(0, N))
def test_missing_pairs_are_those_not_rolled_out_episode_by_episode(rows, start, stop):
    table = Evidence.empty(K, episodes=N).add(rows)
    chosen = [2, 0, 3]
    expected = [(p, e) for e in range(start, stop) for p in chosen if not table.done[p, e]]
    assert table.missing(chosen, stop, start=start) == expected
