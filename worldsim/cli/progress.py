"""Progress bars that are silent where nobody watches. Not for logs: those go through `logging` and metrics files."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@contextmanager
def bars() -> Iterator[Progress]:
    """A set of bars on standard error; disabled when it is not a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield progress


def advance(progress: Progress, description: str, *, done: int, total: int, note: str = "") -> None:
    """Set the bar with this description, making it on first use."""
    for task in progress.tasks:
        if task.description == description:
            progress.update(task.id, completed=done, total=total, note=note)
            return
    progress.add_task(description, total=total, completed=done, note=note)
