"""How a trained world does on episodes that it was not trained on: figures by horizon, beside copying, and a picture.

Shape legend: E episodes, T frames of an episode, H W pixels, S true state.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from worldsim.core import STATE, TASK, TRUE_STATE, Observation, Rollout, text_rows
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import Dataset
from worldsim.protocols import require_drawable
from worldsim.stats.held_out import HeldOut
from worldsim.train.recipes.settings import HELD_OUT_EVERY
from worldsim.video import Frames, encode_png
from worldsim.worlds.latent import LearnedWorld
from worldsim.worlds.state import StateWorld

FIGURE_HORIZONS = (1, 8, 16, 32)
FIGURE_EPISODES = 64
"""Actions ahead at which held-out figures are measured, and most episodes that they are measured on."""
PICTURE = "held_out.png"
_SHOWN = 4
"""Episodes in the picture."""
_PANE_PX, _HEADING_PX, _GAP_PX = 96, 16, 4


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Figures of a world, and truth above prediction at the horizons as PNG; no picture where nothing is drawn."""

    held_out: HeldOut
    picture: bytes | None


def measure_held_out(world: LearnedWorld, held_out: Sequence[int], dataset: Dataset) -> Measured:
    """Roll out recorded actions from held-out starts and compare with what was recorded, and with copying the start.

    Args:
        world: What was trained.
        held_out: Episodes of the dataset that it was not trained on.
        dataset: Where they are from.

    Returns:
        Figures named as in `HeldOut`; the main camera's carry no name, those of the heads are over all steps that the data
        labels.
    """
    per_step = world.spec.actions_per_step
    longest = max((dataset.length(i) for i in held_out), default=0)
    reachable = [h for h in FIGURE_HORIZONS if h % per_step == 0 and h < longest]
    chosen = [i for i in held_out if reachable and dataset.length(i) > reachable[-1]][:FIGURE_EPISODES]
    episodes = [dataset.episode(i) for i in chosen]
    if not episodes:
        return Measured(held_out=HeldOut(figures={}), picture=None)
    horizon = reachable[-1]
    frames = {
        c.key: torch.stack([torch.tensor(e.frames[c.key][: horizon + 1]) for e in episodes]) for c in dataset.cameras
    }
    starts = {key: value[:, 0] for key, value in frames.items()}
    starts[STATE] = torch.stack([torch.tensor(e.proprio[0]) for e in episodes])
    starts[TASK] = text_rows([e.task for e in episodes])
    if isinstance(world, StateWorld):
        starts[TRUE_STATE] = _true_states(episodes, 1)[:, 0]
    actions = torch.stack([torch.tensor(e.action[:horizon]) for e in episodes])
    actions = actions if per_step == 1 else actions.unflatten(1, (-1, per_step))
    _, rollout = world.rollout(world.reset(starts, torch.tensor(chosen)), actions)
    drawn = _draw(world, rollout, reachable)
    figures = _compare_pictures(world, drawn, frames, reachable)
    if isinstance(world, StateWorld):
        figures |= _compare_states(rollout, _true_states(episodes, horizon + 1), reachable, per_step)
    figures |= {
        f"uncertainty_h{h}": float(rollout.uncertainty[:, h // per_step - 1].mean())
        for h in reachable
        if bool(rollout.uncertainty.any())  # all zero: there are no members that could differ
    }
    figures |= _compare_labels(rollout, episodes, range(per_step, horizon + 1, per_step))
    figures |= _compare_outcomes(world, starts, torch.tensor(chosen), episodes)
    held = HeldOut(figures={k: round(v, 4) for k, v in figures.items()})
    return Measured(held_out=held, picture=_show(drawn, frames, reachable) if drawn else None)


def _true_states(episodes: Sequence[Episode], length: int) -> Tensor:
    """True states [E, T, S] of episodes that have them."""
    return torch.stack([torch.tensor(e.true_state[:length]) for e in episodes if e.true_state is not None])


def _draw(world: LearnedWorld, rollout: Rollout, horizons: Sequence[int]) -> dict[str, dict[int, Tensor]]:
    """Frames uint8 [E, H, W, 3] by camera and horizon."""
    drawn: dict[str, dict[int, Tensor]] = {}
    for camera in world.spec.cameras:
        for h in horizons:
            latent = rollout.latent[:, h // world.spec.actions_per_step - 1]
            frames = require_drawable(world).decode(latent, camera.key)
            drawn.setdefault(camera.key, {})[h] = frames if frames.ndim == 4 else frames[:, -1]
    return drawn


def _compare_pictures(
    world: LearnedWorld,
    drawn: Mapping[str, Mapping[int, Tensor]],
    frames_BTHWC: Mapping[str, Tensor],
    horizons: Sequence[int],
) -> dict[str, float]:
    """PSNR of every camera at every horizon."""
    figures: dict[str, float] = {}
    for number, camera in enumerate(world.spec.cameras):
        truth, name = frames_BTHWC[camera.key], f"/{camera.name}" if number else ""
        for h in horizons:
            figures[f"psnr_db_h{h}{name}"] = psnr_db(drawn[camera.key][h], truth[:, h])
            figures[f"copy_psnr_db_h{h}{name}"] = psnr_db(truth[:, 0], truth[:, h])
    return figures


def _compare_states(rollout: Rollout, truth_ETS: Tensor, horizons: Sequence[int], per_step: int) -> dict[str, float]:
    """Error of true states at every horizon, in standard deviations of what was recorded."""
    scale_S = truth_ETS.flatten(0, 1).std(0)
    moves = scale_S > 1e-6
    if rollout.true_state is None or not bool(moves.any()):
        return {}
    figures: dict[str, float] = {}
    for h in horizons:
        truth_ES = truth_ETS[:, h]
        for who, said_ES in (("", rollout.true_state[:, h // per_step - 1]), ("copy_", truth_ETS[:, 0])):
            error_ES = ((said_ES - truth_ES) / scale_S)[:, moves]
            figures[f"{who}state_error_h{h}"] = float(error_ES.square().mean().sqrt())
    return figures


def _compare_labels(rollout: Rollout, episodes: Sequence[Episode], steps: range) -> dict[str, float]:
    """How often success is read right and how far progress is off, over all steps that the data labels."""
    figures: dict[str, float] = {}
    success = torch.stack([torch.tensor(e.success[[0, *steps]]) for e in episodes])
    known = success[:, 1:].isfinite()
    if bool(known.any()):
        right = (rollout.success > 0.5) == (success[:, 1:] > 0.5)
        copied = (success[:, :1] > 0.5) == (success[:, 1:] > 0.5)
        figures["success_accuracy"] = float(right[known].float().mean())
        figures["copy_success_accuracy"] = float(copied[known].float().mean())
    progress = torch.stack([torch.tensor(e.progress[[0, *steps]]) for e in episodes])
    known = progress[:, 1:].isfinite()
    if bool(known.any()):
        figures["progress_mae"] = float((rollout.progress - progress[:, 1:]).abs()[known].mean())
        copied = (progress[:, :1].nan_to_num() - progress[:, 1:]).abs()
        figures["copy_progress_mae"] = float(copied[known].mean())
    return figures


@torch.no_grad()
def _compare_outcomes(
    world: LearnedWorld, starts: Observation, keys: Tensor, episodes: Sequence[Episode]
) -> dict[str, float]:
    """How many episodes end solved, and how many do not, and the shares of both that the world ends alike."""
    spec, per_step = world.spec, world.spec.actions_per_step
    ends = [min(len(e.action), spec.horizon) // per_step for e in episodes]
    idle = torch.tensor(spec.action.idle, dtype=torch.float32).expand(max(ends) * per_step, -1)
    actions = torch.stack(
        [torch.cat([torch.tensor(e.action[: len(idle)]), idle[len(e.action) :]]) for e in episodes]
    ).unflatten(1, (-1, per_step))
    state, said = world.reset(starts, keys), []
    for t in range(max(ends)):  # step by step: latents of entire episodes need not be kept
        state, step = world.step(state, actions[:, t, 0] if per_step == 1 else actions[:, t])
        said.append(step.success > 0.5)
    found: dict[bool, list[bool]] = {True: [], False: []}
    for row, (end, episode) in enumerate(zip(ends, episodes, strict=True)):
        reported, truth = torch.stack(said)[:end, row], torch.tensor(episode.success[1 : end * per_step + 1])
        if not bool(truth.isfinite().all()):
            continue
        at_end = spec.success_at == "end"
        solved = bool(truth[-1] > 0.5) if at_end else bool((truth > 0.5).any())
        found[solved].append((bool(reported[-1]) if at_end else bool(reported.any())) == solved)
    figures: dict[str, float] = {}
    for name, alike in (("solved", found[True]), ("unsolved", found[False])):
        if alike:
            figures |= {f"{name}_right": sum(alike) / len(alike), f"{name}_episodes": float(len(alike))}
    return figures


def figure_bytes(dataset: Dataset) -> int:
    """Memory that the frames take which figures are measured on."""
    pixels = sum(3 * camera.height * camera.width for camera in dataset.cameras)
    episodes = min(FIGURE_EPISODES, -(-dataset.episodes // HELD_OUT_EVERY))
    return episodes * pixels * (FIGURE_HORIZONS[-1] + 1 + len(FIGURE_HORIZONS))


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of frames uint8 [..., H, W, 3], in decibels."""
    mse = float((a.float() - b.float()).square().mean())
    return 10 * math.log10(255**2 / max(mse, 1e-6))


def _show(
    drawn: Mapping[str, Mapping[int, Tensor]], frames_BTHWC: Mapping[str, Tensor], horizons: Sequence[int]
) -> bytes:
    """A sheet: a column for the start and for each horizon, for each camera and episode truth above prediction; PNG."""
    rows = list[Frames]()
    for key, by_horizon in drawn.items():
        truth = frames_BTHWC[key]
        for i in range(min(_SHOWN, len(truth))):
            real = [truth[i, h] for h in (0, *horizons)]
            imagined = [truth[i, 0], *(by_horizon[h][i] for h in horizons)]
            rows.append(np.concatenate([_join(real), _join(imagined)]))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(r, [(0, 2 * _GAP_PX), (0, width - r.shape[1]), (0, 0)], constant_values=255) for r in rows]
    heading = Image.new("RGB", (width, _HEADING_PX), "white")
    pen, columns = ImageDraw.Draw(heading), 1 + len(horizons)
    for number, h in enumerate((0, *horizons)):
        text = f"{h} action{'s' if h > 1 else ''}" if h else "start"
        pen.text((2 + number * (width // columns), 2), text, fill="black")
    return encode_png(np.concatenate([np.asarray(heading), *padded]))


def _join(frames: Sequence[Tensor]) -> Frames:
    """Frames [H, W, 3] beside each other, enlarged by an integer, with white between and below."""
    factor = max(1, _PANE_PX // int(frames[0].shape[0]))
    panes = [f.cpu().numpy().repeat(factor, axis=0).repeat(factor, axis=1) for f in frames]
    return np.concatenate([np.pad(p, [(0, _GAP_PX), (0, _GAP_PX), (0, 0)], constant_values=255) for p in panes], axis=1)
