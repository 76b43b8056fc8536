import dataclasses
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

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


def test_the_same_rollout_cannot_be_entered_twice_and_a_batch_is_entered_atomically(tmp_path):
    with Store.open(tmp_path / DATABASE) as store:
        store.commit(result(batch_of([(1, 5)])), SCOPE)
        with pytest.raises(StorageError, match="another process has written to it"):
            store.commit(result(batch_of([(0, 5), (1, 5)])), SCOPE)
        assert len(store.records(SCOPE)) == 1 == len(store.known(SCOPE))
        part = store.missing_part(batch_of([(0, 5), (1, 5)]), SCOPE)
        store.commit(result(part), SCOPE)
        assert len(store.records(SCOPE)) == 2


@pytest.mark.parametrize("harm", ["head", "middle", "text"])
def test_a_damaged_database_is_distinguished_from_an_empty_one(tmp_path, harm):
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


@pytest.mark.parametrize(("version", "lacks"), [(2, ("at_limits", "outside")), (3, ("outside",))])
def test_a_folder_of_a_format_before_is_read_and_continued(tmp_path, version, lacks):
    path, first, second = tmp_path / DATABASE, batch_of([(0, 1)]), batch_of([(2, 1)])
    with Store.open(path) as store:
        store.commit(result(first), SCOPE)  # what the format lacks is not known, as in all rows of old
    with sqlite3.connect(path) as connection:
        for name in lacks:
            connection.execute(f"ALTER TABLE rollouts DROP COLUMN {name}")
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    with Store.read(path) as store:
        assert [(r.result.at_limits, r.result.outside) for r in store.records(SCOPE)] == [(-1, -1)]
    with Store.open(path) as store:
        known = result(second)
        known = dataclasses.replace(
            known, rollouts=tuple(dataclasses.replace(r, at_limits=0.25, outside=0.5) for r in known.rollouts)
        )
        store.commit(known, SCOPE)
    with Store.read(path) as store:
        assert [(r.result.at_limits, r.result.outside) for r in store.records(SCOPE)] == [(-1, -1), (0.25, 0.5)]
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rollouts SET outside = -1.0")
    connection.close()
    with pytest.raises(StorageError, match="rollout of policy c"), Store.open(path):
        pass


def test_a_place_that_cannot_be_written_is_reported(tmp_path):
    with pytest.raises(StorageError, match="run the same command again"), Store.open(tmp_path / "no" / DATABASE):
        pass


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path):
    done, limits = 0, resource.getrlimit(resource.RLIMIT_FSIZE)
    with Store.open(tmp_path / DATABASE) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))  # a file cannot grow, as on a full disk
        try:
            with pytest.raises(StorageError, match="Free space .* every rollout finished so far is kept"):
                for p, e in [(p, e) for p in range(3) for e in range(50)]:
                    complete = result(batch_of([(p, e)]))
                    ends = tuple(dataclasses.replace(f, note="x" * 20_000) for f in complete.rollouts)
                    store.commit(dataclasses.replace(complete, rollouts=ends), SCOPE)
                    done += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert 3 < done < 150 and len(store.known(SCOPE)) == done
    with Store.open(tmp_path / DATABASE) as store:
        assert len(store.records(SCOPE)) == done
        store.commit(result(batch_of([(2, 49)])), SCOPE)  # space was made: it goes on


def filled(path):
    with Store.open(path) as store:
        boom = Crash(policy=2, stage="act", step=4, reason="boom", detail="trace")
        store.commit(result(batch_of([(0, 1), (0, 2), (1, 1), (2, 1)]), crashes=[boom]), SCOPE)


CHANGES = [
    "UPDATE rollouts SET success = 1 - success",
    "UPDATE rollouts SET success = success + 1e-12 WHERE policy = 'a'",
    "UPDATE rollouts SET world = 'v' WHERE policy = 'b'",
    "UPDATE rollouts SET noise = noise + 1 WHERE start = (SELECT min(start) FROM rollouts)",
    "UPDATE rollouts SET note = ''",
    "UPDATE rollouts SET judge = 'other'",
    "INSERT INTO rollouts SELECT kind, world, 'c', start, noise, judge, block, episode, batch, 1, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, "
    "'', checksum FROM rollouts LIMIT 1",
    "UPDATE crashes SET reason = 'nothing'",
    "UPDATE crashes SET policy = 'a'",
]


@pytest.mark.parametrize("change", CHANGES)
def test_an_edited_row_is_named_and_never_believed(tmp_path, change):
    path = tmp_path / DATABASE
    filled(path)
    connection = sqlite3.connect(path)
    connection.execute(change)
    connection.commit()
    connection.close()
    for way in (Store.open, Store.read):
        with pytest.raises(StorageError, match="(rollout|crash) of policy .* does not match its checksum"), way(path):
            pass


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    path = tmp_path / DATABASE
    filled(path)
    data = path.read_bytes()
    with Store.read(path) as store:
        before = dict(store.known(SCOPE))
    found = 0
    for at in range(4096, len(data), 61):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            with Store.open(path) as store:
                assert store.known(SCOPE) == before
        except StorageError as error:
            found += "damaged" in str(error)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
    assert found > 5


def test_special_values_keep_their_checksum(tmp_path):
    path = tmp_path / DATABASE
    complete = result(batch_of([(0, 1)]))
    odd = {"progress": -0.0, "uncertainty_mean": float("inf"), "note": "caf\u00e9 \U0001f600\n", "success": 1}
    with Store.open(path) as store:
        ends = tuple(dataclasses.replace(f, **odd) for f in complete.rollouts)
        store.commit(dataclasses.replace(complete, rollouts=ends), SCOPE)
    with Store.open(path) as store:
        (record,) = store.records(SCOPE)
    assert (record.result.progress, record.result.note) == (0.0, odd["note"])


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_database_that_vanishes_is_noticed(tmp_path, how):
    folder = tmp_path / "run"
    folder.mkdir()
    with Store.open(folder / DATABASE) as store:
        store.commit(result(batch_of([(0, 1)])), SCOPE)
        shutil.rmtree(folder)
        if how == "replaced":
            folder.mkdir()
            (folder / DATABASE).touch()
        with pytest.raises(StorageError, match="was deleted or replaced while the run was writing it"):
            store.commit(result(batch_of([(0, 2)])), SCOPE)


READ_ONLY = """
import os, sys
from pathlib import Path
from worldsim.triage.engine.store import Store
os.setgid(65534)
os.setuid(65534)  # root may write anywhere
with Store.read(Path(sys.argv[1])) as store:
    print(sorted(map(len, store._known.values())))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user that may not write")
@pytest.mark.parametrize("killed", [False, True])
def test_a_run_on_a_disk_that_cannot_be_written_is_read(killed):
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        Path(place).chmod(0o755)
        read_as_another_user(Path(place), killed=killed)


def read_as_another_user(tmp_path, *, killed):
    folder = tmp_path / "run"
    folder.mkdir()
    filled(folder / DATABASE)
    if killed:  # what a killed process leaves: rows in the log, not yet in the database
        with Store.open(folder / DATABASE) as store:
            store.commit(result(batch_of([(1, 7)])), SCOPE)
            shutil.copytree(folder, tmp_path / "copy")
        folder = tmp_path / "copy"
        (folder / f"{DATABASE}-shm").unlink()
    for place in (*folder.iterdir(), folder):
        place.chmod(0o555 if place.is_dir() else 0o444)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(folder / DATABASE)], env=environment, capture_output=True, text=True
    )
    folder.chmod(0o755)
    assert done.stdout.strip() == ("[4]" if killed else "[3]"), done.stderr


def test_a_database_that_another_program_holds_is_said_to_be_locked(tmp_path, monkeypatch):
    monkeypatch.setattr("worldsim.triage.engine.store._WAIT_S", 0.01)
    path = tmp_path / DATABASE
    with Store.open(path) as store:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="cannot be locked: another program holds it, or the disk"):
            store.commit(result(batch_of([(0, 1)])), SCOPE)
        other.execute("ROLLBACK")
        other.close()
