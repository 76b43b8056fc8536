"""Telling how far something has come: one callback for all long jobs, and bars on a terminal."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from worldsim.text import printable


class Progress(Protocol):
    """What a long job calls as it advances."""

    def __call__(self, stage: str, done: int, total: int, values: Mapping[str, float | str], /) -> None:
        """Take news of a job.

        Args:
            stage: What is being done.
            done: How much of it is done.
            total: How much there is.
            values: Figures and remarks by name, for example a loss.
        """


def silent(stage: str, done: int, total: int, values: Mapping[str, float | str], /) -> None:
    """Report nothing; see `Progress`."""


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """One bar for each stage on standard error; nothing where that is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=console, disable=not console.is_terminal, transient=True) as bars:

        def show(stage: str, done: int, total: int, values: Mapping[str, float | str], /) -> None:
            note = "  ".join(f"{k} {v if isinstance(v, str) else format(v, '.4g')}" for k, v in values.items())
            known = [task for task in bars.tasks if task.description == printable(stage)]
            task = known[0].id if known else bars.add_task(printable(stage), total=total, note="")
            bars.update(task, completed=done, total=total, note=printable(note))

        yield show
