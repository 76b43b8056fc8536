"""How well the structured family draws robot and background of real recordings that it did not see, and what is left over.

    python -m benchmarks.real_pictures --bridge bridge_rlds/1.0.0 --droid droid_v3

Pictures only, of very little data: nothing is said of dynamics. Bridge: a slice of BridgeData V2 (WidowX, 10 rows an episode,
64 px); the camera stands elsewhere for each task, so each task is a scene of its own, with one episode held out. DROID: one
episode (Panda, exterior camera, made smaller), cut into pieces of which every sixth is held out: its rows are near others in time.

Shape legend: N rows, H W frame, P proprio.
"""

import dataclasses
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image
from torch import Tensor

from benchmarks.record import ROOT, Figure, run, write
from worldsim.data.importers import import_dataset
from worldsim.data.lerobot.join import open_datasets
from worldsim.optimize import Schedule
from worldsim.progress import silent
from worldsim.tokenizers.structured.tokenizer import StructuredTokenizer
from worldsim.train.recipes.structured.pictures import begin_tokenizer, train_pictures
from worldsim.train.recipes.structured.rows import FrameRows
from worldsim.train.recipes.structured.settings import StructuredRecipe
from worldsim.video import encode_png

PIECE, HELD_OUT_EVERY, DROID_WIDTH = 60, 6, 224
LEAST_EPISODES = 5
RECIPE = StructuredRecipe(
    actor=Schedule(steps=900, batch=32, lr=3e-3, clip=5.0, weight_decay=0.0),
    things=Schedule(steps=500, batch=32, lr=2e-3, clip=5.0, weight_decay=0.0),
    painter=Schedule(steps=300, batch=32, lr=1e-3, clip=5.0, weight_decay=0.0),
)
_SHOWN = 6


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """Recordings of one place, by episode or piece.

    Attributes:
        name: What it is called in figures.
        rows: Of each episode, in order.
        held_out: Which of them are held out.
    """

    name: str
    rows: tuple[FrameRows, ...]
    held_out: frozenset[int]

    def join(self, *, held_out: bool) -> FrameRows:
        """The rows that are learned from, or those that are held out."""
        some = [rows for i, rows in enumerate(self.rows) if (i in self.held_out) == held_out]
        frames, proprio = torch.cat([r.frames_NCHW for r in some]), torch.cat([r.proprio_NP for r in some])
        order = torch.arange(len(frames)) if held_out else torch.randperm(len(frames))
        return FrameRows(frames_NCHW=frames[order], proprio_NP=proprio[order])


def bridge_scenes(folder: Path, scratch: Path) -> list[Scene]:
    """A scene for each task of a slice of BridgeData V2, as its first camera sees it."""
    import_dataset(folder, scratch / "bridge")
    dataset = open_datasets(str(scratch / "bridge"))
    by_task: dict[str, list[FrameRows]] = {}
    for index in dataset.used:
        episode = dataset.episode(index)
        rows = _rows(episode.frames[dataset.cameras[0].key], episode.proprio)
        by_task.setdefault(episode.task, []).append(rows)
    return [
        Scene(name=f"bridge, {task[:16].strip()}", rows=tuple(rows), held_out=frozenset({0}))
        for task, rows in sorted(by_task.items())
        if len(rows) >= LEAST_EPISODES
    ]


def droid_scene(folder: Path) -> Scene:
    """One episode of DROID in pieces."""
    dataset = open_datasets(str(folder))
    episode, camera = dataset.episode(0), dataset.cameras[0]
    size = (DROID_WIDTH, round(DROID_WIDTH * camera.height / camera.width))
    small = [
        np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BOX)) for frame in episode.frames[camera.key]
    ]
    everything = _rows(np.stack(small), episode.proprio)
    ends = range(PIECE, len(everything) + 1, PIECE)
    pieces = [
        FrameRows(frames_NCHW=everything.frames_NCHW[e - PIECE : e], proprio_NP=everything.proprio_NP[e - PIECE : e])
        for e in ends
    ]
    return Scene(name="droid", rows=tuple(pieces), held_out=frozenset(range(3, len(pieces), HELD_OUT_EVERY)))


def _rows(frames_NHWC: Sequence[object] | np.ndarray, proprio_NP: np.ndarray) -> FrameRows:  # type: ignore[type-arg]
    return FrameRows(
        frames_NCHW=torch.tensor(np.asarray(frames_NHWC)).movedim(-1, 1).contiguous(),
        proprio_NP=torch.tensor(proprio_NP),
    )


@torch.no_grad()
def measure(scene: Scene, tokenizer: StructuredTokenizer, held: FrameRows) -> dict[str, float]:
    """PSNR on frames that were held out: of copying each piece's first frame, the canvas, robot and canvas, and everything."""
    firsts = [scene.rows[i].frames(slice(1)).expand(len(scene.rows[i]), -1, -1, -1) for i in sorted(scene.held_out)]
    p_NP, frames = held.describe(tokenizer.actor), held.frames(slice(None))
    _, alpha = tokenizer.actor(p_NP)
    robot = alpha.expand_as(frames) > 0.5
    actor, drawn = tokenizer.actor.scene(p_NP), draw(tokenizer, held)
    return {
        "copying the first frame": _psnr_db(torch.cat(firsts), frames),
        "canvas alone": _psnr_db(tokenizer.actor.canvas(p_NP), frames),
        "robot and canvas": _psnr_db(actor, frames),
        "with things": _psnr_db(drawn, frames),
        "where no robot is": _psnr_db(drawn[~robot], frames[~robot]),
        "where the robot is": _psnr_db(drawn[robot], frames[robot]) if bool(robot.any()) else math.nan,
        "things": float(tokenizer.config.things),
    }


@torch.no_grad()
def draw(tokenizer: StructuredTokenizer, rows: FrameRows) -> Tensor:
    """What is drawn of frames, [N, 3, H, W] in 0..1."""
    p_NP = rows.describe(tokenizer.actor)
    return torch.cat(
        [tokenizer.draw(tokenizer.encode_rows(rows.frames(at), p_NP[at])) for at in torch.arange(len(rows)).split(50)]
    )


def _psnr_db(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-9))


def show(tokenizer: StructuredTokenizer, held: FrameRows) -> bytes:
    """Truth, drawing, and twice what is left over, a column for each of some held-out frames; PNG."""
    chosen = torch.linspace(0, len(held) - 1, _SHOWN).long()
    some = FrameRows(frames_NCHW=held.frames_NCHW[chosen], proprio_NP=held.proprio_NP[chosen])
    truth, drawn = some.frames(slice(None)), draw(tokenizer, some).clamp(0, 1)
    sheet = torch.cat([torch.cat(list(x), 2) for x in (truth, drawn, (2 * (truth - drawn).abs()).clamp(0, 1))], 1)
    factor = max(1, 128 // truth.shape[2])
    array = (sheet * 255).round().byte().movedim(0, -1).numpy()
    return encode_png(array.repeat(factor, 0).repeat(factor, 1))


def main(
    bridge: Annotated[Path | None, typer.Option(help="RLDS folder of the slice of BridgeData V2.")] = None,
    droid: Annotated[Path | None, typer.Option(help="LeRobotDataset of one DROID episode.")] = None,
    out: Annotated[Path, typer.Option(help="Where the pictures are kept.")] = ROOT / "runs" / "real_pictures",
) -> None:
    """Measure and write benchmarks/results/real_pictures.json."""
    torch.set_num_threads(1)
    figures, details = list[Figure](), {}
    with tempfile.TemporaryDirectory() as scratch:
        scenes = [] if bridge is None else bridge_scenes(bridge, Path(scratch))
        scenes += [] if droid is None else [droid_scene(droid)]
        for number, scene in enumerate(scenes):
            torch.manual_seed(0)
            rows, held = scene.join(held_out=False), scene.join(held_out=True)
            begun, folder = begin_tokenizer(rows, RECIPE, seed=0), Path(scratch) / str(number)
            tokenizer, report = train_pictures(begun, rows, held, RECIPE, seed=0, folder=folder, progress=silent)
            tokenizer.eval()
            found = measure(scene, tokenizer, held)
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{scene.name.replace(', ', '_').replace(' ', '_')}.png").write_bytes(show(tokenizer, held))
            details[scene.name] = {"rows": len(rows), "held_out": len(held), "stages": dataclasses.asdict(report)}
            figures += [
                Figure(name=f"{scene.name}: {name}", value=value, unit="" if name == "things" else "dB")
                for name, value in found.items()
            ]
            print(scene.name, found, report.warnings)
    write("real_pictures", figures=figures, seeds=[0], details=details)


if __name__ == "__main__":
    run(main)
