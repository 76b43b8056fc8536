"""What commands print: plain text, with nothing in it taken for markup or for a control sequence."""

from rich.console import Console
from rich.table import Table

from worldsim.text import printable


def say(text: str, *, error: bool = False, style: str | None = None) -> None:
    """Print lines of text as they are; control characters, which names and messages may hold, are replaced.

    Args:
        text: One or several lines.
        error: Print on standard error.
        style: A style of rich, for example ``"red"``.
    """
    console = Console(stderr=error, soft_wrap=True)
    console.print(printable(text, lines=True), style=style, markup=False, highlight=False, emoji=False)


def show(table: Table) -> None:
    """Print a table whose cells are printable, without cutting what is wider than the terminal."""
    Console().print(table, soft_wrap=True, highlight=False)
