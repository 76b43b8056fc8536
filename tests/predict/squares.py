"""Latent clips of a bright square that an action pushes about, made without worldsim's models."""

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.data.windows import Clip
from worldsim.predict.base import History

SHAPE = (4, 8, 8)


def squares(batch: int, time: int, *, seed: int) -> Clip:
    """A soft square in channel 0 moves by the action (cells per step); channel 1 is its mirror image, the others are flat."""
    generator = torch.Generator().manual_seed(seed)
    action = torch.rand(batch, time, 2, generator=generator) * 2 - 1
    place = torch.rand(batch, 1, 2, generator=generator) * 2 - 1 + 3.5
    shift = F.pad(action[:, :-1].cumsum(1), (0, 0, 1, 0))
    place_BT2 = (place + shift).clamp(0, 7)
    axis = torch.arange(8.0)
    x = (1.5 - (axis - place_BT2[..., :1]).abs()).clamp(0, 1)
    y = (1.5 - (axis - place_BT2[..., 1:]).abs()).clamp(0, 1)
    z = torch.zeros(batch, time, *SHAPE)
    z[:, :, 0] = y[..., :, None] * x[..., None, :]
    z[:, :, 1] = -z[:, :, 0]
    nothing = torch.full((batch, time), torch.nan)
    return Clip(
        z_BTCHW=z, proprio_BTP=place_BT2, action_BTA=action, progress_BT=nothing, success_BT=nothing, start_BCHW=z[:, 0]
    )


def train(predictor: torch.nn.Module, *, steps: int, unroll: int, lr: float, batch: int = 32) -> list[float]:
    """Adam on fresh squares; the losses."""
    predictor.calibrate(squares(256, 3, seed=0))
    optimizer = torch.optim.Adam(predictor.parameters(), lr=lr)
    generator, losses = torch.Generator().manual_seed(0), []
    for step in range(steps):
        loss, _ = predictor.loss(squares(batch, 2 + unroll, seed=step + 1), unroll, generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def rollout_error(predictor: torch.nn.Module, *, horizon: int, noise: Tensor | None = None) -> tuple[float, float]:
    """Mean squared error after `horizon` of its own steps on held-out squares, and that of copying the last frame."""
    clip = squares(64, 2 + horizon, seed=10_000)
    z = clip.z_BTCHW[:, :2]
    with torch.no_grad():
        for h in range(horizon):
            e = (
                None
                if predictor.noise_shape is None
                else torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(h))
            )
            past = History.at(clip, h, z)
            z = past.followed_by(predictor.predict(past, e)[0]).z
    last = clip.z_BTCHW[:, 1 + horizon]
    return float((z[:, -1] - last).square().mean()), float((clip.z_BTCHW[:, 1] - last).square().mean())
