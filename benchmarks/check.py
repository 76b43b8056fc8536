"""Compares the records in ``benchmarks/results`` with their goals; exits with 1 while one is missed.

    python -m benchmarks.check

A record must exist for every benchmark in `benchmarks.goals`, hold every figure that has a goal, and come from a known
commit and a clean tree. A miss passes only with a reason beside the goal or the figure, and a record that cannot be run again
only with an ``"accepted"`` field that says why; both are printed.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.goals import GOALS, Goals
from benchmarks.record import RESULTS, is_known

Verdict = Literal["met", "accepted", "failed"]
_WIDTH = 150  # columns, where the terminal has fewer or there is none
_COLOURS: Mapping[Verdict, str] = {"met": "green", "accepted": "yellow", "failed": "red"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one figure, or of a record as such.

    Attributes:
        record: The benchmark.
        subject: The figure, or what about the record.
        value: What is recorded, as text.
        goal: What it must reach, as text.
        verdict: Whether it passes, and how.
        note: Why it is accepted, or what is wrong.
    """

    record: str
    subject: str
    value: str = ""
    goal: str = ""
    verdict: Verdict
    note: str = ""


def findings(folder: Path = RESULTS, goals: Mapping[str, Goals] = GOALS) -> list[Finding]:
    """Everything that is asked of the records in a folder, in the order of the goals."""
    found: list[Finding] = []
    for name, wanted in goals.items():
        path = folder / f"{name}.json"
        if not path.is_file():
            note = f"run python -m benchmarks.{name}"
            found.append(Finding(record=name, subject="record", value="missing", verdict="failed", note=note))
            continue
        record = json.loads(path.read_text(encoding="utf8"))
        found += [*_origin(name, record), *_figures(name, record, wanted)]
    return found


def _origin(name: str, record: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the code that a record came from can be looked up; nothing where it can."""
    commit = str(record.get("commit", "unknown"))
    if commit.endswith("+"):
        wrong = "from a tree with uncommitted changes"
    elif not is_known(commit):
        wrong = "from a commit that this repository does not hold"
    else:
        return
    reason = str(record.get("accepted", ""))
    verdict: Verdict = "accepted" if reason else "failed"
    yield Finding(record=name, subject="record", value=commit[:9], verdict=verdict, note=reason or wrong)


def _figures(name: str, record: Mapping[str, Any], goals: Goals) -> Iterator[Finding]:
    rows = {row["name"]: row for row in record["figures"]}
    for figure, goal in goals.items():
        row = rows.get(figure, {})
        value, unit, reason = row.get("value"), row.get("unit", ""), row.get("reason") or goal.accepted
        verdict: Verdict = "met" if goal.met(value) else "accepted" if reason else "failed"
        undefined = "undefined" if row else "missing"
        yield Finding(
            record=name,
            subject=figure,
            value=undefined if value is None else f"{value:.4g} {unit}".rstrip(),
            goal=f"{goal.order} {goal.reach:g}",
            verdict=verdict,
            note=reason if verdict == "accepted" else "",
        )


def show(found: list[Finding]) -> None:
    """Print one table."""
    table = Table(title="goals", title_justify="left")
    for column in ("benchmark", "figure", "value", "goal", "", "why"):
        table.add_column(column)
    for one in found:
        mark = f"[{_COLOURS[one.verdict]}]{one.verdict}[/]"
        table.add_row(one.record, escape(one.subject), one.value, one.goal, mark, escape(one.note))
    console = Console()
    Console(width=max(console.width, _WIDTH)).print(table)


def main() -> None:
    """Print the table; exit with 1 where a finding failed.

    Raises:
        SystemExit: At least one figure or record does not pass.
    """
    found = findings()
    show(found)
    if failed := sum(one.verdict == "failed" for one in found):
        raise SystemExit(f"{failed} of {len(found)} fail.")


if __name__ == "__main__":
    main()
