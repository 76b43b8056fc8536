"""Whether what worlds state of their own validity holds on episodes that were recorded afterwards.

    python -m benchmarks.world_validity
    python -m benchmarks.world_validity --data pusht=data/pusht:data/pusht_other --data reacher=... --data finger=...

Twelve worlds of very different quality, most of them trained far too briefly: some of the push task, which is collected here, the
others of scenes of `benchmarks.scenes` (each with the folder to train on and one of another seed to measure on); without `--data`
those are left out. Every world states its errors in its folder, by its own held-out episodes. On the other episodes this asks:
do the stated 90 % bounds hold, does the spread tell the errors, does it rise with the horizon, and does every world that is called
usable beat copying? What is collected and trained is kept in `--out`.

Shape legend: E episodes, J horizons.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.record import Figure, run, write
from worldsim.compute import one_thread
from worldsim.data.collect.record import collect
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.evaluate.behaviours import named_behaviours
from worldsim.evaluate.environments import MakeEnv
from worldsim.evaluate.open_loop import Errors
from worldsim.evaluate.validity import measure_validity
from worldsim.train.config import resolve
from worldsim.train.recipes.world import train_world
from worldsim.validity.curve import BOUND
from worldsim.validity.validity import Validity
from worldsim.worlds import load_world
from worldsim.worlds.latent import LearnedWorld

PUSH, FEW = "push", "few of push"
EPISODES, FEW_EPISODES, OTHER_EPISODES, OTHER_SEED = 300, 100, 64, 100
"""Episodes of the push task to train on, of which grids get few, and to measure on; and the seed of the latter."""
RANKED = (8, 16, 32)
_LAYERS = ["family=layers", "tokenizer.schedule.steps=100", "heads.steps=300"]
_GRID = [
    *("tokenizer.name=haar_pca", "tokenizer.schedule.steps=60", "predictor.name=conv", "predictor.schedule.batch=32"),
    "heads.steps=200",
]
_STATE = ["state=true", "predictor.schedule.batch=128", "heads.steps=300"]


def structured(share: float) -> list[str]:
    """Settings of a structured world whose stages are trained for a share of these steps."""
    steps = {"actor": 180, "things": 240, "painter": 40, "body": 400, "contact": 250}
    stages = [f"structured.{name}.steps={max(10, int(share * n))}" for name, n in steps.items()]
    return ["family=structured", "structured.frames=3000", "heads.steps=300", *stages]


WORLDS: Mapping[str, tuple[str, Sequence[str]]] = {
    "push, layers": (PUSH, [*_LAYERS, "predictor.schedule.steps=500"]),
    "push, layers, 50 steps": (PUSH, [*_LAYERS, "predictor.schedule.steps=50"]),
    "push, states": (PUSH, [*_STATE, "predictor.schedule.steps=300"]),
    "push, states, 30 steps": (PUSH, [*_STATE, "predictor.schedule.steps=30"]),
    "pusht, states": ("pusht", [*_STATE, "predictor.schedule.steps=600"]),
    "finger, states": ("finger", [*_STATE, "predictor.schedule.steps=600"]),
    "pusht, structured": ("pusht", structured(1.0)),
    "few of push, grid": (FEW, [*_GRID, "predictor.schedule.steps=60"]),
    "reacher, structured, less": ("reacher", structured(0.4)),
    "finger, structured, less": ("finger", structured(0.4)),
    "pusht, structured, far less": ("pusht", structured(0.2)),
    "few of push, grid, 10 steps": (FEW, [*_GRID, "predictor.schedule.steps=10"]),
}
"""By name: the scene, and the settings of `worldsim train world`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """What came out for one world.

    Attributes:
        stated: What its folder says.
        other: The same, measured on the other episodes.
        held: Share of the other episodes' errors, over all quantities and horizons, that stay below their stated bounds.
        checked: How many errors that was counted on.
    """

    stated: Validity
    other: Validity
    held: float
    checked: int

    @property
    def beats_copying(self) -> bool:
        """Whether what outcomes are read from is predicted better than by copying at the stated horizon."""
        horizon = self.stated.horizon
        curves = [c for c in self.other.curves if c.quantity in self.stated.read_from]
        return bool(horizon and curves) and all(c.world[i] < c.copying[i] for c in curves for i in [c.last(horizon)])

    @property
    def ranks(self) -> tuple[float, ...]:
        """Rank correlation of spread and error at `RANKED`, where there is one."""
        spread = self.other.spread
        if spread is None:
            return ()
        return tuple(r for h, r in zip(spread.horizons, spread.rank, strict=True) if h in RANKED and r is not None)

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        spread = self.other.spread
        return {
            "horizon": self.stated.horizon,
            "read_from": list(self.stated.read_from),
            "usable": self.stated.usable,
            "reasons": list(self.stated.reasons),
            "horizon_on_other_episodes": self.other.horizon,
            "beats_copying": self.beats_copying,
            "bounds_hold": round(self.held, 4),
            "errors_checked": self.checked,
            "spread_ranks": list(self.ranks),
            "spread_mean": [] if spread is None else list(spread.mean),
            "spread_horizons": [] if spread is None else list(spread.horizons),
        }


def main(
    data: Annotated[
        list[str] | None, typer.Option(help="SCENE=FOLDER:OTHER, recordings to train on and others; repeatable.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where data and worlds are kept.")] = Path("runs/world_validity"),
    record: Annotated[bool, typer.Option(help="Write benchmarks/results/world_validity.json.")] = True,
) -> None:
    """Train worlds where they are not there yet, and compare what they state with other episodes."""
    found = dict[str, Found]()
    with one_thread():
        folders = {**_collect_push(out / "data"), **dict(map(_read_folders, data or []))}
        for name, (scene, settings) in WORLDS.items():
            if scene not in folders:
                print(f"{name}: left out, as there is no --data {scene}=FOLDER:OTHER")
                continue
            world = _train(name, folders[scene][0], settings, out / "worlds")
            found[name] = compare(world, open_dataset(folders[scene][1]))
            print(name, found[name].to_json())
    if record:
        details = {"worlds": {name: f.to_json() for name, f in found.items()}, "settings": dict(WORLDS)}
        write("world_validity", figures=figures(list(found.values())), seeds=[0, OTHER_SEED], details=details)


def _read_folders(text: str) -> tuple[str, tuple[Path, Path]]:
    scene, _, folders = text.partition("=")
    first, _, other = folders.partition(":")
    if not other:
        raise typer.BadParameter(f"--data reads SCENE=FOLDER:OTHER; got {text!r}.")
    return scene, (Path(first), Path(other))


def _collect_push(folder: Path) -> dict[str, tuple[Path, Path]]:
    """Recordings of the push task to train on, many and few, and others to measure on, which are the same for both."""
    make, other = MakeEnv(PUSH), folder / f"{PUSH}_other"
    many, few = folder / PUSH, folder / f"{PUSH}_few"
    for out, episodes, seed in (
        (many, EPISODES, 0),
        (few, FEW_EPISODES, 1),
        (other, OTHER_EPISODES, OTHER_SEED),
    ):
        collect(make, named_behaviours("auto", make), episodes=episodes, out=out, seed=seed)
    return {PUSH: (many, other), FEW: (few, other)}


def _train(name: str, data: Path, settings: Sequence[str], folder: Path) -> LearnedWorld:
    """The world of a name, trained once."""
    out = folder / name.replace(", ", "_").replace(" ", "_")
    if not out.exists():
        train_world(resolve("world", [f"data={data}", f"out={out}", "num_starts=8", *settings]), say=print)
    return load_world(out)


def compare(world: LearnedWorld, other: Dataset) -> Found:
    """Measure a world on other episodes, and count how many of their errors stay below the bounds that it states."""
    stated = world.spec.validity
    assert stated is not None
    measured = measure_validity(world, other.used, other)
    below = np.concatenate([np.zeros(0), *(below_bounds(e, measured.horizons, stated) for e in measured.errors)])
    return Found(
        stated=stated,
        other=measured.validity,
        held=float(below.mean()),
        checked=len(below),
    )


def below_bounds(errors: Errors, horizons: Sequence[int], stated: Validity) -> Any:
    """Whether each known error [E, J] stays below the bound that a world states for its quantity and horizon, where it does."""
    curve = stated.curve(errors.quantity)
    bounds = {} if curve is None else dict(zip(curve.horizons, curve.bound, strict=True))
    found = [torch.zeros(0, dtype=torch.bool)]
    for j, h in enumerate(horizons):
        if (bound := bounds.get(h)) is not None:
            error_E = errors.world[:, j]
            found.append(error_E[error_E.isfinite()] <= bound + 1e-5)  # bounds are rounded
    return torch.cat(found).numpy()


def figures(found: Sequence[Found]) -> list[Figure]:
    """What all worlds come to."""
    held = np.array([100 * f.held for f in found])
    ranks = np.array([r for f in found for r in f.ranks])
    spreads = [f.other.spread for f in found if f.other.spread is not None]
    usable = [f for f in found if f.stated.usable]
    bound = f"stated {100 * BOUND:.0f} % bounds"
    return [
        Figure(name="worlds", value=len(found)),
        Figure(name="worlds that state that they are usable", value=len(usable)),
        Figure(name=f"{bound}: errors below them, mean of worlds", value=float(held.mean()), unit="%"),
        Figure(name=f"{bound}: distance of that from 90 %", value=float(abs(held.mean() - 90)), unit="points"),
        Figure(
            name=f"{bound}: worlds with 85 to 95 %", value=float(100 * ((held >= 85) & (held <= 95)).mean()), unit="%"
        ),
        Figure(name="spread against error, Spearman, median", value=float(np.median(ranks))),
        Figure(name="spread against error, Spearman, lowest", value=float(ranks.min())),
        *(
            Figure(name=f"spread against error after {h} actions, Spearman, median", value=_median_at(found, h))
            for h in RANKED
        ),
        Figure(
            name="worlds whose mean spread rises with the horizon",
            value=100 * float(np.mean([s.rises for s in spreads])),
            unit="%",
        ),
        Figure(name="worlds called usable that do not beat copying", value=sum(not f.beats_copying for f in usable)),
    ]


def _median_at(found: Sequence[Found], horizon: int) -> float | None:
    spreads = [f.other.spread for f in found if f.other.spread is not None]
    known = [r for s in spreads for h, r in zip(s.horizons, s.rank, strict=True) if h == horizon and r is not None]
    return float(np.median(known)) if known else None


if __name__ == "__main__":
    run(main)
