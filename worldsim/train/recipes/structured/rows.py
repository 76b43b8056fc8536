"""Frames with the proprioception of the same moments, which the pictures of a structured world are learned from.

Shape legend: N rows, P proprio, S canvas code, H W frame.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.tokenizers.structured.actor import Actor

MOST_BYTES = 400_000_000
_AT_ONCE = 100


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameRows:
    """Moments of many episodes.

    Attributes:
        frames_NCHW: uint8 [N, 3, H, W].
        proprio_NP: [N, P], physical units.
        episode_N: Which episode each is of, int64 [N]; None where that is not known.
        later_NP: Proprioception one step later [N, P], the same at the end of an episode; None where rows are no sequences.
    """

    frames_NCHW: Tensor
    proprio_NP: Tensor
    later_NP: Tensor | None = None
    episode_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.frames_NCHW)

    def frames(self, rows: Tensor | slice) -> Tensor:
        """Frames [n, 3, H, W] in 0..1 at int64 [n] or a slice."""
        return self.frames_NCHW[rows].float() / 255

    def describe(self, actor: Actor) -> Tensor:
        """What everything but things is drawn from at every row, [N, P + S]; see `Actor.describe`."""
        parts = zip(torch.arange(len(self)).split(_AT_ONCE), self.proprio_NP.split(_AT_ONCE), strict=True)
        return torch.cat([actor.describe(self.frames(at), proprio) for at, proprio in parts])

    def first(self, count: int) -> "FrameRows":
        """The first rows, which are an even sample as well."""
        later, episode = self.later_NP, self.episode_N
        return FrameRows(
            frames_NCHW=self.frames_NCHW[:count],
            proprio_NP=self.proprio_NP[:count],
            later_NP=None if later is None else later[:count],
            episode_N=None if episode is None else episode[:count],
        )

    def draw(self, size: int, *, seed: int, step: int) -> Tensor:
        """The rows of a batch, int64 [B], as a function of seed and step."""
        generator = torch.Generator().manual_seed((seed * 1_000_003 + step) & 0x7FFFFFFF)
        return torch.randint(len(self), (size,), generator=generator)


def sample_rows(dataset: Dataset, key: str, episodes: Sequence[int], *, most: int, seed: int) -> FrameRows:
    """An even sample of moments over episodes, as one camera sees them.

    Args:
        dataset: What is learned from.
        key: Of the camera.
        episodes: Which.
        most: Rows, at most; fewer where frames are large.
        seed: Of the choice.

    Raises:
        InvalidInputError: None can be read.
    """
    (camera,) = (c for c in dataset.cameras if c.key == key)
    most = min(most, MOST_BYTES // (3 * camera.height * camera.width))
    each = max(1, -(-most // len(episodes)))
    generator = torch.Generator().manual_seed(seed)
    frames, proprio, later, number = list[Tensor](), list[Tensor](), list[Tensor](), list[Tensor]()
    for index in episodes:
        try:
            episode = dataset.episode(index)
        except (StorageError, InvalidInputError):
            continue  # encoding counts and names them
        rows = torch.randperm(episode.steps + 1, generator=generator)[:each].sort().values
        frames.append(torch.tensor(episode.frames[key])[rows].movedim(-1, 1))
        proprio.append(torch.tensor(episode.proprio)[rows])
        later.append(torch.tensor(episode.proprio)[(rows + 1).clamp_max(episode.steps)])
        number.append(torch.full_like(rows, index))
    if not frames:
        raise InvalidInputError(f"None of the {len(episodes)} episodes to learn from, or to measure on, can be read.")
    order = torch.randperm(sum(map(len, frames)), generator=generator)[:most]
    return FrameRows(
        frames_NCHW=torch.cat(frames)[order].contiguous(),
        proprio_NP=torch.cat(proprio)[order],
        later_NP=torch.cat(later)[order],
        episode_N=torch.cat(number)[order],
    )
