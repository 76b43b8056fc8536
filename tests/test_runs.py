import errno
import fcntl
import os
import subprocess
import sys

import pytest

from worldsim.errors import InvalidInputError, StorageError
from worldsim.runs import LOCK, REQUEST, Ledger, differences, hold_folder, open_run


def test_two_runs_on_one_folder_are_refused_with_the_name_of_the_holder(tmp_path):
    folder = tmp_path / "new" / "run"
    with (
        hold_folder(folder),
        pytest.raises(StorageError, match=rf"in use by another run \(process {os.getpid()} on"),
        hold_folder(folder),
    ):
        pytest.fail("the second lock was granted")
    with hold_folder(folder):
        pass


def test_a_lock_dies_with_its_process(tmp_path):
    code = "import sys, os, signal; from pathlib import Path; from worldsim.runs import hold_folder\n"
    code += "with hold_folder(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9 and (tmp_path / LOCK).exists()
    with hold_folder(tmp_path):
        pass


def test_a_child_of_the_holder_does_not_hold_it(tmp_path):
    with hold_folder(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        with hold_folder(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot use .*file.* as a run folder"), hold_folder(tmp_path / "file"):
        pass


def test_a_lock_without_a_name_is_still_a_lock(tmp_path):
    with hold_folder(tmp_path):
        for record in ("{", "[" * 4096, "[]", '"x"', '{"pid": 1}', "\x00", '{"pid": NaN'):
            (tmp_path / LOCK).write_text(record)
            with pytest.raises(StorageError, match="did not say its name"), hold_folder(tmp_path):
                pass


def test_a_disk_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match="network disks.*local disk"), hold_folder(tmp_path):
        pytest.fail("nothing holds it")


def test_a_folder_itself_is_held_without_a_file(tmp_path):
    with hold_folder(tmp_path, lock=None):
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(StorageError, match="in use by another run"), hold_folder(tmp_path, lock=None):
            pass


def test_a_run_is_continued_by_the_same_request_only(tmp_path):
    with open_run(tmp_path, {"a": 1, "deep": {"b": [1, 2], "c": "x"}}):
        pass
    with open_run(tmp_path, {"a": 2}):  # the first left nothing, so it bound nothing
        (tmp_path / "result").touch()
    with pytest.raises(InvalidInputError, match="a: was 2, now 3.*Ask the same again"), open_run(tmp_path, {"a": 3}):
        pass
    with open_run(tmp_path, {"a": 2}):
        pass
    (tmp_path / REQUEST).unlink()
    with pytest.raises(StorageError, match="lost its request"), open_run(tmp_path, {"a": 2}, results="result"):
        pass


def test_differences_are_named_one_by_one():
    old = {"same": 1, "budget": 5, "workers": 1, "deep": {"a": 1, "b": 2}, "gone": True}
    new = {"same": 1, "budget": 9, "workers": 3, "deep": {"a": 1, "b": 3}, "came": "x"}
    free = {"may_change": {"workers"}, "may_grow": {"budget"}}
    assert differences(old, new, **free) == [
        "came: was None, now 'x'",
        "deep.b: was 2, now 3",
        "gone: was True, now None",
    ]
    assert differences({"budget": 9}, {"budget": 5}, **free) == ["budget: was 9, now 5; it can only grow"]


def test_a_ledger_keeps_complete_lines_and_names_damaged_ones(tmp_path):
    file = tmp_path / "done.jsonl"
    ledger = Ledger(file, key=("n",))
    ledger.add([{"n": 1, "value": 0.5}, {"n": 2, "value": 1.5}])
    ledger.add([{"n": 2, "value": 9.0}])  # known already
    with file.open("ab") as end:
        end.write(b'{"n": 3, "val')  # as a kill in the middle of a write would leave it
    again = Ledger(file, key=("n",))
    assert (1,) in again and (3,) not in again
    assert again[(2,)] == {"n": 2, "value": 1.5}
    assert file.read_bytes().count(b"\n") == 2 and file.read_bytes().endswith(b"\n")
    for damaged in (b"{}\n", b"3\n", b"x\n", b"[" * 100_000 + b"\n"):
        file.write_bytes(damaged)
        with pytest.raises(StorageError, match="Line 1"):
            Ledger(file, key=("n",))
