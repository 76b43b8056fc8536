"""The source tree as a table, before and after: size, repetition, hops, loads, shapes, words, and what Gymnasium adds.

    python -m benchmarks.house [--before 5275839] [--list words]

Both revisions are measured by this program; the earlier one is unpacked from git into a temporary folder.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import house_source, words
from benchmarks.house_trace import trace
from benchmarks.record import ROOT, Figure, run, write

LISTS = ("words", "shapes", "slivers", "literal", "shape")
_GYMNASIUM = """
import statistics, time, gymnasium, torch, worldsim.envs
from worldsim.worlds import load_world
torch.set_num_threads(1)
world = load_world("push")
env = gymnasium.make("worldsim/World-v0", world=world)
actions = (torch.rand(40, 1, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.4
arrays, index = [a[0].numpy() for a in actions], torch.zeros(1, dtype=torch.int64)
starts = world.starts(index)
def bare():
    state = world.reset(starts, index)
    began = time.process_time()
    for action in actions:
        state, step = world.step(state, action)
        world.decode(step.latent)
    return time.process_time() - began
def wrapped():
    env.reset(seed=0)
    began = time.process_time()
    for action in arrays:
        env.step(action)
    return time.process_time() - began
ratios = [wrapped() / bare() for _ in range(41)][1:]
print(statistics.median(ratios) - 1)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One measured quantity of a tree."""

    name: str
    value: float
    unit: str = ""


def measured(root: Path) -> list[Row]:
    """Everything that is measured of the tree at `root`, in reading order."""
    tree = house_source.Tree.read(root)
    shapes, path = house_source.tensor_functions(tree), trace(root)
    return [
        Row(name="files", value=len(tree.texts)),
        Row(name="lines", value=tree.lines),
        Row(name="files that one other file imports", value=len(house_source.imported_once(tree))),
        Row(name=f"of these under {house_source.SHORT} lines", value=len(house_source.slivers(tree))),
        Row(name="duplicate pairs, literal", value=len(house_source.repetitions(tree, by_shape=False))),
        Row(name="duplicate pairs, by shape", value=len(house_source.repetitions(tree, by_shape=True))),
        Row(name="functions called from the command to the first row", value=path.functions),
        Row(name="files that these stand in", value=path.files),
        Row(name="frames on the stack at policy.act", value=path.frames),
        Row(name="of these in the policy's own process", value=path.worker_frames),
        Row(name="loads of the world in a run with truth and round trip", value=path.loads),
        Row(name="most loads of the world in one process", value=path.most_loads),
        Row(name="public functions that take or give tensors", value=len(shapes)),
        Row(name="of these without shapes", value=sum(not said for said in shapes.values())),
        Row(name="words to be replaced", value=len(words.left(root))),
        Row(name="Gymnasium over the bare world, batch 1", value=gymnasium_overhead(root)),
    ]


def gymnasium_overhead(root: Path) -> float:
    """Core time of `gymnasium.make(...).step` over that of the bare world's step and decode, minus 1, one episode."""
    settings = {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _GYMNASIUM]
    done = subprocess.run(command, cwd=root, env=os.environ | settings, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextmanager
def unpacked(revision: str) -> Iterator[Path]:
    """The tree of a revision, in a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        archive = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True)
        subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
        yield Path(place)


def places(kind: str, root: Path = ROOT) -> list[str]:
    """Where the tree has what one of `LISTS` counts, a line each."""
    tree = house_source.Tree.read(root)
    if kind == "words":
        return words.left(root)
    if kind == "shapes":
        return [name for name, said in house_source.tensor_functions(tree).items() if not said]
    if kind == "slivers":
        return house_source.slivers(tree)
    return house_source.repetitions(tree, by_shape=kind == "shape")


def main(
    before: Annotated[str, typer.Option(help="Revision to compare with.")] = "5275839",
    show: Annotated[str, typer.Option("--list", help=f"Print places instead: {', '.join(LISTS)}.")] = "",
) -> None:
    """Measure both trees and write benchmarks/results/house.json."""
    if show:
        if show not in LISTS:
            raise typer.BadParameter(f"--list is one of {', '.join(LISTS)}; got {show!r}.")
        print(*places(show), sep="\n")
        return
    with unpacked(before) as root:
        earlier = {row.name: row.value for row in measured(root)}
    rows = measured(ROOT)
    table = Table(title=f"the source tree, {before} and now", title_justify="left")
    for column in ("", before, "now"):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(row.name, f"{earlier[row.name]:.4g}", f"{row.value:.4g}")
    Console().print(table)
    figures = [Figure(name=row.name, value=row.value, unit=row.unit) for row in rows]
    write("house", figures=figures, details={"before": {"revision": before, **earlier}})


if __name__ == "__main__":
    run(main)
