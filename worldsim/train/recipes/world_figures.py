"""Held-out figures of a trained world, from its own dataset and without a simulator; they go into the manifest.

The figures that need a simulator (millimetres and degrees of an object) are `benchmarks/world_fidelity.py`.

Shape legend: E episodes, T steps, c h w latent, H W pixels.
"""

import math

import torch
from torch import Tensor

from worldsim.core import STATE, TRUE_STATE
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
        `psnr_db_h*` of decoded frames, `copy_psnr_db_h*` of repeating the first frame, `progress_mae` and
        `success_accuracy` over all steps where the data has labels.
    """
    horizon = max(h for h in HORIZONS if h < held_out.longest)
    chosen = [i for i in held_out.indices if dataset.length(i) > horizon][:MOST]
    episodes = [dataset.episode(i) for i in chosen]
    if not episodes:
        return {}
    camera = dataset.cameras[0].key
    frames = torch.stack([torch.tensor(e.frames[camera][: horizon + 1]) for e in episodes])
    proprio = torch.stack([torch.tensor(e.proprio[0]) for e in episodes])
    actions = torch.stack([torch.tensor(e.action[:horizon]) for e in episodes])
    starts = {camera: frames[:, 0], STATE: proprio}
    if isinstance(world, StateWorld):
        starts[TRUE_STATE] = torch.stack([torch.tensor(e.true_state[0]) for e in episodes if e.true_state is not None])
    state = world.reset(starts, torch.tensor(chosen))
    _, rollout = world.rollout(state, actions)
    figures: dict[str, float] = {}
    for h in (h for h in HORIZONS if h <= horizon and not isinstance(world, StateWorld)):
        figures[f"psnr_db_h{h}"] = psnr_db(require_drawable(world).decode(rollout.latent[:, h - 1]), frames[:, h])
        figures[f"copy_psnr_db_h{h}"] = psnr_db(frames[:, 0], frames[:, h])
    success = torch.stack([torch.tensor(e.success[1 : horizon + 1]) for e in episodes])
    known = success.isfinite()
    if bool(known.any()):
        figures["success_accuracy"] = float(((rollout.success > 0.5) == (success > 0.5))[known].float().mean())
    progress = torch.stack([torch.tensor(e.progress[1 : horizon + 1]) for e in episodes])
    known = progress.isfinite()
    if bool(known.any()):
        figures["progress_mae"] = float((rollout.progress - progress).abs()[known].mean())
    return {k: round(v, 4) for k, v in figures.items()}


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of uint8 frames, in decibels."""
    mse = float((a.float() - b.float()).square().mean())
    return 10 * math.log10(255**2 / max(mse, 1e-6))
