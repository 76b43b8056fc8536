"""Telling how far something has come: one callback for all long jobs, and bars on a terminal."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from worldsim.text import printable

if TYPE_CHECKING:
    from rich.console import Console


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


def ignore(text: str) -> None:
    """Say nothing: stands for what takes lines for people."""


EVERY_S = 30.0
"""Seconds between two lines of progress where there is no terminal; what takes less prints none."""


@contextmanager
def progress_bars(*, clock: Callable[[], float] = time.monotonic) -> Iterator[Progress]:
    """One bar for each stage on standard error; a plain line every `EVERY_S` where that is no terminal.

    Args:
        clock: Tells the time, s.
    """
    from rich.console import Console  # here, since trainings report their progress where rich is missing too
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines(console, clock)
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Bars(*columns, console=console, transient=True) as bars:

        def show(stage: str, done: int, total: int, values: Mapping[str, float | str], /) -> None:
            known = [task for task in bars.tasks if task.description == printable(stage)]
            task = known[0].id if known else bars.add_task(printable(stage), total=total, note="")
            bars.update(task, completed=done, total=total, note=printable(_note(values)))

        yield show


def _plain_lines(console: "Console", clock: Callable[[], float]) -> Progress:
    """A line now and then, without colour or control sequences."""
    last = clock()

    def show(stage: str, done: int, total: int, values: Mapping[str, float | str], /) -> None:
        nonlocal last
        if clock() - last < EVERY_S:
            return
        last = clock()
        text = printable(f"{stage}: {done} of {total}  {_note(values)}".rstrip())
        console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)

    return show


def _note(values: Mapping[str, float | str]) -> str:
    return "  ".join(f"{k} {v if isinstance(v, str) else format(v, '.4g')}" for k, v in values.items())
