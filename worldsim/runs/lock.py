"""One run per folder: an advisory lock that dies with its process.

The kernel drops the lock when the process ends, however it ends, so there is no stale lock to clean up. Not for threads
of one run.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from worldsim.errors import StorageError

LOCK = "run.lock"
_PATIENCE_S = 0.5  # a process that is just ending holds its lock a moment longer
_PAUSE_S = 0.02


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold a run folder, made if it is missing, for as long as the context lasts.

    Raises:
        StorageError: Another run holds it (the message says which process), or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"Cannot use {folder} as a run folder: {error.strerror or error}. Choose a folder that can be written."
        ) from error
    try:
        _take(handle, path)
        yield
    finally:
        os.close(handle)  # closing releases the lock; the file stays, since removing it would let two runs in


def _take(handle: int, path: Path) -> None:
    """Lock the file and write who holds it."""
    try:
        _flock(handle)
    except BlockingIOError as error:
        raise StorageError(
            f"{path.parent} is in use by another run ({_holder(handle)}). Wait for it to end, or choose another folder."
        ) from error
    except OSError as error:
        raise StorageError(
            f"{path} cannot be locked: {error.strerror or error}. Choose a folder on a file system with locks."
        ) from error
    record = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(record).encode(), 0)
    except OSError as error:
        raise StorageError(
            f"Could not write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error


def _flock(handle: int) -> None:
    """Take the lock at once, or after a moment's patience."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _holder(handle: int) -> str:
    """Describe the process that holds the lock."""
    try:
        record = json.loads(os.pread(handle, 4096, 0))
        return f"process {record['pid']} on {record['host']}, since {record['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "a process that did not say its name"
