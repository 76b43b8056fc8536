"""How a benchmark reports: a table for people, and a file that says what was run, on what, and what came out.

Shared by all benchmarks. A record comes from a clean tree, so that its commit is the code that ran; `benchmarks.check`
compares it with its goals.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.goals import GOALS, Goal, Goals

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DIRTY = "--dirty"
"""Option of every benchmark: measure and record an uncommitted tree, which the check refuses."""
_SOURCE = ("worldsim", "benchmarks", "pyproject.toml", ":!benchmarks/results")
_PACKAGES = ("numpy", "scipy", "torch", "mujoco", "gymnasium", "lerobot", "worldsim")
_STARTED_S = time.time()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that was measured; what it must reach stands in `benchmarks.goals`.

    Attributes:
        name: What it is, in words.
        value: What came out; None or not finite where it is undefined, which no goal accepts.
        unit: Its unit; empty for a pure number.
        reason: Why a miss, or an undefined value, is accepted; empty where it is not.
    """

    name: str
    value: float | None
    unit: str = ""
    reason: str = ""


def run(main: Callable[..., None]) -> None:
    """Run a benchmark's `main` as a command line, from a clean tree or with ``--dirty``.

    Raises:
        SystemExit: The tree has uncommitted changes to source.
    """
    dirty = DIRTY in sys.argv
    if dirty:
        sys.argv.remove(DIRTY)
    elif changed := uncommitted():
        raise SystemExit(
            f"Uncommitted changes: {', '.join(changed[:5])}. A record names the commit that ran: commit first, or give "
            f"{DIRTY} to measure anyway, which `python -m benchmarks.check` will refuse."
        )
    typer.run(main)


def write(
    name: str,
    *,
    figures: Sequence[Figure],
    seeds: Sequence[int] = (),
    details: Mapping[str, Any] | None = None,
    folder: Path = RESULTS,
    goals: Goals | None = None,
    module: str = "",
) -> Path:
    """Print the figures and write them to ``NAME.json``.

    Args:
        name: Of the record; of the benchmark too, as in ``python -m benchmarks.NAME``, where no `module` is given.
        figures: In reading order.
        seeds: All seeds that were used.
        details: Further JSON values worth keeping: settings, curves, what was tried.
        folder: Where the file goes.
        goals: What the figures must reach; by default those of `benchmarks.goals`.
        module: The benchmark of a record that is one of several.

    Returns:
        The file that was written.
    """
    goals = GOALS.get(name, {}) if goals is None else goals
    record = {
        "name": name,
        "command": " ".join(["python -m", f"benchmarks.{module or name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "seeds": list(seeds),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "core_seconds": round(_core_seconds(), 1),
        "wall_seconds": round(time.time() - _STARTED_S, 1),
        "figures": [row(figure, goals.get(figure.name)) for figure in figures],
        "details": dict(details or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf8")
    temporary.replace(path)
    _print(name, figures, goals, record["core_seconds"])
    return path


def row(figure: Figure, goal: Goal | None) -> dict[str, Any]:
    """A figure as it stands in the file; `met` is None where there is no goal, and false where the value is undefined."""
    value = None if figure.value is None or not math.isfinite(figure.value) else figure.value
    found: dict[str, Any] = {"name": figure.name, "value": value, "unit": figure.unit}
    found |= {"reach": None, "met": None} if goal is None else {"reach": goal.reach, "order": goal.order}
    if goal is not None:
        found["met"] = goal.met(value)
    reason = figure.reason or (goal.accepted if goal is not None else "")
    if reason and (value is None or found["met"] is False):
        found["reason"] = reason
    return found


def _print(name: str, figures: Sequence[Figure], goals: Goals, core_seconds: Any) -> None:
    table = Table(title=f"{name} ({core_seconds} core-seconds)", title_justify="left")
    for column, side in (("figure", "left"), ("value", "right"), ("goal", "right"), ("", "left")):
        table.add_column(column, justify="right" if side == "right" else "left")
    for figure in figures:
        goal = goals.get(figure.name)
        reach = "" if goal is None else f"{goal.order} {goal.reach:g} {figure.unit}".rstrip()
        mark = "" if goal is None else "[green]met[/]" if goal.met(figure.value) else "[red]missed[/]"
        value = "undefined" if figure.value is None else f"{figure.value:.4g} {figure.unit}".rstrip()
        table.add_row(figure.name, value, reach, mark)
    Console().print(table)


def commit() -> str:
    """The commit that ran, with ``+`` where source is not as committed; ``unknown`` without git."""
    found = _git("rev-parse", "HEAD")
    return "unknown" if found is None else found.strip() + ("+" if uncommitted() else "")


def uncommitted() -> list[str]:
    """Source files that differ from the commit or are not in it; none without git."""
    return [line[3:] for line in (_git("status", "--porcelain", "--", *_SOURCE) or "").splitlines()]


def is_known(commit: str) -> bool:
    """Whether the repository holds a commit; yes where it is shallow and may lack it."""
    return (
        _git("cat-file", "-e", f"{commit}^{{commit}}") is not None
        or (_git("rev-parse", "--is-shallow-repository") or "").strip() == "true"
    )


def _git(*arguments: str) -> str | None:
    """What git answers in this repository; None where it fails or is not there."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    """Name of the processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _core_seconds() -> float:
    """Processor time of this process and its finished children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
