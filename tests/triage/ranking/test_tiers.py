"""Tiers and letters against their definitions."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from worldsim.stats.intervals import Interval
from worldsim.triage.ranking.tiers import letters, tiers

ENDS = st.tuples(st.integers(0, 12), st.integers(0, 5)).map(lambda t: Interval(t[0] / 10, (t[0] + t[1]) / 10))


def meet(a: Interval, b: Interval) -> bool:
    return a.low <= b.high and b.low <= a.high


@given(st.lists(ENDS, max_size=9))
def test_a_common_letter_means_not_separated(intervals):
    marks = [set(text.split()) for text in letters(intervals)]
    for i, a in enumerate(intervals):
        for j, b in enumerate(intervals):
            assert bool(marks[i] & marks[j]) == meet(a, b)


@given(st.lists(ENDS, max_size=9))
def test_no_letter_is_to_spare(intervals):
    groups: dict[str, set[int]] = {}
    for i, text in enumerate(letters(intervals)):
        for letter in text.split():
            groups.setdefault(letter, set()).add(i)
    assert not any(a < b or (a == b and x != y) for x, a in groups.items() for y, b in groups.items())


def test_letters_start_at_the_top_and_go_on_after_z():
    apart = [Interval(1 - i / 30, 1 - i / 30) for i in range(28)]
    assert letters(apart)[0] == "a" and letters(apart)[25:] == ("z", "aa", "ab")


@given(st.lists(ENDS, min_size=1, max_size=9))
def test_a_tier_ends_at_the_first_policy_separated_from_its_leader(intervals):
    found = tiers(intervals)
    assert found[0] == 1 and all(b - a in (0, 1) for a, b in itertools.pairwise(found))
    for tier in set(found):
        members = [i for i, t in enumerate(found) if t == tier]
        leader = intervals[members[0]]
        assert all(intervals[i].high >= leader.low for i in members)
        if members[-1] + 1 < len(intervals):
            assert intervals[members[-1] + 1].high < leader.low


def test_nobody_has_no_tier():
    assert tiers([]) == () and letters([]) == ()
