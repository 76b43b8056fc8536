"""Where the thing and the robot are in frames that a world draws, open loop, on scenes of other packages.

    python -m benchmarks.scenes fetch_push --episodes 800 --out data/fetch_push          # in an environment with extra `scenes`
    worldsim train world data=data/fetch_push out=worlds/fetch_push family=structured
    python -m benchmarks.any_scene --scene fetch_push --data data/fetch_push --world worlds/fetch_push
    python -m benchmarks.any_scene --choose --on fetch_push=data/fetch_push --on push=data/push    # see any_scene_choice

Held-out episodes, 4 frames of context, true actions; a window begins at every second step. Places are read by a detector that
was fitted on true frames of other episodes; a thing that is not detected counts as half the frame's width. Windows count where the
thing moves more than 3 px (all of them where the robot cannot move it). Pixels are those of a frame 64 wide.

Shape legend: N windows, H W pixels.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks import any_scene_choice
from benchmarks.any_scene_choice import Error
from benchmarks.record import Figure, run, write
from benchmarks.scene_base import ANGLE, THING, TIP, Scene
from benchmarks.scene_detector import PRESENT, SCHEDULE, Detector, fit_detector, places
from benchmarks.scenes import SCENES, collection
from worldsim import storage
from worldsim.compute import one_thread
from worldsim.core import STATE, Observation
from worldsim.data.episode import Episode
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.lerobot.read import Dataset
from worldsim.train.recipes.comparison import measure_world, read_windows
from worldsim.train.recipes.settings import split_episodes
from worldsim.video import encode_png, psnr_db
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld, LearnedWorld

CONTEXT, HORIZONS, MOVED_PX, EVERY, WIDTH_PX = 4, (1, 8, 16, 32), 3.0, 2, 64
_SHOWN = 10
_AT_ONCE = 8
_CANVAS_FRAMES = 400
_CHOICE_STEPS, _CHOICE_EPISODES = 800, 40
"""Steps of the detector, and held-out episodes, by which families are compared."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """Windows of held-out episodes and what a world drew of them."""

    true: dict[int, Tensor]  # by horizon (0 is the last frame of context): uint8 [N, H, W, 3]
    drawn: dict[int, Tensor]  # uint8 [N, H, W, 3]
    state: dict[int, Tensor]  # true states [N, 9]


def main(
    scene: Annotated[str, typer.Option(help=f"One of {', '.join(SCENES)}.")] = "fetch_push",
    data: Annotated[Path, typer.Option(help="Its dataset, as benchmarks.scenes records it.")] = Path("data/fetch_push"),
    world: Annotated[list[Path] | None, typer.Option(help="World folders, one for each seed; repeatable.")] = None,
    out: Annotated[Path, typer.Option(help="Where the detector and pictures are kept.")] = Path("runs/any_scene"),
    record: Annotated[bool, typer.Option(help="Write benchmarks/results/any_scene_SCENE.json.")] = True,
    choose: Annotated[bool, typer.Option(help="Measure how the family is chosen instead.")] = False,
    on: Annotated[list[str] | None, typer.Option(help="NAME=FOLDER, datasets to choose on; repeatable.")] = None,
    minutes: Annotated[float, typer.Option(help="That each family is trained for, to compare.")] = 2.0,
) -> None:
    """Measure worlds of a scene, or with --choose how the family is chosen."""
    if choose:
        _choose(dict(map(_read_folder, on or [])), out, minutes=minutes, record=record)
        return
    dataset, kind = open_datasets(str(data)), SCENES[scene]
    learned = split_episodes(dataset)[0]
    detector = fit_detector(dataset, learned, kind, out / scene / "detector")
    background = canvas(dataset, learned)
    found, costs = list[dict[str, float]](), list[dict[str, float]]()
    for folder in world or []:
        loaded = load_world(folder)
        assert isinstance(loaded, LatentWorld)
        manifest = storage.read_manifest(folder, kind="world")
        left_out = frozenset(int(i) for i in manifest.get("left_out", {}))
        played = play(loaded, dataset, split_episodes(dataset.without(left_out))[1])
        (out / scene / f"{folder.name}.png").write_bytes(show(played, kind))
        found.append(measure(played, detector, kind, background))
        costs.append(_cost(manifest))
        print(folder, *(f"  {name}: {value}" for name, value in found[-1].items()), sep="\n")
    if record:
        taken = collection(data)
        figures = [
            Figure(name=f"{scene}: {name}", value=float(np.median([f[name] for f in found])), unit=_unit(name))
            for name in found[0]
        ]
        trained = float(np.median([sum(cost.values()) for cost in costs]))
        for what, core_s in (("training", trained), ("collection", taken.get("core_seconds"))):
            figures.append(Figure(name=f"{scene}: {what}", value=core_s, unit="core-s"))
        shown = [{name: value if math.isfinite(value) else None for name, value in f.items()} for f in found]
        details = {"dataset": taken | {"episodes": dataset.episodes}, "worlds": shown, "core_seconds": costs}
        seeds = list(range(len(found)))
        write(f"any_scene_{scene}", module="any_scene", figures=figures, seeds=seeds, details=details)


def _choose(data: Mapping[str, Path], out: Path, *, minutes: float, record: bool) -> None:
    """Whether the best family is chosen, and what that costs."""
    with one_thread():
        found = any_scene_choice.choose(
            data,
            out,
            settings=[f"minutes={minutes}"],
            measure=lambda name, world, dataset: compare_by(name, world, dataset, out / name / "detector"),
        )
    if record:
        details = {"minutes": minutes, "scenes": [one.to_json() for one in found]}
        figures = any_scene_choice.figures(found)
        write("any_scene_choice", module="any_scene", figures=figures, seeds=[0], details=details)


def _read_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not folder:
        raise typer.BadParameter(f"--on reads NAME=FOLDER; got {text!r}.")
    return name, Path(folder)


def compare_by(scene: str, world: LearnedWorld, dataset: Dataset, folder: Path) -> Error:
    """What families are compared by at 16 steps: the thing's place, the robot's where it moves nothing, PSNR where neither is known."""
    learned, held_out = split_episodes(dataset)
    if scene not in SCENES:
        windows = read_windows(dataset, held_out)
        h = min(HORIZONS[2], windows.horizons[-1])
        seen = measure_world(world, windows).psnr_db[windows.horizons.index(h)]
        return Error(what=f"PSNR dB at {h}", value=seen, more_is_better=True)
    kind, name = SCENES[scene], f"{'thing' if SCENES[scene].moves else 'tip'} px at {HORIZONS[2]}, median"
    schedule = dataclasses.replace(SCHEDULE, steps=_CHOICE_STEPS)
    detector = fit_detector(dataset, learned, kind, folder, schedule)
    assert isinstance(world, LatentWorld)
    found = measure(play(world, dataset, held_out[:_CHOICE_EPISODES]), detector, kind, canvas(dataset, learned))
    return Error(what=name, value=found[name], least=found[f"detector: {name}"])


def _cost(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Core-seconds of a training by stage; those of latents are what was predicted where they were not measured."""
    predicted = manifest.get("plan", {}).get("stages", {}).get("latents", {}).get("core_s", 0.0)
    return {"latents": round(predicted, 1), **manifest.get("core_seconds", {})}


def canvas(dataset: Dataset, episodes: Sequence[int]) -> Tensor:
    """The constant background of episodes: the median of frames from their middle, uint8 [H, W, 3]."""
    frames = list[Tensor]()
    for index in episodes[:_CANVAS_FRAMES]:
        (seen,) = dataset.episode(index).frames.values()
        frames.append(torch.tensor(seen[len(seen) // 2]))
    return torch.stack(frames).median(0).values


def play(world: LatentWorld, dataset: Dataset, episodes: Sequence[int]) -> Drawn:
    """Let a world follow the first frames of windows of episodes, then roll out the recorded actions and draw."""
    parts = [
        _play(world, [dataset.episode(i) for i in episodes[at : at + _AT_ONCE]])
        for at in range(0, len(episodes), _AT_ONCE)
    ]

    def join(name: str) -> dict[int, Tensor]:
        return {h: torch.cat([getattr(part, name)[h] for part in parts]) for h in getattr(parts[0], name)}

    return Drawn(true=join("true"), drawn=join("drawn"), state=join("state"))


def _play(world: LatentWorld, episodes: Sequence[Episode]) -> Drawn:
    last, key = CONTEXT - 1 + HORIZONS[-1], world.spec.cameras[0].key
    windows = [(e, t) for e in episodes for t in range(0, e.steps + 1 - last, EVERY)]
    action = torch.stack([torch.tensor(e.action[t : t + last]) for e, t in windows])
    state = world.reset(_seen(windows, key, 0), torch.arange(len(windows)))
    for t in range(1, CONTEXT):
        state = world.see(state, _seen(windows, key, t), action[:, t - 1])
    _, rollout = world.rollout(state, action[:, CONTEXT - 1 :])
    times = {h: CONTEXT - 1 + h for h in (0, *HORIZONS)}
    return Drawn(
        true={h: _seen(windows, key, t)[key] for h, t in times.items()},
        drawn={h: world.decode(rollout.latent[:, h - 1]) for h in HORIZONS},
        state={h: torch.stack([torch.tensor(_true(e)[s + t]) for e, s in windows]) for h, t in times.items()},
    )


def counted(played: Drawn, scene: type[Scene], h: int) -> Tensor:
    """Windows whose thing is in view before and after, and moves, where the robot can move it: bool [N]."""
    size, before, after = _size(played), played.state[0], played.state[h]
    inside = _inside(before[:, THING], size) & _inside(after[:, THING], size)
    if not scene.moves:
        return inside
    return inside & (_off(before[:, THING], places(after, scene, size)) * WIDTH_PX / size[1] > MOVED_PX)


def measure(played: Drawn, detector: Detector, scene: type[Scene], background: Tensor) -> dict[str, float]:
    """Figures by name: of the world, of copying the last frame of context, of the background [H, W, 3], of the detector on true frames."""
    figures = dict[str, float]()
    for h in HORIZONS:
        true = played.true[h]
        figures[f"windows at {h}"] = int(counted(played, scene, h).sum())
        for who, frames in (("", played.drawn[h]), ("copying: ", played.true[0]), ("detector: ", true)):
            figures |= {f"{who}{name}": v for name, v in _errors(played, detector, scene, frames, h).items()}
            if who != "detector: ":
                figures[f"{who}psnr at {h}"] = psnr_db(frames, true)
        figures[f"background: psnr at {h}"] = psnr_db(background.expand_as(true), true)
    figures["least psnr above copying and background"] = min(
        figures[f"psnr at {h}"] - figures[f"{other}: psnr at {h}"]
        for h in HORIZONS
        for other in ("copying", "background")
    )
    return {name: round(value, 4) for name, value in figures.items()}


def _errors(played: Drawn, detector: Detector, scene: type[Scene], frames: Tensor, h: int) -> dict[str, float]:
    """Errors of thing and tip, as the detector finds them in frames uint8 [N, H, W, 3]."""
    size, state, count = _size(played), played.state[h], counted(played, scene, h)
    scale, seen = WIDTH_PX / size[1], detector.find(frames)
    there = seen.peak_NJ[:, 0] > PRESENT
    off = _off(seen.place_NJ2[:, 0], places(state, scene, size)) * scale
    off = torch.where(there, off, torch.full_like(off, WIDTH_PX / 2))
    shown = _inside(state[:, TIP], size)
    tip = (seen.place_NJ2[:, 1] - state[:, TIP]).norm(dim=1)[shown] * scale
    figures = {
        f"thing px at {h}, median": float(off[count].median()),
        f"thing px at {h}, mean": float(off[count].mean()),
        f"thing there at {h}": float(there[count].float().mean()),
        f"tip px at {h}, median": float(tip.median()),
    }
    if scene.turns:
        figures[f"degrees at {h}, median"] = float(_degrees(seen.turn_N2, state[:, ANGLE], scene.order)[count].median())
    return figures


def _degrees(said: Tensor, true: Tensor, order: int) -> Tensor:
    """Angle [N] between two directions [N, 2] of what has a rotational symmetry."""
    across, along = said[:, 0] * true[:, 1] - said[:, 1] * true[:, 0], (said * true).sum(1)
    return torch.rad2deg(torch.atan2(across, along)).abs() / order


def _off(at: Tensor, places_NM2: Tensor) -> Tensor:
    """Distance [N] of points [N, 2] from the nearest of places."""
    return (at[:, None] - places_NM2).norm(dim=-1).amin(1)


def _inside(at: Tensor, size: tuple[int, int]) -> Tensor:
    return ((at >= 0) & (at < torch.tensor(size[::-1]))).all(1)


def _size(played: Drawn) -> tuple[int, int]:
    _, height, width, _ = played.true[0].shape
    return height, width


def show(played: Drawn, scene: type[Scene]) -> bytes:
    """Truth above prediction for some of the windows that count at 16 steps, a column for each horizon; PNG."""
    chosen = counted(played, scene, HORIZONS[2]).nonzero()[:, 0].tolist() or range(len(played.true[0]))
    rows = []
    for n in chosen[:: max(1, len(chosen) // _SHOWN)][:_SHOWN]:
        rows.append(np.concatenate([played.true[h][n].numpy() for h in (0, *HORIZONS)], 1))
        rows.append(np.concatenate([played.true[0][n].numpy(), *(played.drawn[h][n].numpy() for h in HORIZONS)], 1))
    return encode_png(np.concatenate(rows).repeat(2, 0).repeat(2, 1))


def _seen(windows: Sequence[tuple[Episode, int]], key: str, t: int) -> Observation:
    """The observations at a time after the windows' beginnings."""
    frames = torch.stack([torch.tensor(e.frames[key][s + t]) for e, s in windows])
    return {key: frames, STATE: torch.stack([torch.tensor(e.proprio[s + t]) for e, s in windows])}


def _true(episode: Episode) -> Any:
    """True states [T, 9].

    Raises:
        ValueError: The dataset holds none.
    """
    if episode.true_state is None:
        raise ValueError("The dataset holds no true states; record it with benchmarks.scenes.")
    return episode.true_state


def _unit(name: str) -> str:
    if "psnr" in name:
        return "dB"
    return next(
        (unit for word, unit in ((" px ", "px"), ("degrees", "degrees"), ("windows", "windows")) if word in name), ""
    )


if __name__ == "__main__":
    run(main)
