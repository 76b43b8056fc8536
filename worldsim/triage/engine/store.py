"""The durable record of finished rollouts: one SQLite database in the run folder.

A row is keyed by what was rolled out (world, policy, start, noise, judge), never by when or where, so a row is true in
any run that asks for the same rollout. Each row carries a checksum, so that one that was edited or damaged is named and
never believed. A batch is entered in one transaction: a killed process loses complete batches or nothing. The write-ahead
log survives the death of the process at any moment; after a power cut the last batches may be missing, which is
harmless, for they are computed again to the same values. One process writes: the holder of the run lock.
"""

import dataclasses
import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

from worldsim.errors import StorageError
from worldsim.text import printable
from worldsim.triage.engine.batches import Batch, BatchResult, Crash, RolloutResult, Scope

DATABASE = "rollouts.db"
_VERSION = 4
"""Format that is written."""
_LATER = {"at_limits": 3, "outside": 4}
"""Columns that older formats lack, and the first format that has each. Where one is -1, not known, it is in no checksum."""
_WAIT_S = 10.0
_SCHEMA = (
    """CREATE TABLE rollouts(
    kind TEXT NOT NULL, world TEXT NOT NULL, policy TEXT NOT NULL, start INTEGER NOT NULL, noise INTEGER NOT NULL,
    judge TEXT NOT NULL, block TEXT NOT NULL, episode INTEGER NOT NULL, batch TEXT NOT NULL, success REAL NOT NULL,
    probability REAL NOT NULL, progress REAL NOT NULL, progress_max REAL NOT NULL, uncertainty_min REAL NOT NULL,
    uncertainty_mean REAL NOT NULL, uncertainty_max REAL NOT NULL, solved_at INTEGER NOT NULL, steps INTEGER NOT NULL,
    at_limits REAL NOT NULL DEFAULT -1.0, outside REAL NOT NULL DEFAULT -1.0,
    unseen INTEGER NOT NULL, abstained INTEGER NOT NULL, note TEXT NOT NULL, checksum TEXT NOT NULL,
    PRIMARY KEY(world, policy, start, noise, judge)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE crashes(
    batch TEXT NOT NULL, policy TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER NOT NULL, reason TEXT NOT NULL,
    detail TEXT NOT NULL, checksum TEXT NOT NULL, PRIMARY KEY(batch, policy)
    ) STRICT, WITHOUT ROWID""",
    f"PRAGMA user_version = {_VERSION}",
)
_KINDS = {f.name: f.type for f in dataclasses.fields(RolloutResult) if f.name != "row"}
_VALUES = tuple(_KINDS)
_COLUMNS = ("kind", "world", "policy", "start", "noise", "judge", "block", "episode", "batch", *_VALUES, "checksum")
_CRASH_COLUMNS = ("batch", "policy", "stage", "step", "reason", "detail", "checksum")
_LOCKING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL", "SQLITE_NOLFS")
_LOCKING_IO = ("LOCK", "UNLOCK", "SHMOPEN", "SHMSIZE", "SHMLOCK", "SHMMAP", "BLOCKED", "CHECKRESERVEDLOCK")

Key = tuple[str, int, int]
"""Policy digest, start and noise key: names a rollout within a scope."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One stored rollout."""

    policy: str  # digest
    start: int
    noise: int
    block: str  # the block that first asked for it
    episode: int
    result: RolloutResult  # its row is -1


class Store:
    """Reads and writes the database of one run folder. What it holds of outcomes is kept in memory too."""

    def __init__(self, path: Path, *, connection: sqlite3.Connection) -> None:
        """Read and check all rows of an open connection; use `Store.open` or `Store.read`."""
        self._path = path
        self._connection = connection
        self._file = _identity(path)
        self._known: dict[tuple[str, str], dict[Key, tuple[float, float]]] = {}
        self._crashes: dict[str, dict[str, Crash]] = {}
        with _storage_errors(path):
            self._read_rollouts()
            self._read_crashes()

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open the database for writing, made if it is missing, and close it at the end.

        Raises:
            StorageError: It is damaged, was edited, was written by another version, or cannot be written.
        """
        with _storage_errors(path):
            connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        with closing(connection):
            with _storage_errors(path):
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = NORMAL")
                _prepare(connection, path)
            yield cls(path, connection=connection)

    @classmethod
    @contextmanager
    def read(cls, path: Path) -> Iterator[Self]:
        """Open the database for reading, while a run writes it or on a disk that cannot be written.

        Raises:
            StorageError: It is missing, damaged, was edited, or was written by another version.
        """
        with tempfile.TemporaryDirectory() as copy:
            with _storage_errors(path):
                if not path.is_file():
                    raise StorageError(f"{path} does not exist. Start the run again to make it.")
                connection = _reader(path, Path(copy))
            with closing(connection):
                with _storage_errors(path):
                    if missing := _missing_columns(_check_format(connection, path)):
                        added = ", ".join(f"-1.0 AS {name}" for name in missing)
                        connection.execute(f"CREATE TEMP VIEW rollouts AS SELECT *, {added} FROM main.rollouts")  # noqa: S608
                yield cls(path, connection=connection)

    def known(self, scope: Scope) -> dict[Key, tuple[float, float]]:
        """Success and progress of every rollout finished in a scope; kept up to date by `commit`."""
        return self._known.setdefault((scope.world, scope.judge), {})

    def crashes(self, batch: Batch, scope: Scope) -> list[Crash]:
        """Return the crashes recorded for a batch."""
        index = {scope.policies[slot.policy].digest: slot.policy for slot in batch.slots}
        found = self._crashes.get(batch.id, {})
        return [dataclasses.replace(crash, policy=index[policy]) for policy, crash in found.items()]

    def missing_part(self, batch: Batch, scope: Scope) -> Batch | None:
        """Return the batch with its known rows marked done, or None if every row has ended."""
        known = self.known(scope)
        crashed = {crash.policy for crash in self.crashes(batch, scope)}
        done = frozenset(
            row
            for row, slot in enumerate(batch.slots)
            if slot.policy in crashed or (scope.policies[slot.policy].digest, slot.start, slot.key) in known
        )
        return None if len(done) == len(batch.slots) else dataclasses.replace(batch, done=done)

    def commit(self, result: BatchResult, scope: Scope) -> None:
        """Enter what came of a batch, or of a part of it: all of it, or on failure nothing.

        Raises:
            StorageError: The disk is full, the database cannot be written or was deleted, or it holds one of these
                rollouts already. Everything committed before is safe, unless it was deleted.
        """
        self.check_present()
        batch, rows = result.batch, []
        for end in result.rollouts:
            slot = batch.slots[end.row]
            key = (batch.kind, scope.world, scope.policies[slot.policy].digest, slot.start, slot.key, scope.judge)
            values = tuple(_plain(name, getattr(end, name)) for name in _VALUES)
            rows.append(_row((*key, batch.block, slot.episode, batch.id, *values)))
        crashes = [
            _with_checksum((batch.id, scope.policies[c.policy].digest, c.stage, c.step, c.reason, c.detail))
            for c in result.crashes
        ]
        with _storage_errors(self._path), self._transaction():
            self._connection.executemany(_insert("rollouts", _COLUMNS), rows)
            self._connection.executemany(_insert("crashes", _CRASH_COLUMNS), crashes)
        known = self.known(scope)
        for end in result.rollouts:
            slot = batch.slots[end.row]
            known[scope.policies[slot.policy].digest, slot.start, slot.key] = (end.success, end.progress)
        for crash in result.crashes:
            self._crashes.setdefault(batch.id, {})[scope.policies[crash.policy].digest] = crash

    def forget_crashes(self) -> None:
        """Give every crashed policy another chance; finished rollouts stay."""
        with _storage_errors(self._path), self._transaction():
            self._connection.execute("DELETE FROM crashes")
        self._crashes = {}

    def check_present(self) -> None:
        """See that the file is still the one that was opened.

        Raises:
            StorageError: It was deleted, moved or replaced.
        """
        if _identity(self._path) != self._file:
            raise StorageError(
                f"{self._path} was deleted or replaced while the run was writing it. What it held is lost unless the "
                "folder was only moved: put it back, or run the same command again from the beginning."
            )

    def records(self, scope: Scope) -> list[Record]:
        """Return every rollout finished in a scope, in the order of policy, start and noise key."""
        query = (
            f"SELECT {', '.join(_COLUMNS)} FROM rollouts WHERE world = ? AND judge = ? ORDER BY policy, start, noise"  # noqa: S608
        )
        with _storage_errors(self._path):
            rows = self._connection.execute(query, (scope.world, scope.judge)).fetchall()
        return [_record(dict(zip(_COLUMNS, row, strict=True))) for row in rows]

    def _read_rollouts(self) -> None:
        """Check every row, and learn what is known of each scope."""
        places = {name: i for i, name in enumerate(_COLUMNS)}
        world, policy, start, noise, judge, success, progress = (
            places[n] for n in ("world", "policy", "start", "noise", "judge", "success", "progress")
        )
        for row in self._connection.execute(f"SELECT {', '.join(_COLUMNS)} FROM rollouts"):  # noqa: S608
            if row != _row(row[:-1]):
                raise _edited(
                    self._path, f"rollout of policy {row[policy][:12]}, start {row[start]}, noise {row[noise]}"
                )
            known = self._known.setdefault((row[world], row[judge]), {})
            known[row[policy], row[start], row[noise]] = (row[success], row[progress])

    def _read_crashes(self) -> None:
        for row in self._connection.execute(f"SELECT {', '.join(_CRASH_COLUMNS)} FROM crashes"):  # noqa: S608
            if row != _with_checksum(row[:-1]):
                raise _edited(self._path, f"crash of policy {row[1][:12]}")
            batch, policy, stage, step, reason, detail, _ = row
            crash = Crash(policy=-1, stage=stage, step=step, reason=reason, detail=detail)
            self._crashes.setdefault(batch, {})[policy] = crash

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Commit on normal exit, roll back on an exception."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table}({', '.join(columns)}) VALUES({', '.join('?' * len(columns))})"


def _record(row: dict[str, Any]) -> Record:
    values = {name: row[name] for name in _VALUES}
    result = RolloutResult(row=-1, **{**values, "abstained": bool(values["abstained"])})
    named = {name: row[name] for name in ("policy", "start", "noise", "block", "episode")}
    return Record(result=result, **named)


def _plain(name: str, value: float | str) -> float | str:
    """A value as SQLite gives it back: a number of the column's kind, no bool, no negative zero."""
    if isinstance(value, str):
        return value
    return float(value) + 0.0 if _KINDS[name] is float else int(value)


def _row(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A rollout with its checksum, which leaves out what older formats lack where that is not known."""
    known = tuple(v for name, v in zip(_COLUMNS, values, strict=False) if name not in _LATER or v != -1)
    return (*values, _with_checksum(known)[-1])


def _with_checksum(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row with its checksum at the end."""
    return (*values, hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest())


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one of the same name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino)


def _reader(path: Path, copy: Path) -> sqlite3.Connection:
    """A connection that only reads; on a copy where the folder does not allow the files that readers share."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)
    try:
        connection.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        connection.close()
        for suffix in ("", "-wal"):
            if os.path.exists(f"{path}{suffix}"):
                shutil.copyfile(f"{path}{suffix}", copy / f"{path.name}{suffix}")
        return sqlite3.connect(copy / path.name)
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Lay out the tables of a new database, or check an old one."""
    if version := connection.execute("PRAGMA user_version").fetchone()[0]:
        _check_format(connection, path)
        if missing := _missing_columns(version):
            connection.execute("BEGIN IMMEDIATE")
            for name in missing:
                connection.execute(f"ALTER TABLE rollouts ADD COLUMN {name} REAL NOT NULL DEFAULT -1.0")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("COMMIT")
        return
    _check_pages(connection, path)
    connection.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA:
        connection.execute(statement)
    connection.execute("COMMIT")


def _missing_columns(version: int) -> list[str]:
    """Columns that a format lacks."""
    return [name for name, first in _LATER.items() if version < first]


def _check_format(connection: sqlite3.Connection, path: Path) -> int:
    """Refuse a damaged file, and one of another version; returns the version."""
    _check_pages(connection, path)
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if not min(_LATER.values()) - 1 <= version <= _VERSION:
        raise StorageError(
            f"{path} has format {version}, this version of worldsim writes format {_VERSION}. Use the version that "
            "made it, or start a new folder."
        )
    return version


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _damaged(path, str(verdict))


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and of the file system into ones a user can act on."""
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise StorageError(
            f"{path} already holds a rollout that was computed just now ({error}): another process has written to it. "
            "Run one command at a time in a folder, then the same command again."
        ) from error
    except sqlite3.OperationalError as error:
        raise StorageError(f"Could not use {path}: {error}. {_cure(error)}") from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Could not read {path}: {error.strerror or error}. Check the disk.") from error


def _cure(error: sqlite3.OperationalError) -> str:
    """What to do about an error of SQLite's."""
    name = error.sqlite_errorname
    locked = name.startswith(_LOCKING) or name.removeprefix("SQLITE_IOERR_") in _LOCKING_IO
    if locked:
        return (
            "The file cannot be locked: another program holds it, or the disk (many network disks) has no locks. Close "
            "the other program, or choose a folder on a local disk."
        )
    return (
        "Free space or make the folder writable, then run the same command again; every rollout finished so far is "
        "kept."
    )


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path} is damaged ({printable(' '.join(why.split()))}). Restore it from a copy, or move it away and run the "
        "same command again to compute its rollouts a second time."
    )


def _edited(path: Path, row: str) -> StorageError:
    return _damaged(path, f"the {row} does not match its checksum: it was edited, or the disk has changed it")
