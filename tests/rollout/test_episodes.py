import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.rollout.episodes import AUDIT, TRIAGE, block


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 60), st.integers(0, 60), st.integers(1, 200))
def test_a_longer_block_begins_with_the_shorter_one(seed, short, more, starts):
    a = block(TRIAGE, seed=seed, episodes=short, num_starts=starts)
    b = block(TRIAGE, seed=seed, episodes=short + more, num_starts=starts)
    assert np.array_equal(a.start, b.start[:short]) and np.array_equal(a.key, b.key[:short])
    assert ((b.start >= 0) & (b.start < starts)).all() and (b.key >= 0).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(5, 300))
def test_triage_and_audit_share_neither_start_nor_noise(seed, starts):
    a = block(TRIAGE, seed=seed, episodes=400, num_starts=starts)
    b = block(AUDIT, seed=seed, episodes=400, num_starts=starts)
    assert not set(a.start) & set(b.start)
    assert len(set(a.key) | set(b.key)) == 800
    assert a.distinct_starts + b.distinct_starts == starts


def test_blocks_use_every_start_before_one_comes_again():
    triage = block(TRIAGE, seed=3, episodes=160, num_starts=100)
    assert len(set(triage.start[:80])) == 80 == triage.distinct_starts
    assert np.array_equal(triage.start[:80], triage.start[80:])
    assert block("truth", seed=3, episodes=100, num_starts=100).distinct_starts == 100


def test_few_starts_are_shared_but_noise_is_not():
    a, b = (block(name, seed=0, episodes=9, num_starts=2) for name in (TRIAGE, AUDIT))
    assert set(a.start) == set(b.start) == {0, 1}
    assert not set(a.key) & set(b.key)


def test_the_table_is_the_same_for_ever():
    found = block(TRIAGE, seed=7, episodes=4, num_starts=50)
    assert found.start.tolist() == [37, 17, 32, 3]
    assert found.key.tolist() == [
        6601718456265976235,
        7749613980394121312,
        8484003089353521153,
        2290320791201736496,
    ]
    assert found.digest == block(TRIAGE, seed=7, episodes=4, num_starts=50).digest
    assert found.digest != block(TRIAGE, seed=8, episodes=4, num_starts=50).digest


def test_millions_of_starts_are_quick():
    assert block(TRIAGE, seed=0, episodes=10, num_starts=2**40).start.max() < 2**16


@pytest.mark.parametrize("wrong", [{"num_starts": 0}, {"episodes": -1}, {"seed": -1}, {"seed": 2**63}])
def test_bad_values_are_refused(wrong):
    with pytest.raises(InvalidInputError, match="at least one start"):
        block(TRIAGE, **{"seed": 0, "episodes": 1, "num_starts": 1, **wrong})
