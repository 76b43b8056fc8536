"""What a planning run has finished: one JSON line per episode, written durably, begun with settings that must not change.

A killed process loses the batch it was playing and nothing else. Not for triage, whose rollouts are many and small
(`worldsim.triage.engine.store`).
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError

SETTINGS, EPISODES = "settings.json", "episodes.jsonl"
Record = dict[str, Any]
"""One finished episode; `where` and `episode` name it."""


class Ledger:
    """The finished episodes of one run folder; hold its lock meanwhile.

    Args:
        folder: The run folder; begun if it is new.
        settings: JSON values that decide an episode's result.

    Raises:
        InvalidInputError: The folder was begun with other settings; each is named.
        StorageError: A file is damaged, or the folder cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._path = folder / EPISODES
        self._found: dict[tuple[str, int], Record] = {}
        if (folder / SETTINGS).exists():
            _compare(folder, storage.read_json(folder / SETTINGS), settings)
        elif self._path.exists():
            raise StorageError(f"{self._path} has lost its {SETTINGS}. Restore it, or choose another folder.")
        else:
            storage.write_json(folder / SETTINGS, dict(settings))
        self._read()

    def missing(self, where: str, episodes: range) -> list[int]:
        """Those of `episodes` that are not finished in a place."""
        return [e for e in episodes if (where, e) not in self._found]

    def records(self, where: str, episodes: int) -> list[Record]:
        """The finished among the first so many episodes in a place, in order."""
        return [self._found[where, e] for e in range(episodes) if (where, e) in self._found]

    def add(self, records: Sequence[Record]) -> None:
        """Append finished episodes, those that are known already left out; on return they are on the disk.

        Raises:
            StorageError: The disk is full or the file cannot be written.
        """
        fresh = [r for r in records if (r["where"], r["episode"]) not in self._found]
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
        self._found |= {(r["where"], r["episode"]): r for r in fresh}

    def _read(self) -> None:
        """Read every whole line; a line that a kill cut short is taken off."""
        if not self._path.exists():
            return
        data = self._path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self._path, whole)
        for number, line in enumerate(data[:whole].splitlines(), start=1):
            try:
                record = json.loads(line)
                self._found[record["where"], record["episode"]] = record
            except (ValueError, KeyError, TypeError) as error:
                raise StorageError(
                    f"Line {number} of {self._path} is damaged ({error}). Delete that line to play its episode again."
                ) from error


def _compare(folder: Path, old: Any, new: Mapping[str, Any]) -> None:
    """Refuse a folder of another run."""
    old = old if isinstance(old, dict) else {}
    changed = [f"{k}: was {old.get(k)!r}, now {new.get(k)!r}" for k in sorted({*old, *new}) if old.get(k) != new.get(k)]
    if changed:
        raise InvalidInputError(
            f"{folder} was begun with other settings ({'; '.join(changed)}). Give the same ones, or another --out."
        )
