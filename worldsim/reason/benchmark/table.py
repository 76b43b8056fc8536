"""The figures of a benchmark as a table for a terminal. Not for counting (`tally`)."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from worldsim.reason.benchmark.tally import Line

_LONGEST = 48
"""Characters of a name; what is cut stands in eval.json."""


def table(lines: Sequence[Line], *, fast: bool, title: str = "") -> Table:
    """Draw figures; accuracies surely better than guessing stand out.

    Args:
        lines: As `worldsim.reason.benchmark.tally.tally` gives them.
        fast: Whether options were weighed, so that nothing had to be read.
        title: Above the table.
    """
    drawn = Table(title=Text(title) if title else None, title_justify="left")
    drawn.add_column("questions", overflow="fold")
    for column in ("items", "accuracy", "95 % interval", "chance", "blind", "unparsable"):
        drawn.add_column(column, justify="right", no_wrap=True)
    for line in lines:
        if not line.dataset:
            drawn.add_section()
        drawn.add_row(
            Text(_name(line)),
            str(line.items),
            Text(f"{line.accuracy:.1%}", style="bold green" if line.sees else ""),
            f"{line.low:.1%} .. {line.high:.1%}",
            f"{line.chance:.1%}",
            "-" if line.blind is None else f"{line.blind:.1%}",
            "-" if fast else f"{line.unparsable:.1%}",
            style="" if line.task else "bold",
        )
    return drawn


def _name(line: Line) -> str:
    """Dataset and task, each once."""
    parts = [line.dataset or "all"]
    if line.dataset and line.task != line.dataset:
        parts.append(line.task or "all")
    return " / ".join(p if len(p) <= _LONGEST else p[: _LONGEST - 3] + "..." for p in parts)
