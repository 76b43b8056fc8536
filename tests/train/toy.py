"""A tiny dataset of a disc that is steered and an L that it pushes along, written as users' datasets are."""

import dataclasses
from pathlib import Path

import numpy as np

from tests.tokenizers.scenes import SIZE, draw
from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, Camera
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.video import to_frames

ACTION = ActionSpec(names=("x", "y"), units=("px", "px"), low=(-3, -3), high=(3, 3), rate_hz=10)
SIDE = "observation.images.side"


def episode(seed: int, *, steps: int = 12) -> Episode:
    """Random steering; the L follows while the disc is near."""
    generator = np.random.default_rng(seed)
    pose = np.array([*generator.uniform(-10, 10, 2), generator.uniform(-3, 3)])
    spot = generator.uniform(-18, 18, 2)
    poses, spots, actions = [pose], [spot], []
    for _ in range(steps):
        action = generator.uniform(-3, 3, 2)
        near = np.hypot(*(spot - pose[:2])) < 11
        pose = np.clip(pose + near * np.array([*action, 0.0]), -15, 15)
        spot = np.clip(spot + action, -20, 20)
        poses.append(pose)
        spots.append(spot)
        actions.append(action)
    frames = to_frames(draw(np.stack(poses), np.stack(spots))).numpy()
    distance = np.hypot(*np.stack(poses)[:, :2].T)
    return Episode(
        frames={IMAGE: frames},
        proprio=np.stack(spots).astype(np.float32),
        action=np.stack(actions).astype(np.float32),
        success=(distance < 6).astype(np.float32),
        progress=np.clip(1 - distance / 25, 0, 1).astype(np.float32),
        reward=np.zeros(steps, np.float32),
        seed=seed,
    )


def spec() -> RecordSpec:
    """What its episodes have in common."""
    return RecordSpec(
        action=ACTION, cameras=(Camera(height=SIZE, width=SIZE),), proprio_dim=2, has_success=True, has_progress=True
    )


def write(path: Path, *, episodes: int = 60, sides: bool = False) -> Path:
    """Write the dataset; with `sides` a second camera sees the scene mirrored, and less of it."""
    layout = spec()
    if sides:
        second = Camera(height=SIZE - 8, width=SIZE, key=SIDE)
        layout = dataclasses.replace(layout, cameras=(*layout.cameras, second))
    with episode_writer(path, layout) as writer:
        for i in range(episodes):
            made = episode(i)
            frames = made.frames | ({SIDE: made.frames[IMAGE][:, 8:, ::-1]} if sides else {})
            writer.write(dataclasses.replace(made, frames=frames))
    return path
