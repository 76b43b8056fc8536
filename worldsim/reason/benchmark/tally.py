"""How often answers are right, by dataset and task, beside guessing and a control; as a table, and as eval.json.

The control shows each question with the frames of another. Questions are counted as if they were independent; several about
one clip are not quite, and their interval is then somewhat too narrow.

eval.json holds the figures and every answer so far, so that the same command continues after a kill. It is replaced atomically,
after every batch unless writing would take longer than asking. One process writes it: hold a lock where several could.
"""

import dataclasses
import datetime
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError, WorldsimError
from worldsim.runs import require_same_request
from worldsim.stats.intervals import clopper_pearson


@dataclasses.dataclass(frozen=True, kw_only=True)
class Response:
    """A model's answer to one question.

    Attributes:
        name: The question's.
        dataset: Its dataset.
        task: Its task.
        digest: Of all that was asked and shown.
        options: How many there were.
        answer: Letter of the right one.
        given: Letter of the model's, None where none could be read from its reply.
        reply: Its words; empty where options were scored.
        logprobs: Log-probability of each option; empty where it replied in words.
        frames: Numbers of the frames that were shown.
        blind: As `given`, with the frames of another question; None too where that was not asked.
        blind_with: Whose frames those were; empty where that was not asked.
    """

    name: str
    dataset: str
    task: str
    digest: str
    options: int
    answer: str
    given: str | None
    reply: str = ""
    logprobs: tuple[float, ...] = ()
    frames: tuple[int, ...] = ()
    blind: str | None = None
    blind_with: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TallyRow:
    """Figures of some questions.

    Attributes:
        dataset: Which; empty for all.
        task: Which; empty for all.
        items: How many questions.
        accuracy: Share of right answers; what cannot be read is wrong.
        low: Lower end of the exact (Clopper-Pearson) 95 % interval.
        high: Upper end.
        chance: What guessing reaches: the mean of 1 / options.
        unparsable: Share of replies from which no option could be read.
        blind: Accuracy with the frames of other questions; None where that was not asked.
        blind_low: Lower end of its interval.
        blind_high: Upper end.
    """

    dataset: str
    task: str
    items: int
    accuracy: float
    low: float
    high: float
    chance: float
    unparsable: float
    blind: float | None = None
    blind_low: float | None = None
    blind_high: float | None = None

    @property
    def beats_chance(self) -> bool:
        """Surely better than guessing."""
        return self.low > self.chance


def tally(answers: Sequence[Response]) -> tuple[TallyRow, ...]:
    """Count right answers.

    Args:
        answers: At least one.

    Returns:
        A row per dataset and task, a row per dataset that has several tasks, and last one for all questions.

    Raises:
        InvalidInputError: No answers.
    """
    if not answers:
        raise InvalidInputError("There are no answers to count. Ask something first.")
    rows: list[TallyRow] = []
    for dataset in dict.fromkeys(a.dataset for a in answers):
        own = [a for a in answers if a.dataset == dataset]
        tasks = list(dict.fromkeys(a.task for a in own))
        rows += [_row(dataset, task, [a for a in own if a.task == task]) for task in tasks]
        if len(tasks) > 1:
            rows.append(_row(dataset, "", own))
    return (*rows, _row("", "", answers))


def mean_of_datasets(answers: Sequence[Response]) -> float:
    """Mean accuracy of the datasets, each of the same weight, as published tables average them."""
    names = dict.fromkeys(a.dataset for a in answers)
    return float(np.mean([np.mean([a.given == a.answer for a in answers if a.dataset == n]) for n in names]))


def _row(dataset: str, task: str, answers: Sequence[Response]) -> TallyRow:
    low, high = _interval(sum(a.given == a.answer for a in answers), len(answers))
    blind_answers = [a for a in answers if a.blind_with]
    blind: tuple[float | None, ...] = (None, None, None)
    if blind_answers:
        right = sum(a.blind == a.answer for a in blind_answers)
        blind = (right / len(blind_answers), *_interval(right, len(blind_answers)))
    return TallyRow(
        dataset=dataset,
        task=task,
        items=len(answers),
        accuracy=sum(a.given == a.answer for a in answers) / len(answers),
        low=low,
        high=high,
        chance=float(np.mean([1 / a.options for a in answers])),
        unparsable=sum(a.given is None for a in answers) / len(answers),
        blind=blind[0],
        blind_low=blind[1],
        blind_high=blind[2],
    )


def _interval(right: int, count: int) -> tuple[float, float]:
    """Exact (Clopper-Pearson) 95 % interval."""
    low, high = clopper_pearson([right], [count])
    return float(low[0]), float(high[0])


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
        self._answers: dict[str, Response] = {}
        self._next_s = 0.0
        if self.path.exists():
            self._read()

    @property
    def due(self) -> bool:
        """Whether it is time to write: as good as always, but for many answers that come fast."""
        return time.monotonic() >= self._next_s

    def answer(self, name: str, digest: str) -> Response | None:
        """The answer to a question, if just that was asked before."""
        found = self._answers.get(name)
        return found if found is not None and found.digest == digest else None

    def add(self, answers: Sequence[Response]) -> None:
        """Take answers; those to questions of the same name are replaced."""
        self._answers |= {a.name: a for a in answers}

    def write(self, answers: Sequence[Response], *, bad: Mapping[str, str], complete: bool) -> None:
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
            self.add([storage.from_json(Response, a) for a in value["answers"]])
        except (KeyError, TypeError, WorldsimError) as error:
            raise StorageError(f"{self.path} is damaged ({error}). Delete it to start again.") from error


_LONGEST = 48
"""Characters of a name; what is cut stands in eval.json."""


def table(rows: Sequence[TallyRow], *, fast: bool, title: str = "") -> Table:
    """Draw figures; accuracies surely better than guessing stand out.

    Args:
        rows: As `worldsim.reason.benchmark.tally.tally` gives them.
        fast: Whether options were scored, so that no reply had to be read.
        title: Above the table.
    """
    drawn = Table(title=Text(title) if title else None, title_justify="left")
    drawn.add_column("questions", overflow="fold")
    for column in ("items", "accuracy", "95 % interval", "chance", "blind", "unparsable"):
        drawn.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if not row.dataset:
            drawn.add_section()
        drawn.add_row(
            Text(_name(row)),
            str(row.items),
            Text(f"{row.accuracy:.1%}", style="bold green" if row.beats_chance else ""),
            f"{row.low:.1%} .. {row.high:.1%}",
            f"{row.chance:.1%}",
            "-" if row.blind is None else f"{row.blind:.1%}",
            "-" if fast else f"{row.unparsable:.1%}",
            style="" if row.task else "bold",
        )
    return drawn


def _name(row: TallyRow) -> str:
    """Dataset and task, each once."""
    parts = [row.dataset or "all"]
    if row.dataset and row.task != row.dataset:
        parts.append(row.task or "all")
    return " / ".join(p if len(p) <= _LONGEST else p[: _LONGEST - 3] + "..." for p in parts)
