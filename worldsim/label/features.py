"""A few numbers that describe each episode, so that episodes can be compared: of its frames, or of a world's latents.

Shape legend: N episodes, X numbers of frames or latents, D numbers that are kept, H W pixels, c h w latent.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from worldsim.arrays import Bytes, Float64s
from worldsim.core import STATE, Camera
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.progress import Progress, silent
from worldsim.worlds.latent import LatentWorld

KEPT = 16
"""D at most."""
_SIDE = 8
"""Frames are described by so many by so many mean colours, grids of latents by half as many."""
_FIRST = 0.5
"""Weight of an episode's first frame beside its last."""
_QUIET = 0.1
"""Numbers that vary less than so much of the most varying one stay small: noise."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Described:
    """What is known of the episodes of a dataset.

    Attributes:
        features_ND: [N, D].
        left_out: Episodes that were not looked at, with the reason.
    """

    features_ND: Float64s
    left_out: dict[int, str]


def describe_dataset(
    dataset: Dataset, *, world: LatentWorld | None = None, most: int, progress: Progress = silent
) -> Described:
    """Describe the episodes of a dataset.

    Args:
        dataset: With all its cameras.
        world: Describe them by its latents; None by colours of their frames.
        most: Episodes to look at; of more, evenly many are left out.
        progress: Called as it advances.

    Raises:
        InvalidInputError: No episode can be read, or the world has other cameras than the dataset.
    """
    look = _look_at_frames if world is None else _LookAtLatents(world, dataset.cameras)
    chosen = np.unique(np.linspace(0, dataset.episodes - 1, min(most, dataset.episodes)).round().astype(int)).tolist()
    left_out = {i: f"only {most} episodes are looked at" for i in set(range(dataset.episodes)) - set(chosen)}
    rows: dict[int, Float64s] = {}
    for done, index in enumerate(chosen):
        try:
            rows[index] = look(dataset.episode(index))
        except (StorageError, InvalidInputError) as error:
            left_out[index] = str(error)
        progress("episodes", done + 1, len(chosen), {})
    if not rows:
        raise InvalidInputError(f"No episode of {dataset.path} can be read. The first: {left_out[chosen[0]]}")
    reduced = reduce_numbers(np.stack(list(rows.values())))
    features_ND = np.zeros((dataset.episodes, reduced.shape[1]))
    features_ND[list(rows)] = reduced
    return Described(features_ND=features_ND, left_out=left_out)


def reduce_numbers(rows_N2X: Float64s) -> Float64s:
    """Bring numbers of the last and first frame, [N, 2, X], to comparable scales and keep the principal components, [N, D]."""
    scale_2X = rows_N2X.std(axis=0)
    scale_2X = np.maximum(scale_2X, _QUIET * scale_2X.max(initial=0.0))
    z_N2X = (rows_N2X - rows_N2X.mean(axis=0)) / np.where(scale_2X > 0, scale_2X, 1.0)
    z_N2X[:, 1] *= _FIRST
    u, s, _ = np.linalg.svd(z_N2X.reshape(len(z_N2X), -1), full_matrices=False)
    return np.asarray(u[:, :KEPT] * s[:KEPT])


def _look_at_frames(episode: Episode) -> Float64s:
    """Mean colours of parts of every camera's last and first frame, [2, X]."""
    return np.stack([np.concatenate([_colours(f[i]) for f in episode.frames.values()]) for i in (-1, 0)])


def _colours(frame_HWC: Bytes) -> Float64s:
    """Mean colours of parts of a frame uint8 [H, W, 3], [X]."""
    x_BCHW = torch.from_numpy(np.ascontiguousarray(frame_HWC)).permute(2, 0, 1)[None].float()
    return np.asarray(F.adaptive_avg_pool2d(x_BCHW, _SIDE).flatten().double().numpy())


class _LookAtLatents:
    """Latents of the last and the first frame, [2, X]."""

    def __init__(self, world: LatentWorld, cameras: Sequence[Camera]) -> None:
        if {c.key: c.size for c in world.spec.cameras}.items() - {c.key: c.size for c in cameras}.items():
            raise InvalidInputError(
                f"The world looks through {[c.key for c in world.spec.cameras]}, the dataset has {[c.key for c in cameras]}. "
                "Name a world of this data, or none."
            )
        self._world = world

    @torch.no_grad()
    def __call__(self, episode: Episode) -> Float64s:
        keys = [camera.key for camera in self._world.spec.cameras]
        ends = {key: torch.from_numpy(episode.frames[key][[-1, 0]]) for key in keys}
        z_BCHW = self._world.encode(ends | {STATE: torch.from_numpy(episode.proprio[[-1, 0]])})
        pooled = F.adaptive_avg_pool2d(z_BCHW, _SIDE // 2) if z_BCHW.shape[-1] > _SIDE // 2 else z_BCHW
        return np.asarray(pooled.flatten(1).double().numpy())
