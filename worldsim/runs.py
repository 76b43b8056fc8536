"""A run folder: held by one run at a time, bound to one request, and the ledger of what is finished.

There is one rule of resuming: the same request continues, and nothing that is finished is computed twice. A killed
process loses what was under way and nothing else. Rollouts, which are many and small, have a database of their own
(`worldsim.triage.engine.store`).
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError
from worldsim.json_values import parse_json, shown

LOCK, REQUEST = "run.lock", "request.json"
Record = dict[str, Any]
"""JSON values of one finished piece of work."""
_WAIT_S = 0.5  # a process that is just ending holds its lock a moment longer
_PAUSE_S = 0.02
_LISTED = 5


@contextmanager
def hold_folder(folder: Path, *, lock: str | None = LOCK) -> Iterator[None]:
    """Hold a run folder, made if it is missing, for as long as the block lasts.

    The kernel drops the lock when the process ends, however it ends, so no stale lock needs cleaning up. Threads of one
    process do not exclude each other.

    Args:
        folder: The folder.
        lock: Name of the lock file in it; None locks the folder itself and adds no file.

    Raises:
        StorageError: Another run holds it (the message says which process), it cannot be written, or its disk has no
            locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDONLY | os.O_DIRECTORY if lock is None else os.O_RDWR | os.O_CREAT
        handle = os.open(folder if lock is None else folder / lock, flags | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise StorageError(
            f"Cannot use {folder} as a run folder: {error.strerror or error}. Choose a folder that can be written."
        ) from error
    try:
        _take_lock(handle, folder)
        if lock is not None:
            _write_holder(handle, folder)
        yield
    finally:
        os.close(handle)  # closing releases the lock; the file stays, since removing it would let two runs in


def _take_lock(handle: int, folder: Path) -> None:
    """Lock the file, or retry briefly."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() <= deadline:
                time.sleep(_PAUSE_S)
                continue
            raise StorageError(
                f"{folder} is in use by another run ({_holder(handle)}). Wait for it to end, or choose another folder."
            ) from error
        except OSError as error:
            raise StorageError(
                f"{folder} cannot be locked ({error.strerror or error}): its disk has no file locks, as many network disks. "
                "Choose a folder on a local disk."
            ) from error
        else:
            return


def _write_holder(handle: int, folder: Path) -> None:
    """Write into the lock file who holds it."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    record = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(record).encode(), 0)
    except OSError as error:
        raise StorageError(
            f"Could not write {folder}: {error.strerror or error}. Free space or choose another place."
        ) from error


def _holder(handle: int) -> str:
    """Describe the process that holds the lock."""
    with suppress(OSError, StorageError, KeyError, TypeError):
        record = parse_json(os.pread(handle, 4096, 0), source=LOCK)
        return f"process {record['pid']} on {record['host']}, since {record['since']}"
    return "a process that did not say its name"


@contextmanager
def open_run(folder: Path, request: Mapping[str, Any], *, results: str | None = None) -> Iterator[None]:
    """Hold a run folder and bind it to a request; a run that failed before it left anything binds nothing.

    Args:
        folder: The folder; made if it is missing.
        request: What decides the result, as JSON values or dataclasses.
        results: Name of the file of results, which a folder without a request must not have.

    Raises:
        StorageError: Another run holds the folder, it cannot be written, or it has results and no request.
        InvalidInputError: It was begun with another request; see `require_same_request`.
    """
    wanted, path = storage.to_json(request), folder / REQUEST
    with hold_folder(folder):
        if results is not None and (folder / results).exists() and not path.exists():
            raise StorageError(f"{folder / results} has lost its {REQUEST}. Restore it, or choose another folder.")
        begun = storage.read_json(path) if path.exists() else wanted
        if any(p.name not in (LOCK, REQUEST) for p in folder.iterdir()):
            require_same_request(folder, begun, wanted)
        storage.write_json(path, wanted)
        yield


def require_same_request(
    folder: Path,
    begun: Any,
    wanted: Mapping[str, Any],
    *,
    may_change: Container[str] = (),
    may_grow: Container[str] = (),
) -> None:
    """Refuse to continue a run with another request.

    Args:
        folder: The run folder.
        begun: The request it was begun with, as JSON values.
        wanted: The request now, as JSON values.
        may_change: Keys that do not decide the result.
        may_grow: Keys whose number may be larger now.

    Raises:
        InvalidInputError: They differ; the message names each difference.
    """
    found = differences(begun if isinstance(begun, Mapping) else {}, wanted, may_change=may_change, may_grow=may_grow)
    refuse_differences(folder, found)


def refuse_differences(folder: Path, found: Sequence[str]) -> None:
    """Refuse to continue a run whose request differs, if it does; for callers that say themselves how it may.

    Raises:
        InvalidInputError: There is a difference; the message names them.
    """
    if found:
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise InvalidInputError(
            f"{folder} was begun with another request. It differs in: {'; '.join(found[:_LISTED])}{more}. Ask the same again "
            "to continue it, or choose another folder."
        )


def differences(
    begun: Mapping[str, Any],
    wanted: Mapping[str, Any],
    *,
    may_change: Container[str] = (),
    may_grow: Container[str] = (),
    prefix: str = "",
) -> list[str]:
    """How two requests differ, one phrase for each key; keys inside keys are joined by dots."""
    found: list[str] = []
    for key in sorted({*begun, *wanted}):
        old, new, name = begun.get(key), wanted.get(key), f"{prefix}{key}"
        if old == new or name in may_change:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, may_change=may_change, may_grow=may_grow, prefix=f"{name}.")
        elif name in may_grow and isinstance(old, int | float) and isinstance(new, int | float):
            found += [f"{name}: was {old}, now {new}; it can only grow"] if new < old else []
        else:
            found.append(f"{name}: was {shown(old)}, now {shown(new)}")
    return found


class Ledger:
    """What a run has finished: one JSON line for each record, written durably. Hold the folder meanwhile.

    Args:
        path: The file; made when the first record is added.
        key: Fields that name a record.

    Raises:
        StorageError: A line is damaged.
    """

    def __init__(self, path: Path, *, key: tuple[str, ...]) -> None:
        self._path, self._key = path, key
        self._records: dict[tuple[Any, ...], Record] = {}
        self._read()

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        """Whether the record with these values of the key fields is finished."""
        return key in self._records

    def __getitem__(self, key: tuple[Any, ...]) -> Record:
        """The record with these values of the key fields."""
        return self._records[key]

    def add(self, records: Sequence[Record]) -> None:
        """Append records, those already there left out; on return they are on the disk.

        Raises:
            StorageError: The disk is full or the file cannot be written.
        """
        fresh = [r for r in records if self._key_of(r) not in self._records]
        text = "".join(json.dumps(r, sort_keys=True, allow_nan=False) + "\n" for r in fresh)
        try:
            with self._path.open("ab") as file:
                file.write(text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(
                f"Could not write {self._path}: {error.strerror or error}. Free space and run the same command again; "
                "what was finished before is kept."
            ) from error
        self._records |= {self._key_of(r): r for r in fresh}

    def _key_of(self, record: Record) -> tuple[Any, ...]:
        return tuple(record[name] for name in self._key)

    def _read(self) -> None:
        """Read every complete line; a line that a kill cut short is taken off."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        complete = data.rfind(b"\n") + 1
        if complete < len(data):
            os.truncate(self._path, complete)
        for number, line in enumerate(data[:complete].splitlines(), start=1):
            try:
                record = parse_json(line, source="the line")
                self._records[self._key_of(record)] = record
            except (StorageError, KeyError, TypeError) as error:
                raise StorageError(
                    f"Line {number} of {self._path} is damaged ({error}). Delete that line to compute it again."
                ) from error


def show_duration(seconds: float) -> str:
    """A duration for people: seconds below two minutes, minutes below two hours, else hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
