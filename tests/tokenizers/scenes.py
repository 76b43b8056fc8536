"""Frames of flat coloured things at known poses, drawn by supersampling, independent of worldsim's own drawing."""

import numpy as np
import torch
from torch import Tensor

SIZE = 48
SCENE = np.array([0.84, 0.84, 0.84])
RED, BLUE = np.array([0.8, 0.2, 0.15]), np.array([0.1, 0.3, 0.8])


def draw(poses: np.ndarray, spots: np.ndarray, *, over: int = 4) -> Tensor:
    """An L-shaped thing at `poses` [N, 3] (x, y in pixels from the centre, angle) and a disc at `spots` [N, 2].

    Returns:
        Frames [N, 3, SIZE, SIZE] in [-1, 1].
    """
    axis = (np.arange(SIZE * over) + 0.5) / over - SIZE / 2
    px, py = np.meshgrid(axis, axis)
    frames = []
    for (x, y, angle), (u, v) in zip(poses, spots, strict=True):
        c, s = np.cos(angle), np.sin(angle)
        qx, qy = c * (px - x) + s * (py - y), c * (py - y) - s * (px - x)
        thing = ((np.abs(qx + 2) < 2) & (np.abs(qy) < 6)) | ((np.abs(qx - 2) < 6) & (np.abs(qy - 4) < 2))
        disc = (px - u) ** 2 + (py - v) ** 2 < 2.2**2
        image = np.broadcast_to(SCENE, (*px.shape, 3)).copy()
        image[thing], image[disc] = RED, BLUE
        frames.append(image.reshape(SIZE, over, SIZE, over, 3).mean((1, 3)))
    return torch.tensor(np.stack(frames), dtype=torch.float32).permute(0, 3, 1, 2) * 2 - 1


def sample(count: int, *, seed: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """Random frames, poses [N, 3] of the thing and spots [N, 2] of the disc, never overlapping."""
    generator = np.random.default_rng(seed)
    poses, spots = [], []
    while len(poses) < count:
        pose = np.array([*generator.uniform(-14, 14, 2), generator.uniform(-np.pi, np.pi)])
        spot = generator.uniform(-20, 20, 2)
        if np.hypot(*(pose[:2] - spot)) > 13:
            poses.append(pose)
            spots.append(spot)
    return draw(np.stack(poses), np.stack(spots)), np.stack(poses), np.stack(spots)
