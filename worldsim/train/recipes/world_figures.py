"""Held-out figures of a trained world, from its own dataset and without a simulator; they go into the manifest.

The figures that need a simulator (millimetres and degrees of an object) are `benchmarks/world_fidelity.py`.

Shape legend: E episodes, T steps, c h w latent, H W pixels.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from worldsim.core import STATE, TASK, TRUE_STATE, Rollout, text_rows
from worldsim.data.latents import EncodedEpisodes
from worldsim.data.lerobot.read import Dataset
from worldsim.protocols import require_drawable
from worldsim.worlds.latent import LearnedWorld
from worldsim.worlds.state import StateWorld

HORIZONS = (1, 8, 16, 32)
MOST = 64
"""Held-out episodes looked at."""


def held_out_figures(world: LearnedWorld, held_out: EncodedEpisodes, dataset: Dataset) -> dict[str, float]:
    """Roll out recorded actions from held-out starts and compare with what was recorded.

    Returns:
        `psnr_db_h*` of decoded frames, `copy_psnr_db_h*` of repeating the first frame (other cameras: `.../NAME`), `progress_mae` and
        `success_accuracy` over all steps where the data has labels.
    """
    per_step = world.spec.actions_per_step
    reachable = [h for h in HORIZONS if h % per_step == 0 and h <= (held_out.longest - 1) * per_step]
    chosen = [i for i in held_out.indices if reachable and dataset.length(i) > reachable[-1]][:MOST]
    episodes = [dataset.episode(i) for i in chosen]
    if not episodes:
        return {}
    horizon = reachable[-1]
    frames = {
        c.key: torch.stack([torch.tensor(e.frames[c.key][: horizon + 1]) for e in episodes]) for c in dataset.cameras
    }
    starts = {key: value[:, 0] for key, value in frames.items()}
    starts[STATE] = torch.stack([torch.tensor(e.proprio[0]) for e in episodes])
    starts[TASK] = text_rows([e.task for e in episodes])
    if isinstance(world, StateWorld):
        starts[TRUE_STATE] = torch.stack([torch.tensor(e.true_state[0]) for e in episodes if e.true_state is not None])
    actions = torch.stack([torch.tensor(e.action[:horizon]) for e in episodes])
    actions = actions if per_step == 1 else actions.unflatten(1, (-1, per_step))
    _, rollout = world.rollout(world.reset(starts, torch.tensor(chosen)), actions)
    figures = _pictures(world, rollout, frames, reachable)
    success = torch.stack([torch.tensor(e.success[per_step : horizon + 1 : per_step]) for e in episodes])
    known = success.isfinite()
    if bool(known.any()):
        figures["success_accuracy"] = float(((rollout.success > 0.5) == (success > 0.5))[known].float().mean())
    progress = torch.stack([torch.tensor(e.progress[per_step : horizon + 1 : per_step]) for e in episodes])
    known = progress.isfinite()
    if bool(known.any()):
        figures["progress_mae"] = float((rollout.progress - progress).abs()[known].mean())
    return {k: round(v, 4) for k, v in figures.items()}


def _pictures(
    world: LearnedWorld, rollout: Rollout, frames_BTHWC: Mapping[str, Tensor], horizons: Sequence[int]
) -> dict[str, float]:
    """PSNR of every camera at every horizon; the main camera's figures carry no name."""
    figures: dict[str, float] = {}
    for number, camera in enumerate(world.spec.cameras):
        truth, name = frames_BTHWC[camera.key], f"/{camera.name}" if number else ""
        for h in horizons:
            drawn = require_drawable(world).decode(rollout.latent[:, h // world.spec.actions_per_step - 1], camera.key)
            drawn = drawn if drawn.ndim == 4 else drawn[:, -1]
            figures[f"psnr_db_h{h}{name}"] = psnr_db(drawn, truth[:, h])
            figures[f"copy_psnr_db_h{h}{name}"] = psnr_db(truth[:, 0], truth[:, h])
    return figures


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 frames, in decibels."""
    mse = float((a.float() - b.float()).square().mean())
    return 10 * math.log10(255**2 / max(mse, 1e-6))
