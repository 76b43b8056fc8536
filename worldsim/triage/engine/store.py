"""The durable record of finished rollouts: one SQLite database in the run folder.

A row is keyed by what was rolled out (world, policy, start, noise, judge), never by when or where, so a row is true in
any run that asks for the same rollout. A wave is entered in one transaction: a killed process loses whole waves or
nothing. The write-ahead log survives the death of the process at any moment; after a power cut the last waves may be
missing, which is harmless, for they are computed again to the same values. One process writes: the holder of the run
lock. Not for frames or latents.
"""

import dataclasses
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from worldsim.errors import StorageError
from worldsim.triage.engine.batches import Crash, Finished, Scope, Wave, WaveResult

DATABASE = "rollouts.db"
_VERSION = 1
_WAIT_S = 10.0
_SCHEMA = (
    """CREATE TABLE rollouts(
    kind TEXT NOT NULL, world TEXT NOT NULL, policy TEXT NOT NULL, start INTEGER NOT NULL, noise INTEGER NOT NULL,
    judge TEXT NOT NULL, block TEXT NOT NULL, episode INTEGER NOT NULL, wave TEXT NOT NULL, success REAL NOT NULL,
    probability REAL NOT NULL, progress REAL NOT NULL, progress_max REAL NOT NULL, uncertainty_min REAL NOT NULL,
    uncertainty_mean REAL NOT NULL, uncertainty_max REAL NOT NULL, solved_at INTEGER NOT NULL, steps INTEGER NOT NULL,
    abstained INTEGER NOT NULL, note TEXT NOT NULL, PRIMARY KEY(world, policy, start, noise, judge)
    ) STRICT, WITHOUT ROWID""",
    """CREATE TABLE crashes(
    wave TEXT NOT NULL, policy TEXT NOT NULL, stage TEXT NOT NULL, step INTEGER NOT NULL, reason TEXT NOT NULL,
    detail TEXT NOT NULL, PRIMARY KEY(wave, policy)
    ) STRICT, WITHOUT ROWID""",
    f"PRAGMA user_version = {_VERSION}",
)
_ENDING = tuple(f.name for f in dataclasses.fields(Finished) if f.name != "row")
_COLUMNS = ("kind", "world", "policy", "start", "noise", "judge", "block", "episode", "wave", *_ENDING)
_INSERT = f"INSERT INTO rollouts({', '.join(_COLUMNS)}) VALUES({', '.join('?' * len(_COLUMNS))})"
_SELECT = f"SELECT policy, start, noise, block, episode, {', '.join(_ENDING)} FROM rollouts"  # noqa: S608

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
    ending: Finished


class Store:
    """Reads and writes the database of one run folder."""

    def __init__(self, path: Path, *, connection: sqlite3.Connection) -> None:
        """Wrap an open connection; use `Store.open`."""
        self._path = path
        self._connection = connection
        self._known: dict[tuple[str, str], dict[Key, tuple[float, float]]] = {}
        self._crashes: dict[str, list[tuple[str, Crash]]] | None = None

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Self]:
        """Open the database, made if it is missing, and close it at the end.

        Raises:
            StorageError: It is damaged, was written by another version, or cannot be written.
        """
        with _told(path):
            connection = sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None)
        try:
            with _told(path):
                _prepare(connection, path)
            yield cls(path, connection=connection)
        finally:
            connection.close()

    def known(self, scope: Scope) -> dict[Key, tuple[float, float]]:
        """Success and progress of every rollout finished in a scope; kept up to date by `commit`."""
        place = (scope.world, scope.judge)
        if place not in self._known:
            query = "SELECT policy, start, noise, success, progress FROM rollouts WHERE world = ? AND judge = ?"
            with _told(self._path):
                rows = self._connection.execute(query, place).fetchall()
            self._known[place] = {(p, s, n): (success, progress) for p, s, n, success, progress in rows}
        return self._known[place]

    def crashes(self, wave: Wave, scope: Scope) -> list[Crash]:
        """Return the crashes recorded for a wave."""
        if self._crashes is None:
            self._crashes = {}
            query = "SELECT wave, policy, stage, step, reason, detail FROM crashes"
            with _told(self._path):
                rows = self._connection.execute(query).fetchall()
            for name, policy, stage, step, reason, detail in rows:
                crash = Crash(policy=-1, stage=stage, step=step, reason=reason, detail=detail)
                self._crashes.setdefault(name, []).append((policy, crash))
        index = {scope.policies[slot.policy].digest: slot.policy for slot in wave.slots}
        return [dataclasses.replace(crash, policy=index[policy]) for policy, crash in self._crashes.get(wave.id, [])]

    def open_part(self, wave: Wave, scope: Scope) -> Wave | None:
        """Return the wave with its known rows marked done, or None if every row has ended."""
        known = self.known(scope)
        crashed = {crash.policy for crash in self.crashes(wave, scope)}
        done = frozenset(
            row
            for row, slot in enumerate(wave.slots)
            if slot.policy in crashed or (scope.policies[slot.policy].digest, slot.start, slot.key) in known
        )
        return None if len(done) == len(wave.slots) else dataclasses.replace(wave, done=done)

    def commit(self, result: WaveResult, scope: Scope) -> None:
        """Enter a wave: all of it, or on failure nothing.

        Raises:
            StorageError: The disk is full or the database cannot be written. Everything committed before is safe.
        """
        wave = result.wave
        rows = []
        for end in result.finished:
            slot = wave.slots[end.row]
            ending = tuple(getattr(end, name) for name in _ENDING)
            policy = scope.policies[slot.policy].digest
            key = (wave.kind, scope.world, policy, slot.start, slot.key, scope.judge)
            rows.append((*key, wave.block, slot.episode, wave.id, *ending))
        crashes = [
            (wave.id, scope.policies[c.policy].digest, c.stage, c.step, c.reason, c.detail) for c in result.crashes
        ]
        with _told(self._path), self._transaction():
            self._connection.executemany(_INSERT, rows)
            self._connection.executemany("INSERT INTO crashes VALUES(?, ?, ?, ?, ?, ?)", crashes)
        known = self.known(scope)
        for end in result.finished:
            slot = wave.slots[end.row]
            known[scope.policies[slot.policy].digest, slot.start, slot.key] = (end.success, end.progress)
        self._crashes = None if result.crashes else self._crashes

    def forget_crashes(self) -> None:
        """Give every crashed policy another chance; finished rollouts stay."""
        with _told(self._path), self._transaction():
            self._connection.execute("DELETE FROM crashes")
        self._crashes = None

    def records(self, scope: Scope) -> list[Record]:
        """Return every rollout finished in a scope, in the order of policy, start and noise key."""
        query = f"{_SELECT} WHERE world = ? AND judge = ? ORDER BY policy, start, noise"
        with _told(self._path):
            rows = self._connection.execute(query, (scope.world, scope.judge)).fetchall()
        found = []
        for policy, start, noise, block, episode, *ending in rows:
            values = dict(zip(_ENDING, ending, strict=True))
            end = Finished(row=-1, **{**values, "abstained": bool(values["abstained"])})
            found.append(Record(policy=policy, start=start, noise=noise, block=block, episode=episode, ending=end))
        return found

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


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Check the file, switch on the write-ahead log, and lay out the tables of a new database."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise _damaged(path, str(verdict))
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        for statement in _SCHEMA:
            connection.execute(statement)
        connection.execute("COMMIT")
    elif version != _VERSION:
        raise StorageError(
            f"{path} has format {version}, this version of worldsim writes format {_VERSION}. Use the version that "
            "made it, or start a new folder."
        )


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ones a user can act on."""
    try:
        yield
    except sqlite3.IntegrityError:
        raise  # the same rollout twice is a bug here, not the user's
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"Could not use {path}: {error}. Free space or make the folder writable, then run the same command again; "
            "every rollout finished so far is kept."
        ) from error
    except sqlite3.DatabaseError as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path} is damaged ({' '.join(why.split())}). Restore it from a copy, or move it away and run the same command again to compute "
        "its rollouts anew."
    )
