"""Where the critic's frames come from: recorded videos, or latents that a world decodes on demand.

Only frames that are shown are decoded.

Shape legend: B episodes, T frames, F frames shown, H W image, c h w latent.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

Decode = Callable[[Tensor], Tensor]
"""latent [..., c, h, w] -> uint8 [..., H, W, 3], as `World.decode`."""


class FrameSource(Protocol):
    """Episodes, and any of their frames."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each episode."""

    @property
    def before(self) -> int:
        """Frames before the first step: 1 where an episode begins with its start."""

    def frames(self, rows: Sequence[int], numbers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Frames of some episodes by their numbers, uint8 [F, H, W, 3] each."""


class RecordedFrames:
    """Frames of recorded videos.

    Args:
        frames: uint8 [T, H, W, 3] of each episode; or one tensor [B, T, H, W, 3].

    Raises:
        InvalidInputError: None, or another shape or dtype; the episode is named.
    """

    before = 0

    def __init__(self, frames: Sequence[Tensor] | Tensor) -> None:
        self._frames = list(frames)
        for row, one in enumerate(self._frames):
            if one.ndim != 4 or one.shape[-1] != 3 or not all(one.shape) or one.dtype != torch.uint8:
                raise InvalidInputError(
                    f"Episode {row}: frames must be uint8 [T, H, W, 3]; got {one.dtype} {tuple(one.shape)}."
                )
        if not self._frames:
            raise InvalidInputError("The critic was given no episode to judge.")

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each episode."""
        return tuple(len(f) for f in self._frames)

    def frames(self, rows: Sequence[int], numbers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Frames by their numbers, uint8 [F, H, W, 3] each."""
        return [self._frames[r][list(n)] for r, n in zip(rows, numbers, strict=True)]


class DecodedFrames:
    """Latents, decoded on demand.

    Args:
        latent: [B, T, c, h, w].
        decode: Makes frames of latents, as `World.decode`.
        first: uint8 [B, H, W, 3], the frames before the first step, or None.

    Raises:
        InvalidInputError: Shapes that do not fit.
    """

    def __init__(self, latent: Tensor, decode: Decode, *, first: Tensor | None = None) -> None:
        if latent.ndim < 3 or not all(latent.shape):
            raise InvalidInputError(f"Expected latents [B, T, ...] of an episode at least; got {tuple(latent.shape)}.")
        if first is not None and (first.ndim != 4 or len(first) != len(latent) or first.dtype != torch.uint8):
            raise InvalidInputError(
                f"First frames must be uint8 [{len(latent)}, H, W, 3]; got {first.dtype} {tuple(first.shape)}."
            )
        self._latent, self._decode, self._first = latent, decode, first

    @property
    def before(self) -> int:
        """1 where the start's frame is known."""
        return 0 if self._first is None else 1

    @property
    def lengths(self) -> tuple[int, ...]:
        """Frames of each episode."""
        return (self._latent.shape[1] + self.before,) * len(self._latent)

    @torch.no_grad()
    def frames(self, rows: Sequence[int], numbers: Sequence[Sequence[int]]) -> list[Tensor]:
        """Frames by their numbers, uint8 [F, H, W, 3] each, decoded in one call."""
        which = torch.tensor(rows)
        step = (torch.tensor([list(n) for n in numbers]) - self.before).clamp_min(0)
        frames_BFHWC = self._decode(self._latent[which[:, None], step]).cpu()
        if self._first is not None:
            if frames_BFHWC.shape[2:] != self._first.shape[1:]:
                raise InvalidInputError(
                    f"The first frames are {tuple(self._first.shape[1:])}, those that the world decodes "
                    f"{tuple(frames_BFHWC.shape[2:])}. Give first frames of the world's size."
                )
            for place, (row, wanted) in enumerate(zip(rows, numbers, strict=True)):
                frames_BFHWC[place, [i for i, n in enumerate(wanted) if n == 0]] = self._first[row].cpu()
        return list(frames_BFHWC)
