"""Measures where the block is in a picture of the pushing task, without asking the world that drew it.

The template comes from the simulator, not from any world: the same meter reads true frames (its own floor is reported)
and frames of every predictor, sharp or blurred.

Shape legend: N frames, H W pixels.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.envs.push.env import PushEnv
from worldsim.envs.push.scene import VIEW_M
from worldsim.tokenizers.layers.registration import Aligner, centroid, coarse_angle, coverage, crop
from worldsim.video import to_model

SIDE_PX = 23


class PushMeter:
    """Reads block poses from frames by template registration."""

    def __init__(self) -> None:
        """Draw the template and the empty scene in the simulator."""
        env = PushEnv()
        empty = self._frame(env, block=(0.6, 0.6, 0.0), pusher=(0.6, -0.6))
        views = []
        for dx in np.linspace(-0.005, 0.005, 5):
            for dy in np.linspace(-0.005, 0.005, 5):
                frame = self._frame(env, block=(0.15 + dx, 0.15 + dy, 0.0), pusher=(0.6, -0.6))
                a_NHW = coverage(frame, empty[0], self._color(frame))
                pose = torch.tensor([[(0.15 + dx) * 64 / VIEW_M, -(0.15 + dy) * 64 / VIEW_M, 0.0]], dtype=torch.float32)
                views.append(crop(a_NHW[:, None], pose, SIDE_PX)[0, 0])
        self._template = torch.stack(views).mean(0)
        self._empty = empty[0]
        self._red = self._color(self._frame(env, block=(0.15, 0.15, 0.0), pusher=(0.6, -0.6)))
        self._aligner = Aligner(self._template, round_layer=False)

    @staticmethod
    def _frame(env: PushEnv, *, block: tuple[float, float, float], pusher: tuple[float, float]) -> Tensor:
        """One frame [1, 3, H, W] in [-1, 1] of a given configuration."""
        env.reset(seed=0)
        env.place(block=block, pusher=pusher)
        return to_model(torch.from_numpy(env.pixels())[None])

    @staticmethod
    def _color(frame_NCHW: Tensor) -> Tensor:
        """The reddest pixel's colour."""
        flat = frame_NCHW[0].flatten(1)
        return flat[:, (flat[0] - flat[1]).argmax()]

    def read(self, frames: Tensor) -> Tensor:
        """Poses of the block: uint8 [N, H, W, 3] -> x, y in metres and yaw in radians, [N, 3]; nan where no block is seen."""
        x_NCHW = to_model(frames)
        a_NHW = coverage(x_NCHW, self._empty, self._red, tolerance=0.6)
        center, mass = centroid(a_NHW)
        patch = crop(a_NHW[:, None], F.pad(center, (0, 1)), SIDE_PX)[:, 0]
        angle, _ = coarse_angle(patch, self._template)
        pose = self._aligner.refine(a_NHW, torch.cat([center, angle[:, None]], dim=1))
        x, y = pose[:, 0] * VIEW_M / 64, -pose[:, 1] * VIEW_M / 64
        read = torch.stack([x, y, -pose[:, 2]], dim=1)
        return torch.where((mass > 0.2 * self._template.sum())[:, None], read, torch.full_like(read, math.nan))


def turn_deg(a_rad: Tensor, b_rad: Tensor) -> Tensor:
    """Absolute difference of angles in degrees, 0..180."""
    return torch.rad2deg((torch.remainder(a_rad - b_rad + math.pi, 2 * math.pi) - math.pi).abs())
