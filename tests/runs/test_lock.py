import os
import subprocess
import sys

import pytest

from worldsim.errors import StorageError
from worldsim.runs.lock import LOCK, run_lock


def test_two_runs_on_one_folder_are_refused_and_told_who_holds_it(tmp_path):
    folder = tmp_path / "new" / "run"
    with (
        run_lock(folder),
        pytest.raises(StorageError, match=rf"in use by another run \(process {os.getpid()} on"),
        run_lock(folder),
    ):
        pytest.fail("the second lock was granted")
    with run_lock(folder):
        pass


def test_a_lock_dies_with_its_process(tmp_path):
    code = "import sys, os, signal; from pathlib import Path; from worldsim.runs.lock import run_lock\n"
    code += "with run_lock(Path(sys.argv[1])):\n    os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9 and (tmp_path / LOCK).exists()
    with run_lock(tmp_path):
        pass


def test_a_child_of_the_holder_does_not_hold_it(tmp_path):
    with run_lock(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    try:
        with run_lock(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot use .*file.* as a run folder"), run_lock(tmp_path / "file"):
        pass


def test_a_lock_without_a_name_is_still_a_lock(tmp_path):
    with run_lock(tmp_path):
        (tmp_path / LOCK).write_text("{")
        with pytest.raises(StorageError, match="did not say its name"), run_lock(tmp_path):
            pass
