"""Where the thing and the robot are in frames that a world draws, open loop, on scenes of other packages.

    python -m benchmarks.scenes fetch_push --episodes 400 --out data/fetch_push          # in an environment with extra `scenes`
    worldsim train world data=data/fetch_push out=worlds/fetch_push family=structured
    python -m benchmarks.any_scene --scene fetch_push --data data/fetch_push --world worlds/fetch_push

Held-out episodes, 4 frames of context, true actions. Places are read by a detector that was fitted on true frames of other
episodes; a thing that is not detected counts as half the frame's width. Things count where they move more than 3 px.

Shape legend: E episodes, T frames, H W pixels.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.record import Figure, run, write
from benchmarks.scene_base import THING, TIP
from benchmarks.scene_detector import PRESENT, Detector, Found, fit_detector
from benchmarks.scenes import SCENES
from worldsim import storage
from worldsim.core import STATE, Observation
from worldsim.data.episode import Episode
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.train.recipes.held_out import psnr_db
from worldsim.train.recipes.settings import split_episodes
from worldsim.video import encode_png
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld

CONTEXT, HORIZONS, MOVED_PX = 4, (1, 8, 16, 32), 3.0
_SHOWN = 8


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Held-out episodes and what a world drew of them."""

    true: dict[int, Tensor]  # by horizon (0 is the last frame of context): uint8 [E, H, W, 3]
    drawn: dict[int, Tensor]  # uint8 [E, H, W, 3]
    state: dict[int, Tensor]  # true states [E, 9]


def main(
    scene: Annotated[str, typer.Option(help=f"One of {', '.join(SCENES)}.")] = "fetch_push",
    data: Annotated[Path, typer.Option(help="Its dataset, as benchmarks.scenes records it.")] = Path("data/fetch_push"),
    world: Annotated[list[Path] | None, typer.Option(help="World folders, one for each seed; repeatable.")] = None,
    out: Annotated[Path, typer.Option(help="Where the detector and pictures are kept.")] = Path("runs/any_scene"),
    record: Annotated[bool, typer.Option(help="Write benchmarks/results/any_scene_SCENE.json.")] = True,
) -> None:
    """Measure worlds of a scene."""
    dataset = open_datasets(str(data))
    detector = fit_detector(dataset, split_episodes(dataset)[0], out / scene / "detector")
    found = list[dict[str, float]]()
    costs = list[Any]()
    for folder in world or []:
        loaded = load_world(folder)
        assert isinstance(loaded, LatentWorld)
        manifest = storage.read_manifest(folder, kind="world")
        left_out = frozenset(int(i) for i in manifest.get("left_out", {}))
        played = play(loaded, dataset, split_episodes(dataset.without(left_out))[1])
        (out / scene / f"{folder.name}.png").write_bytes(show(played))
        found.append(measure(played, detector))
        costs.append(manifest.get("core_seconds", {}))
        print(folder, found[-1], sep="\n")
    if record:
        figures = [
            Figure(name=f"{scene}: {name}", value=float(np.median([f[name] for f in found])), unit=_unit(name))
            for name in found[0]
        ]
        details = {"scene": scene, "episodes": dataset.episodes, "worlds": found, "core_seconds": costs}
        write(f"any_scene_{scene}", figures=figures, seeds=list(range(len(found))), details=details)


def play(world: LatentWorld, dataset: Dataset, episodes: Sequence[int]) -> Drawn:
    """Let a world follow the first frames of episodes, then roll out the recorded actions and draw."""
    last = CONTEXT - 1 + HORIZONS[-1]
    chosen = [dataset.episode(i) for i in episodes if dataset.length(i) > last]
    key = world.spec.cameras[0].key
    action = torch.stack([torch.tensor(e.action[:last]) for e in chosen])
    state = world.reset(_seen(chosen, key, 0), torch.arange(len(chosen)))
    for t in range(1, CONTEXT):
        state = world.see(state, _seen(chosen, key, t), action[:, t - 1])
    _, rollout = world.rollout(state, action[:, CONTEXT - 1 :])
    times = {h: CONTEXT - 1 + h for h in (0, *HORIZONS)}
    return Drawn(
        true={h: torch.stack([torch.tensor(e.frames[key][t]) for e in chosen]) for h, t in times.items()},
        drawn={h: world.decode(rollout.latent[:, h - 1]) for h in HORIZONS},
        state={h: torch.stack([torch.tensor(_true(e)[t]) for e in chosen]) for h, t in times.items()},
    )


def measure(played: Drawn, detector: Detector) -> dict[str, float]:
    """Figures by name: of the world, of copying the last frame of context, and of the detector on the true frames."""
    width = played.true[0].shape[2]
    figures = dict[str, float]()
    for h in HORIZONS:
        state = played.state[h]
        inside = ((state[:, THING] >= 0) & (state[:, THING] < width)).all(1)
        begins = ((played.state[0][:, THING] >= 0) & (played.state[0][:, THING] < width)).all(1)
        moved = (state[:, THING] - played.state[0][:, THING]).norm(dim=1) > MOVED_PX
        count = moved & inside & begins
        figures[f"windows at {h}"] = int(count.sum())
        for who, frames in (("", played.drawn[h]), ("copying: ", played.true[0]), ("detector: ", played.true[h])):
            seen = detector.find(frames)
            off, there = _thing_errors(seen, state, width)
            figures |= {
                f"{who}thing px at {h}, median": float(off[count].median()),
                f"{who}thing px at {h}, mean": float(off[count].mean()),
                f"{who}thing there at {h}": float(there[count].float().mean()),
                f"{who}tip px at {h}, median": float((seen.place_NJ2[:, 1] - state[:, TIP]).norm(dim=1).median()),
            }
            if who != "detector: ":
                figures[f"{who}psnr at {h}"] = psnr_db(frames, played.true[h])
    return {name: round(value, 4) for name, value in figures.items()}


def _thing_errors(seen: Found, state: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Distance [E] of the detected thing from the true one, and whether it was detected [E]."""
    there = seen.peak_NJ[:, 0] > PRESENT
    off = (seen.place_NJ2[:, 0] - state[:, THING]).norm(dim=1)
    return torch.where(there, off, torch.full_like(off, width / 2)), there


def show(played: Drawn) -> bytes:
    """Truth above prediction for some episodes, a column for each horizon; PNG."""
    rows = []
    for e in range(min(_SHOWN, len(played.true[0]))):
        rows.append(np.concatenate([played.true[h][e].numpy() for h in (0, *HORIZONS)], 1))
        rows.append(np.concatenate([played.true[0][e].numpy(), *(played.drawn[h][e].numpy() for h in HORIZONS)], 1))
    return encode_png(np.concatenate(rows).repeat(2, 0).repeat(2, 1))


def _seen(episodes: Sequence[Episode], key: str, t: int) -> Observation:
    """The observations at one time."""
    frames = torch.stack([torch.tensor(e.frames[key][t]) for e in episodes])
    return {key: frames, STATE: torch.stack([torch.tensor(e.proprio[t]) for e in episodes])}


def _true(episode: Episode) -> Any:
    """True states [T, 9].

    Raises:
        ValueError: The dataset holds none.
    """
    if episode.true_state is None:
        raise ValueError("The dataset holds no true states; record it with benchmarks.scenes.")
    return episode.true_state


def _unit(name: str) -> str:
    return "px" if " px " in name else "dB" if "psnr" in name else "" if "there" in name else "windows"


if __name__ == "__main__":
    run(main)
