"""Plain output, in which nothing is taken for markup or control sequences, and no cell is cut."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from worldsim.text import printable

WIDEST = 1000
"""Columns that a table may have at most, in characters."""


def say(text: str, *, error: bool = False, style: str | None = None) -> None:
    """Print lines of text as they are; control characters, which names and messages may hold, are replaced.

    Args:
        text: One or several lines.
        error: Print on standard error.
        style: A style of rich, for example ``"red"``.
    """
    console = Console(stderr=error, soft_wrap=True)
    console.print(printable(text, lines=True), style=style, markup=False, highlight=False, emoji=False)


def remark(texts: Iterable[str]) -> None:
    """Print sentences that the user should know before a long job, on standard error."""
    for text in texts:
        say(text, error=True)


def show(table: Table) -> None:
    """Print a table whose cells are printable; where it is wider than the terminal its lines wrap, and no cell is cut."""
    console = Console()
    needed = console.measure(table, options=console.options.update(max_width=WIDEST)).maximum
    Console(width=max(console.width, needed)).print(table, soft_wrap=True, highlight=False)
