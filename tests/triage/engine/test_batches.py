import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.rollout.episodes import TRIAGE, block
from worldsim.triage.engine.batches import Scope, compose
from worldsim.triage.request import Ref

BLOCK = block(TRIAGE, seed=0, episodes=30, num_starts=20)
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 29)), min_size=1, max_size=150)


def scope(digests="abcdefg"):
    refs = tuple(Ref(name=f"p{i}", digest=d) for i, d in enumerate(digests))
    return Scope(kind="world", world="w", judge="j", policies=refs)


def cut(pairs, where=None, width=16, cap=3):
    return compose(pairs, scope=where or scope(), block=BLOCK, width=width, policies_per_batch=cap)


@settings(max_examples=60, deadline=None)
@given(PAIRS, st.randoms())
def test_batches_hold_every_pair_once_whatever_the_order(pairs, random):
    batches = cut(pairs)
    held = [(s.policy, s.episode) for w in batches for s in w.slots]
    assert held == sorted(set(pairs))
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert cut(shuffled + pairs[:3]) == batches
    for batch in batches:
        assert len(batch.slots) <= 16 and len(batch.live) <= 3
        assert all(rows == list(range(rows[0], rows[-1] + 1)) for rows in batch.live.values())
        assert all(s.start == BLOCK.start[s.episode] and s.key == BLOCK.key[s.episode] for s in batch.slots)


def test_every_policy_meets_the_same_start_and_noise():
    slots = [s for w in cut([(p, e) for p in range(7) for e in range(10)]) for s in w.slots]
    seen = {(s.episode, s.start, s.key) for s in slots}
    assert len(seen) == 10


def test_copies_of_a_policy_are_rolled_out_once():
    batches = cut([(0, 1), (2, 1), (3, 1)], scope("abab"))
    assert [(s.policy, s.episode) for w in batches for s in w.slots] == [(0, 1), (1, 1)]


def test_ids_tell_apart_what_could_end_differently():
    pairs, base = [(0, 1), (1, 2)], scope()
    others = [
        cut(pairs, dataclasses.replace(base, world="v")),
        cut(pairs, dataclasses.replace(base, judge="k")),
        cut(pairs, dataclasses.replace(base, kind="truth")),
        cut(pairs, scope("xbcdefg")),
        cut(pairs, width=17),
        cut([(0, 1), (1, 3)]),
        cut([(0, 1)]),
    ]
    ids = {w[0].id for w in [cut(pairs), *others]}
    assert len(ids) == 1 + len(others)
    assert cut(pairs)[0].id == cut(pairs)[0].id


def test_idle_rows_fill_the_batch():
    batch = cut([(0, 1), (1, 2)])[0]
    start, key = batch.padded()
    assert start.shape == key.shape == (16,) and start.dtype == key.dtype == torch.int64
    assert key[2:].tolist() == [0] * 14
    assert dataclasses.replace(batch, done=frozenset({0})).live == {1: [1]}


@pytest.mark.parametrize("pair", [(7, 0), (-1, 0), (0, 30), (0, -1)])
def test_pairs_outside_the_table_are_refused(pair):
    with pytest.raises(InvalidInputError, match="Fix the allocator"):
        cut([pair])
