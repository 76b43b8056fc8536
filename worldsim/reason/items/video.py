"""One video as the critic's tasks see it: frames, and whatever else is known about what happened.

A dataset names its task, and `LAYOUTS` says where the vectors of a known task hold the places of agent and object and the
agent's motion. Another task is served by giving its layout (``items.layout.agent=[0,1]``, `StateLayout`); without one its
frames are not described, and questions that need places or directions are refused.

Shape legend: T frames, H W image, A action, P proprio, E true state.
"""

import dataclasses
import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class StateLayout:
    """Column numbers, two each, x (growing to the right of the picture) then y (growing up); empty where unknown.

    Attributes:
        agent: Columns of the proprioception with the agent's place.
        object: Columns of the true state with the place of the object that the task is about.
        heading: Columns of the true state with cosine and sine of the object's heading.
        action: Columns of the action that move the agent along x and y.

    Raises:
        InvalidInputError: Not two different column numbers from 0 on.
    """

    agent: tuple[int, ...] = ()
    object: tuple[int, ...] = ()
    heading: tuple[int, ...] = ()
    action: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            columns = getattr(self, field.name)
            if columns and (len(columns) != 2 or columns[0] == columns[1] or min(columns) < 0):
                raise InvalidInputError(
                    f"A layout names two different columns from 0 on, or none; got {field.name}={columns}."
                )


LAYOUTS = {"worldsim/Push-v0": StateLayout(agent=(0, 1), object=(0, 1), heading=(2, 3), action=(0, 1))}
"""Layouts of known tasks by their Gymnasium id."""


def layout_of(task_id: str) -> StateLayout:
    """The layout of a task; an empty one where it is not known."""
    return LAYOUTS.get(task_id, StateLayout())


Kind = Literal["simulator", "dataset", "dream", "file"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a video came from.

    Attributes:
        kind: What made the pixels: a simulator or camera, or a world model ("dream").
        episode: Name of the episode within its source, for example a file name or a number.
        seed: What its start was drawn from; -1 where it is not known.
        policy: What chose the actions; empty where it is not known.
        rate_hz: Frames per second of the video; 0 where unknown, it is never guessed.
    """

    kind: Kind
    episode: str
    seed: int = -1
    policy: str = ""
    rate_hz: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Video:
    """T frames in a row; `action[t]` leads from frame t to t + 1.

    Attributes:
        frames: uint8 [T, H, W, 3], T >= 2.
        provenance: Where it came from.
        action: float32 [T - 1, A], physical units, or None.
        proprio: float32 [T, P], physical units, or None.
        true_state: float32 [T, E], or None.
        progress: float32 [T], 0..1, nan where it is not known; or None.
        success: Probability in 0..1 that the task was solved, or None where unknown.
        layout: Which columns of proprio, true state and action say where things are.

    Raises:
        InvalidInputError: A field has another shape or dtype, or lacks a column of the layout; the episode is named.
    """

    frames: Tensor
    provenance: Provenance
    action: Tensor | None = None
    proprio: Tensor | None = None
    true_state: Tensor | None = None
    progress: Tensor | None = None
    success: float | None = None
    layout: StateLayout = dataclasses.field(default_factory=StateLayout)

    def __post_init__(self) -> None:
        shape, name = tuple(self.frames.shape), self.provenance.episode
        if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[-1] != 3 or shape[0] < 2 or not all(shape):
            raise InvalidInputError(
                f"Video {name}: frames must be uint8 [T, H, W, 3] with T >= 2; got {self.frames.dtype} {shape}. "
                "Leave it out, or wrap the source in `skip_unreadable`."
            )
        rows = shape[0]
        for field, length in (("action", rows - 1), ("proprio", rows), ("true_state", rows), ("progress", rows)):
            value = getattr(self, field)
            axes = 1 if field == "progress" else 2
            if value is not None and (value.ndim != axes or len(value) != length):
                raise InvalidInputError(
                    f"Video {name}: {field} must have {length} rows and {axes} axes; got {tuple(value.shape)}."
                )
        for part, field in (
            ("agent", "proprio"),
            ("object", "true_state"),
            ("heading", "true_state"),
            ("action", "action"),
        ):
            columns, value = getattr(self.layout, part), getattr(self, field)
            if columns and value is not None and max(columns) >= value.shape[1]:
                raise InvalidInputError(
                    f"Video {name}: the layout's {part} is in columns {columns} of {field}, which has {value.shape[1]}. "
                    "Give the layout of this task."
                )
        if self.success is not None and not (math.isfinite(self.success) and 0 <= self.success <= 1):
            raise InvalidInputError(f"Video {name}: success must be in 0..1 or None; got {self.success}.")

    def __len__(self) -> int:
        """Number of frames T."""
        return int(self.frames.shape[0])


def resize_frames(frames_THWC: Tensor, size: int) -> Tensor:
    """Frames of any size as squares of `size` pixels: uint8 [T, H, W, 3] -> uint8 [T, size, size, 3].

    Shrinks by averaging areas and enlarges by repeating pixels, each side on its own.
    """
    height, width = frames_THWC.shape[1:3]
    if (height, width) == (size, size):
        return frames_THWC
    x_TCHW = frames_THWC.movedim(-1, 1).float()
    x_TCHW = F.interpolate(x_TCHW, (min(size, height), min(size, width)), mode="area")
    x_TCHW = F.interpolate(x_TCHW, (size, size), mode="nearest-exact")
    return x_TCHW.round().to(torch.uint8).movedim(1, -1).contiguous()


def spread_frames(count: int, frames: int) -> tuple[int, ...]:
    """`frames` frame numbers over `count` frames, first and last included; repeated where there are fewer."""
    return tuple(np.linspace(0, count - 1, frames).round().astype(int).tolist())
