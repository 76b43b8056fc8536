"""What the search for faults says of recordings that have none: simulators of other packages, slow and fast, with and without contact.

    python -m benchmarks.clean_faults                 # in an environment with extra `scenes`; records what is missing under data/clean

Every episode that is said to have frozen, repeated or missing frames, leaps or dead channels counts, once.
"""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.record import Figure, run, write
from worldsim.cli.collect import collect
from worldsim.compute import one_thread
from worldsim.data.faults import faulty_episodes, find_faults, signals_of
from worldsim.data.faults.screen import SPOILING
from worldsim.data.lerobot.read import open_dataset

SEED, SIDE_PX = 3, "64"
TASKS = {
    "shimmy:dm_control/cartpole-swingup-v0": 80,
    "shimmy:dm_control/ball_in_cup-catch-v0": 80,
    "shimmy:dm_control/pendulum-swingup-v0": 80,
    "shimmy:dm_control/cheetah-run-v0": 80,
    "shimmy:dm_control/walker-walk-v0": 80,
    "shimmy:dm_control/hopper-hop-v0": 80,
    "shimmy:dm_control/reacher-easy-v0": 80,
    "MountainCarContinuous-v0": 80,
    "Pendulum-v1": 80,
    "CartPole-v1": 80,
    "Acrobot-v1": 80,
    "gym_pusht:gym_pusht/PushT-v0": 80,
    "gymnasium_robotics:FetchReach-v4": 50,
    "gymnasium_robotics:FetchPush-v4": 50,
    "gymnasium_robotics:FetchSlide-v4": 50,
}
"""Longest episode of each task, in actions."""


def measure(folder: Path) -> dict[str, Any]:
    """Episodes of a recording that are said to have faults, and of which kinds."""
    dataset = open_dataset(folder)
    idle = dataset.action_spec.idle
    signals = [signals_of(i, dataset.episode(i), rate_hz=dataset.rate_hz, idle=idle) for i in range(dataset.episodes)]
    found = [fault for fault in find_faults(signals) if fault.kind in SPOILING | {"repeated_frames"}]
    kinds = Counter(kind for kind, _ in {(fault.kind, fault.episode) for fault in found})
    return {"episodes": dataset.episodes, "named": len(faulty_episodes(found)), "kinds": dict(sorted(kinds.items()))}


def main(
    episodes: Annotated[int, typer.Option(help="Of every task.")] = 12,
    out: Annotated[Path, typer.Option(help="Where recordings are kept.")] = Path("data/clean"),
) -> None:
    """Record what is missing, and count what is said to be wrong."""
    rows = dict[str, dict[str, Any]]()
    with one_thread():
        for task, steps in TASKS.items():
            folder = out / task.rpartition(":")[2].rpartition("/")[2]
            collect(env=task, episodes=episodes, out=folder, seed=SEED, image_px=SIDE_PX, steps=steps)
            rows[task] = measure(folder)
            print(task, rows[task], flush=True)
    total, named = (sum(row[name] for row in rows.values()) for name in ("episodes", "named"))
    worst = max(row["named"] / row["episodes"] for row in rows.values())
    figures = [
        Figure(name="tasks", value=len(rows)),
        Figure(name="clean episodes", value=total),
        Figure(name="clean episodes that are said to have a fault", value=100 * named / total, unit="%"),
        Figure(name="the same in the worst task", value=100 * worst, unit="%"),
    ]
    write("clean_faults", module="clean_faults", figures=figures, seeds=[SEED], details=rows)


if __name__ == "__main__":
    run(main)
