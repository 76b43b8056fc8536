"""Durability: a triage run is killed with SIGKILL at random moments, then continued by the same command.

Moments are drawn over the full life of the process, start-up and ending included, over the time in which it rolls out,
and inside transactions, at a random INSERT or COMMIT, where the process kills itself as the statement begins. After
each kill the run is continued to its end. It must reach the ranking of a run that was left alone, and must not begin
any rollout again that was in the database when it was killed: policies note every episode that they begin.

    python -m benchmarks.triage_kill
"""

import collections
import dataclasses
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks import record
from benchmarks.record import Figure, write
from benchmarks.toy import ToyWorld, load_toy, toy_refs
from worldsim.triage.engine.store import DATABASE
from worldsim.triage.request import Ref, TriageRequest
from worldsim.triage.run import read_ranking, run

POLICIES, BUDGET, WIDTH = 12, 1000, 16
MOMENTS = ("life", "life", "life", "rolling", "rolling", "rolling", "insert", "insert", "commit", "commit")
_HERE = "benchmarks.triage_kill"


def child(out: Path, *, log: Path, workers: int, statement: str, count: int) -> None:
    """Be the process that is killed: a triage run, at whose `count`-th `statement` it kills itself."""
    if count:
        _die_in_transaction(statement, count)
    request = TriageRequest(
        policies=toy_refs(POLICIES, common=f"log={log}"),
        world=Ref(name="toy", digest="toy"),
        k=3,
        budget=BUDGET,
        width=WIDTH,
        workers=workers,
    )
    run(request, load_world=ToyWorld, load_policy=load_toy, out=out)


def _die_in_transaction(statement: str, count: int) -> None:
    """Make every database connection send SIGKILL to this process when a statement comes up for the `count`-th time."""
    connect, seen = sqlite3.connect, 0

    def look(text: str) -> None:
        nonlocal seen
        if text.startswith(statement):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    def traced(*args: Any, **settings: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(*args, **settings)
        connection.set_trace_callback(look)
        return connection

    sqlite3.connect = traced  # type: ignore[assignment]


def start(folder: Path, *, workers: int, statement: str = "", count: int = 0) -> "subprocess.Popen[bytes]":
    """Start the process in its folder."""
    arguments = [str(folder / "run"), str(folder / "log"), str(workers), statement, str(count)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", _HERE, "child", *arguments], env=environment)


def rows(folder: Path) -> dict[tuple[str, int], tuple[Any, ...]]:
    """Read the finished rollouts from a copy, so that the process itself finds the files as they were left."""
    found: dict[tuple[str, int], tuple[Any, ...]] = {}
    with tempfile.TemporaryDirectory() as copy:
        for file in (folder / "run").glob(f"{DATABASE}*"):
            shutil.copy(file, copy)
        if not (Path(copy) / DATABASE).exists():
            return found
        connection = sqlite3.connect(Path(copy) / DATABASE)
        try:
            for row in connection.execute("SELECT policy, noise, start, success, progress, batch FROM rollouts"):
                found[str(row[0]), int(row[1])] = row[2:]
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):  # killed before there was one
                raise
        finally:
            connection.close()
    return found


def begun(folder: Path) -> "collections.Counter[str]":
    """Count how often each episode of each policy was begun, by ``name key``."""
    log = folder / "log"
    return collections.Counter(log.read_text().splitlines() if log.exists() else [])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alone:
    """A run that was left alone: how long it took, how much of that it rolled out, and what came out."""

    life_s: float
    rolling_s: float
    outcome: tuple[str, set[tuple[Any, ...]]]


def leave_alone(folder: Path, *, workers: int) -> Alone:
    """Run without killing."""
    folder.mkdir()
    began = rolling = time.monotonic()
    process = start(folder, workers=workers)
    while process.poll() is None and not (folder / "log").exists():
        time.sleep(0.01)
        rolling = time.monotonic()
    if process.wait() != 0:
        raise SystemExit("The run that was left alone failed.")
    ended = time.monotonic()
    return Alone(life_s=ended - began, rolling_s=ended - rolling, outcome=outcome(folder))


def kill_and_continue(
    folder: Path, *, moment: str, workers: int, alone: Alone, random: np.random.Generator
) -> "collections.Counter[str]":
    """Kill one run and continue it; returns the tally of what happened."""
    folder.mkdir()
    counts = {"insert": int(random.integers(1, 900)), "commit": int(random.integers(1, 70))}
    process = start(folder, workers=workers, statement=moment.upper(), count=counts.get(moment, 0))
    if moment not in counts:
        while moment == "rolling" and process.poll() is None and not (folder / "log").exists():
            time.sleep(0.005)
        _sleep(process, float(random.uniform(0, alone.rolling_s if moment == "rolling" else alone.life_s)))
        process.kill()
    killed = process.wait() == -signal.SIGKILL
    safe, before, ranked = rows(folder), begun(folder), (folder / "run" / "ranking.json").exists()
    if start(folder, workers=workers).wait() != 0:
        raise SystemExit(f"The run in {folder} could not be continued after a kill at {moment}.")
    after = begun(folder) - before
    names = {ref.digest: ref.name for ref in toy_refs(POLICIES, common=f"log={folder / 'log'}")}
    return collections.Counter(
        {
            f"killed_{moment}": int(killed),
            "killed": int(killed),
            "killed_before_the_first_row": int(killed and not safe),
            "killed_after_the_ranking": int(killed and ranked),
            "safe": len(safe),
            "again": len({f"{names[policy]} {noise}" for policy, noise in safe} & set(after)),
            "lost": sum((before & after).values()),
            "same": int(outcome(folder) == alone.outcome),
        }
    )


def _sleep(process: "subprocess.Popen[bytes]", seconds: float) -> None:
    """Wait for a while, or until the process has ended by itself."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)


def outcome(folder: Path) -> tuple[str, set[tuple[Any, ...]]]:
    """Return the ranking's digest, and the rollouts by policy name, apart from what holds the folder's name."""
    names = {ref.digest: ref.name for ref in toy_refs(POLICIES, common=f"log={folder / 'log'}")}
    found = {(names[policy], noise, *values[:3]) for (policy, noise), values in rows(folder).items()}
    return read_ranking(folder / "run").digest, found


def main(
    trials: Annotated[int, typer.Option(help="How often to kill.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Kill runs at random moments, continue them, and write what came out."""
    random, tally = np.random.default_rng(seed), collections.Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        alone = {workers: leave_alone(Path(place) / f"alone-{workers}", workers=workers) for workers in (1, 2)}
        for i in range(trials):
            moment, workers, folder = MOMENTS[i % len(MOMENTS)], 2 if i % 7 == 0 else 1, Path(place) / f"trial-{i}"
            found = collections.Counter[str]()
            while not found["killed"]:  # a run that ended before its moment came is no trial
                found = kill_and_continue(folder, moment=moment, workers=workers, alone=alone[workers], random=random)
                shutil.rmtree(folder)
            tally += found
    figures = [
        Figure(name="same ranking digest and rollouts after a kill", value=tally["same"], unit=f"of {trials}"),
        Figure(name="finished rollouts computed again", value=tally["again"]),
        Figure(name="same with 1 and 2 workers", value=int(alone[1].outcome == alone[2].outcome)),
        Figure(name="rollouts safe after a kill, on average", value=tally["safe"] / trials),
        Figure(name="rollouts under way lost by a kill, on average", value=tally["lost"] / trials),
    ]
    details = {
        "kills": {name: count for name, count in sorted(tally.items()) if name.startswith("killed_")},
        "request": {"policies": POLICIES, "budget": BUDGET, "width": WIDTH, "trials_with_2_workers": "every seventh"},
        "life_s": {str(workers): round(a.life_s, 2) for workers, a in alone.items()},
        "rolling_s": {str(workers): round(a.rolling_s, 2) for workers, a in alone.items()},
    }
    write("triage_kill", figures=figures, seeds=[seed], details=details)


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:  # the process that is killed
        out, log, processes, at, number = sys.argv[2:]
        child(Path(out), log=Path(log), workers=int(processes), statement=at, count=int(number))
    else:
        record.run(main)
