"""A source prepared for questions: every video read once, small facts kept, frames fetched when they are shown.

Shape legend: T frames, F frames shown, S pixels, A action, E true state.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldsim.arrays import Bytes, Float32s
from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import FrameFacts
from worldsim.reason.items.sources import Source
from worldsim.reason.items.video import Provenance, Video, resize_frames

THUMBNAIL_PX = 8
"""Side of the thumbnails by which clips are compared."""
COMPASS = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")
Limits = tuple[tuple[float, float], tuple[float, float]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class VideoSummary:
    """What is kept of a video. Places are None where the video's layout does not name their columns."""

    provenance: Provenance
    side_px: int  # the shorter side of its frames
    thumbnails: Bytes  # [T, THUMBNAIL_PX, THUMBNAIL_PX, 3]
    change: Float32s  # [T - 1], mean absolute change of a pixel, 0..1
    action_xy: Float32s | None  # [T - 1, 2], what moves the agent
    agent_xy: Float32s | None  # [T, 2]
    object_xy: Float32s | None  # [T, 2]
    heading: Float32s | None  # [T, 2], cosine and sine
    state: Float32s | None  # [T, E]
    progress: Float32s | None  # [T]
    success: float | None

    @property
    def frames(self) -> int:
        """How many frames T there are."""
        return len(self.thumbnails)


class Footage:
    """Videos of one source as tasks use them.

    Args:
        source: Any source; every video is read once here, so it must be readable (see
            `worldsim.reason.items.sources.skip_unreadable`).
        size: Side S of the frames that items show, in pixels.
        limits: Ends of the grid in which places are described, for x and y; by default those of this footage. Give
            held-out footage the limits of the training footage.
        cache_mb: Frames kept in memory, in units of 2**20 bytes.

    Raises:
        InvalidInputError: The source is empty.
        WorldsimError: A video cannot be read.
    """

    def __init__(self, source: Source, *, size: int = 64, limits: Limits | None = None, cache_mb: int = 512) -> None:
        if not len(source) or size < THUMBNAIL_PX:
            raise InvalidInputError(
                f"Footage needs a video at least and size >= {THUMBNAIL_PX}; got {len(source)} videos and size={size}."
            )
        self.size = size
        self._source, self._room = source, cache_mb << 20
        self._kept: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self.summaries = tuple(self._summarise(i) for i in range(len(source)))
        self.limits = limits or self._limits()

    def __len__(self) -> int:
        return len(self.summaries)

    def frames(self, video: int, numbers: Sequence[int], *, size: int | None = None) -> Tensor:
        """Frames of a video by their numbers, uint8 [F, S, S, 3]."""
        side = size or self.size
        if (video, side) not in self._kept:
            self._keep(video, side, self._source.video(video))
        self._kept.move_to_end((video, side))
        return self._kept[video, side][list(numbers)]

    def describe_places(self, video: int, numbers: Sequence[int]) -> str:
        """Where object and agent are in some frames: a cell of a ten by ten grid each, as two digits.

        Where the object's heading is known, a third digit gives it in tenths of a turn. Empty where neither object nor
        agent is known.
        """
        about, parts = self.summaries[video], []
        if about.object_xy is not None:
            heading = about.heading
            turns = ["" if heading is None else _tenth_of_turn(heading[n]) for n in numbers]
            cells = [self._cell(about.object_xy[n]) + turn for n, turn in zip(numbers, turns, strict=True)]
            parts.append(f"object {' '.join(cells)}")
        if about.agent_xy is not None:
            parts.append(f"agent {' '.join(self._cell(about.agent_xy[n]) for n in numbers)}")
        return "; ".join(parts)

    def describe_progress(self, video: int, numbers: Sequence[int]) -> str:
        """How far the task has got in some frames, in tenths; empty where it is not known."""
        progress = self.summaries[video].progress
        if progress is None:
            return ""
        known = progress[list(numbers)]
        return f"progress {' '.join('-' if np.isnan(p) else str(min(9, max(0, int(10 * p)))) for p in known)}"

    def describe_motion(self, video: int, numbers: Sequence[int]) -> str:
        """Which way the object goes in some frames and on which side of it the agent is meanwhile, as compass points.

        North is the second number of a place growing. Empty where object or agent is not known.
        """
        about, rows = self.summaries[video], list(numbers)
        if about.object_xy is None or about.agent_xy is None or len(rows) < 2:
            return ""
        thing, agent = about.object_xy[rows], about.agent_xy[rows]
        step = np.diff(thing, axis=0)
        apart = ((agent - thing)[1:] + (agent - thing)[:-1]) / 2
        side = (apart * (np.linalg.norm(step, axis=1, keepdims=True) + 1e-9)).sum(axis=0)  # when it moves counts
        return f"object goes {compass_point(thing[-1] - thing[0])}; agent {compass_point(side)} of it"

    def frame_facts(self, video: int, numbers: Sequence[int]) -> FrameFacts:
        """Where object and agent are in some frames, and how far the task has got: float32 [F, 5], each in about -1..1.

        Object x and y, agent x and y within `limits`, progress; nan where it is not known.
        """
        about, rows = self.summaries[video], list(numbers)
        found = np.full((len(rows), 5), np.nan, np.float32)
        low, high = np.array(self.limits, np.float32).T
        for column, place in ((0, about.object_xy), (2, about.agent_xy)):
            if place is not None:
                found[:, column : column + 2] = 2 * (place[rows] - low) / np.maximum(high - low, 1e-9) - 1
        if about.progress is not None:
            found[:, 4] = 2 * about.progress[rows] - 1
        return FrameFacts(numbers=torch.from_numpy(found))

    def activity(self) -> list[Float32s]:
        """How much happens between frames, [T - 1] per video: change of the true state where all have one, else pixels.

        The state is what the task is about; the agent's own movement is not part of it.
        """
        states = [s.state for s in self.summaries]
        if any(s is None for s in states):
            return [s.change for s in self.summaries]
        known = [s for s in states if s is not None]
        spread = np.concatenate(known).std(axis=0) + 1e-6
        return [np.linalg.norm(np.diff(s, axis=0) / spread, axis=1).astype(np.float32) for s in known]

    def _summarise(self, index: int) -> VideoSummary:
        video = self._source.video(index)
        small = self._keep(index, self.size, video)
        change = (small[1:].float() - small[:-1].float()).abs().mean(dim=(1, 2, 3)) / 255
        layout = video.layout
        return VideoSummary(
            provenance=video.provenance,
            side_px=min(video.frames.shape[1:3]),
            thumbnails=resize_frames(video.frames, THUMBNAIL_PX).numpy(),
            change=change.numpy(),
            action_xy=_columns(video.action, layout.action),
            agent_xy=_columns(video.proprio, layout.agent),
            object_xy=_columns(video.true_state, layout.object),
            heading=_columns(video.true_state, layout.heading),
            state=None if video.true_state is None else video.true_state.to(torch.float32).numpy(),
            progress=None if video.progress is None else video.progress.to(torch.float32).numpy(),
            success=video.success,
        )

    def _keep(self, index: int, side: int, video: Video) -> Tensor:
        frames = resize_frames(video.frames, side)
        self._kept[index, side] = frames
        while sum(f.numel() for f in self._kept.values()) > self._room and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return frames

    def _limits(self) -> Limits:
        """Ends of what object and agent cover together, x and y."""
        places = [p for s in self.summaries for p in (s.object_xy, s.agent_xy) if p is not None]
        if not places:
            return ((0.0, 1.0), (0.0, 1.0))
        low, high = np.concatenate(places).min(axis=0), np.concatenate(places).max(axis=0)
        return ((float(low[0]), float(high[0])), (float(low[1]), float(high[1])))

    def _cell(self, place: Float32s) -> str:
        digits = []
        for value, (low, high) in zip(place, self.limits, strict=True):
            share = (float(value) - low) / max(high - low, 1e-9)
            digits.append(str(min(max(int(share * 10), 0), 9)))
        return "".join(digits)


def compass_point(direction: Float32s) -> str:
    """The nearest of eight compass points of a direction [2]: east is the first number growing, north the second."""
    return COMPASS[round(float(np.arctan2(direction[1], direction[0])) / (2 * np.pi) * 8) % 8]


def _columns(value: Tensor | None, columns: Sequence[int]) -> Float32s | None:
    """Two columns as float32 [T, 2]; None where there is no value or no layout for it."""
    if value is None or not columns:
        return None
    return np.ascontiguousarray(value.to(torch.float32).numpy()[:, list(columns)])


def _tenth_of_turn(heading: Float32s) -> str:
    """Tenth of a turn, one digit, of cosine and sine [2]; empty where these are none."""
    if abs(float(np.hypot(heading[0], heading[1])) - 1) > 1e-2:
        return ""
    return str(int(np.arctan2(heading[1], heading[0]) / (2 * np.pi) * 10 % 10) % 10)
