import dataclasses
import resource
import sqlite3

import pytest

from worldsim.errors import StorageError
from worldsim.rollout.episodes import TRIAGE, block
from worldsim.triage.engine.batches import BatchResult, Crash, RolloutResult, Scope, compose
from worldsim.triage.engine.store import DATABASE, Store
from worldsim.triage.request import Ref

BLOCK = block(TRIAGE, seed=0, episodes=50, num_starts=40)
SCOPE = Scope(kind="world", world="w", judge="j", policies=tuple(Ref(name=n, digest=n) for n in "abc"))


def ended(row, success=1.0):
    return RolloutResult(
        row=row,
        success=success,
        probability=0.75,
        progress=0.5,
        progress_max=0.625,
        uncertainty_min=0.0,
        uncertainty_mean=0.125,
        uncertainty_max=float("inf"),
        solved_at=3,
        steps=12,
        abstained=row == 1,
        note="ok",
    )


def batch_of(pairs, scope=SCOPE):
    (batch,) = compose(pairs, scope=scope, block=BLOCK, width=64, policies_per_batch=8)
    return batch


def result(batch, *, crashes=()):
    lost = {c.policy for c in crashes}
    rows = [row for row, slot in enumerate(batch.slots) if slot.policy not in lost and row not in batch.done]
    return BatchResult(batch=batch, rollouts=tuple(map(ended, rows)), crashes=tuple(crashes))


def test_what_was_committed_is_there_after_reopening(tmp_path):
    batch = batch_of([(0, 1), (0, 2), (2, 1)])
    boom = Crash(policy=2, stage="act", step=4, reason="boom", detail="trace")
    with Store.open(tmp_path / DATABASE) as store:
        assert store.missing_part(batch, SCOPE) == batch and not store.known(SCOPE)
        store.commit(result(batch, crashes=[boom]), SCOPE)
        assert store.missing_part(batch, SCOPE) is None
        before = dict(store.known(SCOPE))
    with Store.open(tmp_path / DATABASE) as store:
        assert store.known(SCOPE) == before and len(before) == 2
        assert store.crashes(batch, SCOPE) == [boom]
        records = store.records(SCOPE)
        assert sorted(r.episode for r in records) == [1, 2] and {r.block for r in records} == {"triage"}
        assert dataclasses.replace(records[0].result, row=0, abstained=False) == dataclasses.replace(
            ended(0), abstained=False
        )
        store.forget_crashes()
        assert store.missing_part(batch, SCOPE).live == {2: [2]} and store.known(SCOPE) == before


def test_a_key_is_what_was_rolled_out(tmp_path):
    batch = batch_of([(0, 1)])
    with Store.open(tmp_path / DATABASE) as store:
        store.commit(result(batch), SCOPE)
        for change in ({"world": "v"}, {"judge": "k"}):
            other = dataclasses.replace(SCOPE, **change)
            assert store.missing_part(batch_of([(0, 1)], other), other) is not None
        renamed = tuple(Ref(name="other", digest=r.digest, source="elsewhere") for r in SCOPE.policies)
        other = dataclasses.replace(SCOPE, policies=renamed)
        assert store.missing_part(batch_of([(0, 1)], other), other) is None


def test_the_same_rollout_cannot_be_entered_twice_and_a_batch_is_entered_whole(tmp_path):
    with Store.open(tmp_path / DATABASE) as store:
        store.commit(result(batch_of([(1, 5)])), SCOPE)
        with pytest.raises(StorageError, match="another process has written to it"):
            store.commit(result(batch_of([(0, 5), (1, 5)])), SCOPE)
        assert len(store.records(SCOPE)) == 1 == len(store.known(SCOPE))
        part = store.missing_part(batch_of([(0, 5), (1, 5)]), SCOPE)
        store.commit(result(part), SCOPE)
        assert len(store.records(SCOPE)) == 2


@pytest.mark.parametrize("harm", ["head", "middle", "text"])
def test_a_damaged_database_is_told_from_an_empty_one(tmp_path, harm):
    path = tmp_path / DATABASE
    with Store.open(path) as store:
        store.commit(result(batch_of([(p, e) for p in range(3) for e in range(20)])), SCOPE)
    data = bytearray(path.read_bytes())
    if harm == "text":
        data = bytearray(b"not a database, but long enough to look like one" * 20)
    else:
        at = 0 if harm == "head" else 4096
        data[at : at + 3000] = b"\xff" * 3000
    path.write_bytes(bytes(data))
    with pytest.raises(StorageError, match=r"rollouts\.db.* damaged .*Restore it"), Store.open(path):
        pass
    assert path.read_bytes() == bytes(data)


def test_another_format_is_refused(tmp_path):
    with Store.open(tmp_path / DATABASE):
        pass
    connection = sqlite3.connect(tmp_path / DATABASE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StorageError, match="has format 99"), Store.open(tmp_path / DATABASE):
        pass


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StorageError, match="run the same command again"), Store.open(tmp_path / "no" / DATABASE):
        pass


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path):
    done, limits = 0, resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store.open(tmp_path / DATABASE) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # a file cannot grow, as on a full disk
        try:
            with pytest.raises(StorageError, match="Free space .* every rollout finished so far is kept"):
                for p, e in [(p, e) for p in range(3) for e in range(50)]:
                    whole = result(batch_of([(p, e)]))
                    ends = tuple(dataclasses.replace(f, note="x" * 20_000) for f in whole.rollouts)
                    store.commit(dataclasses.replace(whole, rollouts=ends), SCOPE)
                    done += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert 3 < done < 150 and len(store.known(SCOPE)) == done
    with Store.open(tmp_path / DATABASE) as store:
        assert len(store.records(SCOPE)) == done
        store.commit(result(batch_of([(2, 49)])), SCOPE)  # space was made: it goes on
