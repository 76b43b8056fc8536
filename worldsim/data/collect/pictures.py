"""Pictures of an environment as uint8 RGB, by rules that are stated here or refused by name, and brought to a size.

Read are RGB [H, W, 3], gray [H, W] and [H, W, 1], both also with the channels first; of uint8, or of floats whose space
goes from 0 to 1 or from 0 to 255. Refused are other numbers (depth maps), four channels and stacks of frames.

Shape legend: H W image.
"""

import dataclasses
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from worldsim.arrays import Bytes
from worldsim.errors import InvalidInputError

ImageSize = int | tuple[int, int]
"""Side of a square, or height and width, px."""
_SMALLEST_PX = 8
"""Arrays of floats with shorter sides than this are numbers, unless they are called pixels."""


def rgb(value: Any, *, name: str, space: spaces.Space[Any] | None = None) -> Bytes:
    """A picture as its caller's own uint8 [H, W, 3].

    Args:
        value: What the environment gave.
        name: Of the camera, for errors.
        space: Its space, where known; it tells how floats are scaled.

    Raises:
        InvalidInputError: It is no picture of a kind that is read.
    """
    array = np.asarray(value)
    channels_last = _channels_last(array)
    scale = _scale(array.dtype, space)
    if channels_last is None or scale is None:
        raise InvalidInputError(
            f"Camera {name!r} gives {array.dtype} {array.shape}, which is read neither as RGB nor as gray. Expected uint8 "
            "[H, W, 3], [H, W, 1] or [H, W], or floats in a Box from 0 to 1 or 0 to 255; depth maps, four channels and "
            "stacks of frames are not pictures. Wrap the environment (gymnasium.wrappers.TransformObservation), or make it "
            'with obs_type="pixels_agent_pos" or render_mode="rgb_array".'
        )
    if array.dtype != np.uint8:
        channels_last = np.rint(np.clip(channels_last * scale, 0, 255)).astype(np.uint8)
    return np.array(np.broadcast_to(channels_last, (*channels_last.shape[:2], 3)))


def looks_like_picture(value: Any, space: spaces.Space[Any] | None) -> bool:
    """Whether an entry that is not called pixels is a picture all the same: by its type, its axes and its space."""
    if not isinstance(value, np.ndarray) or value.ndim not in (2, 3, 4):
        return False
    if value.dtype == np.uint8:
        full = not isinstance(space, spaces.Box) or float(space.high.max(initial=0)) == 255
        return full or (value.ndim == 3 and value.shape[-1] == 3)
    large = min(value.shape[:2] if value.shape[-1] == 3 else value.shape[-2:]) >= _SMALLEST_PX
    return value.ndim == 3 and large and _channels_last(value) is not None and _scale(value.dtype, space) is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """How a frame is brought to a size: its aspect is kept, what is missing is filled with black on both sides.

    Attributes:
        source: H, W that the environment gives, px.
        inner: H, W to which the frame is scaled, px.
        target: H, W of the result, px.
    """

    source: tuple[int, int]
    inner: tuple[int, int]
    target: tuple[int, int]

    @classmethod
    def of(cls, source: tuple[int, int], size: ImageSize | None) -> "Fit":
        """How a frame of H, W `source` px fits into `size`; None leaves it."""
        target = source if size is None else (size, size) if isinstance(size, int) else size
        scale = min(t / s for t, s in zip(target, source, strict=True))
        inner = [max(1, min(t, round(s * scale))) for s, t in zip(source, target, strict=True)]
        return cls(source=source, inner=(inner[0], inner[1]), target=target)

    def __call__(self, frame: Bytes) -> Bytes:
        """uint8 [H, W, 3] of the source size -> the target size, by area averaging; the frame itself where it fits."""
        if self.source == self.target:
            return frame
        if self.inner != self.source:
            frame = np.array(Image.fromarray(frame).resize(self.inner[::-1], Image.Resampling.BOX))
        if self.inner == self.target:
            return frame
        top, left = ((t - i) // 2 for t, i in zip(self.target, self.inner, strict=True))
        padded = np.zeros((*self.target, 3), np.uint8)
        padded[top : top + self.inner[0], left : left + self.inner[1]] = frame
        return padded

    def __str__(self) -> str:
        """For people: sizes as height x width."""
        source, inner, target = (f"{h}x{w}" for h, w in (self.source, self.inner, self.target))
        if source == target:
            return source
        return f"{source} scaled to {inner}" + ("" if inner == target else f" and padded with black to {target}")


def _channels_last(array: NDArray[Any]) -> NDArray[Any] | None:
    """A view of a picture as [H, W, 3] or [H, W, 1]; None if it has no such axes."""
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        return None
    if array.shape[-1] in (1, 3):
        return array
    return np.moveaxis(array, 0, -1) if array.shape[0] in (1, 3) else None


def _scale(kind: np.dtype[Any], space: spaces.Space[Any] | None) -> float | None:
    """What values of a type are multiplied by to lie in 0..255; None if nothing says so."""
    if kind == np.uint8:
        return 1.0
    if kind.kind != "f" or not isinstance(space, spaces.Box):
        return None
    limits = float(space.low.min(initial=0)), float(space.high.max(initial=0))
    return {(0.0, 1.0): 255.0, (0.0, 255.0): 1.0}.get(limits)
