"""eval.json: the figures of a run, and every answer so far, so that the same command continues after a kill.

The file is replaced whole, after every batch unless writing would take longer than asking. One process writes it: hold a
lock where several could. Not for counting (`tally`).
"""

import datetime
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.errors import StorageError, WorldsimError
from worldsim.reason.benchmark.tally import Answer, mean_of_datasets, tally
from worldsim.runs import require_same_request

FILE = "eval.json"
KIND = "reason eval"
_PAUSE = 5.0
"""Times as long as writing took, until it is written again."""


class Ledger:
    """The answers of one run.

    Args:
        folder: The run folder; begun if it is new.
        settings: JSON values that decide an answer: model, view, way of asking.
        facts: Further JSON values to keep with the figures: command, versions, benchmark.

    Raises:
        InvalidInputError: The folder was begun with another request; each difference is named.
        StorageError: The file is damaged or something else.
    """

    def __init__(self, folder: str | Path, *, settings: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        self.path = Path(folder) / FILE
        self._settings, self._facts = storage.to_json(settings), storage.to_json(facts)
        self._answers: dict[str, Answer] = {}
        self._next_s = 0.0
        if self.path.exists():
            self._read()

    @property
    def due(self) -> bool:
        """Whether it is time to write: as good as always, but for many answers that come fast."""
        return time.monotonic() >= self._next_s

    def answer(self, name: str, digest: str) -> Answer | None:
        """The answer to a question, if just that was asked before."""
        found = self._answers.get(name)
        return found if found is not None and found.digest == digest else None

    def add(self, answers: Sequence[Answer]) -> None:
        """Take answers; those to questions of the same name are replaced."""
        self._answers |= {a.name: a for a in answers}

    def write(self, answers: Sequence[Answer], *, bad: Mapping[str, str], complete: bool) -> None:
        """Write the file; on return it is on the disk.

        Args:
            answers: Those that the figures are about.
            bad: What was skipped and why, by the names of questions.
            complete: Whether everything has been asked.

        Raises:
            StorageError: It cannot be written; what it held before is kept.
        """
        began = time.monotonic()
        figures = {"figures": tally(answers), "mean_of_datasets": mean_of_datasets(answers)} if answers else {}
        value = {
            **self._facts,
            "kind": KIND,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "complete": complete,
            "settings": self._settings,
            **figures,
            "skipped": dict(bad),
            "answers": sorted(self._answers.values(), key=lambda a: a.name),
        }
        storage.write_json(self.path, storage.to_json(value))
        self._next_s = time.monotonic() + _PAUSE * (time.monotonic() - began)

    def _read(self) -> None:
        value = storage.read_json(self.path)
        old = value.get("settings") if isinstance(value, Mapping) and value.get("kind") == KIND else None
        if not isinstance(old, Mapping):
            raise StorageError(f"{self.path} is not the result of a benchmark run. Choose another folder.")
        require_same_request(self.path.parent, old, self._settings)
        try:
            self.add([storage.from_json(Answer, a) for a in value["answers"]])
        except (KeyError, TypeError, WorldsimError) as error:
            raise StorageError(f"{self.path} is damaged ({error}). Delete it to begin anew.") from error
