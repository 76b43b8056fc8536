"""How a benchmark reports: a table for people, and a file that says what was run, on what, and what came out.

Shared by all benchmarks. Not for drawing and not for judging: a figure that misses its mark is written down as it is.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import operator
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"
_ORDERS: Mapping[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le}
_PACKAGES = ("numpy", "scipy", "torch", "mujoco", "gymnasium", "lerobot", "worldsim")
_STARTED_S = time.time()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figure:
    """One number that was measured.

    Attributes:
        name: What it is, in words.
        value: What came out.
        unit: Its unit; empty for a pure number.
        reach: What it should reach; None where it is only reported.
        order: ``">="`` where more is better, ``"<="`` where less is.
    """

    name: str
    value: float
    unit: str = ""
    reach: float | None = None
    order: Literal[">=", "<="] = ">="

    @property
    def met(self) -> bool | None:
        """Whether it reaches what it should; None where nothing was asked."""
        return None if self.reach is None else _ORDERS[self.order](self.value, self.reach)


def write(
    name: str,
    *,
    figures: Sequence[Figure],
    seeds: Sequence[int] = (),
    details: Mapping[str, Any] | None = None,
    folder: Path = RESULTS,
) -> Path:
    """Print the figures and write them to ``NAME.json``.

    Args:
        name: Of the benchmark, as in ``python -m benchmarks.NAME``.
        figures: In reading order.
        seeds: All seeds that were used.
        details: Further JSON values worth keeping: settings, curves, what was tried.
        folder: Where the file goes.

    Returns:
        The file that was written.
    """
    rows = [{**dataclasses.asdict(figure), "met": figure.met} for figure in figures]
    record = {
        "name": name,
        "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "seeds": list(seeds),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "core_seconds": round(_core_seconds(), 1),
        "wall_seconds": round(time.time() - _STARTED_S, 1),
        "figures": rows,
        "details": dict(details or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf8")
    temporary.replace(path)
    _print(name, figures, record["core_seconds"])
    return path


def _print(name: str, figures: Sequence[Figure], core_seconds: Any) -> None:
    table = Table(title=f"{name} ({core_seconds} core-seconds)", title_justify="left")
    for column, side in (("figure", "left"), ("value", "right"), ("reach", "right"), ("", "left")):
        table.add_column(column, justify="right" if side == "right" else "left")
    for figure in figures:
        reach = "" if figure.reach is None else f"{figure.order} {figure.reach:g} {figure.unit}".rstrip()
        mark = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[figure.met]
        table.add_row(figure.name, f"{figure.value:.4g} {figure.unit}".rstrip(), reach, mark)
    Console().print(table)


def _commit() -> str:
    """The commit that ran, with ``+`` where files under version control were changed; ``unknown`` without git."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip() + ("+" if changed.stdout.strip() else "")


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
