"""A source prepared for asking: every video looked at once, small facts kept, frames fetched when they are shown.

Not for choosing clips (`worldsim.reason.windows`).

Shape legend: T frames, S pixels, A action, D numbers of a small look.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.reason.sources import Source
from worldsim.reason.video import Provenance, Video, fitted

Floats = NDArray[np.float32]
LOOK_PX = 8
"""Side of the small looks, by which clips are compared."""
COMPASS = ("E", "NE", "N", "NW", "W", "SW", "S", "SE")
Limits = tuple[tuple[float, float], tuple[float, float]]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Card:
    """What is remembered of a video."""

    origin: Provenance
    side_px: int  # the shorter side of its frames
    look: NDArray[np.uint8]  # [T, LOOK_PX, LOOK_PX, 3]
    change: Floats  # [T - 1], mean absolute change of a pixel, 0..1
    action: Floats | None  # [T - 1, A]
    place: Floats | None  # [T, 2], where the agent is: the first two numbers of proprio
    state: Floats | None  # [T, E]
    progress: Floats | None  # [T]
    success: float | None

    @property
    def frames(self) -> int:
        """How many frames T there are."""
        return len(self.look)


class Footage:
    """Videos of one source as tasks use them.

    Args:
        source: Any source; every video is read once here, so it must be readable (see `worldsim.reason.tolerant`).
        size: Side S of the frames that items show, in pixels.
        limits: Ends of the grid that read-outs use, for x and y; by default those of this footage. Give held-out
            footage the limits of the training footage.
        cache_mb: Frames kept in memory, in units of 2**20 bytes.

    Raises:
        InvalidInputError: The source is empty.
        WorldsimError: A video cannot be read.
    """

    def __init__(self, source: Source, *, size: int = 64, limits: Limits | None = None, cache_mb: int = 512) -> None:
        if not len(source) or size < LOOK_PX:
            raise InvalidInputError(
                f"Footage needs a video at least and size >= {LOOK_PX}; got {len(source)} videos and size={size}."
            )
        self.size = size
        self._source, self._room = source, cache_mb << 20
        self._kept: OrderedDict[tuple[int, int], Tensor] = OrderedDict()
        self.cards = tuple(self._card(i) for i in range(len(source)))
        self.limits = limits or self._range()

    def __len__(self) -> int:
        return len(self.cards)

    def frames(self, video: int, numbers: Sequence[int], *, size: int | None = None) -> Tensor:
        """Frames of a video by their numbers, uint8 [F, S, S, 3]."""
        side = size or self.size
        if (video, side) not in self._kept:
            self._keep(video, side, self._source.video(video))
        self._kept.move_to_end((video, side))
        return self._kept[video, side][list(numbers)]

    def readout(self, video: int, numbers: Sequence[int]) -> str:
        """Where object and agent are in some frames: a cell of a ten by ten grid each, as two digits.

        The object's place is the first two numbers of the true state; if the next two are a cosine and a sine, a third
        digit tells its heading in tenths of a turn. Empty where neither object nor agent is known.
        """
        card, parts = self.cards[video], []
        for name, place in (("object", card.state), ("agent", card.place)):
            if place is not None and place.shape[1] >= 2:
                cells = [self._cell(place[n]) + _heading(place[n]) for n in numbers]
                parts.append(f"{name} {' '.join(cells)}")
        return "; ".join(parts)

    def places(self, video: int, numbers: Sequence[int]) -> Tensor:
        """Where object and agent are in some frames, and how far the task has got: float32 [F, 5], each in about -1..1.

        Object x and y, agent x and y within `limits`, progress; nan where it is not known.
        """
        card, rows = self.cards[video], list(numbers)
        found = np.full((len(rows), 5), np.nan, np.float32)
        low, high = np.array(self.limits, np.float32).T
        for column, place in ((0, card.state), (2, card.place)):
            if place is not None and place.shape[1] >= 2:
                found[:, column : column + 2] = 2 * (place[rows, :2] - low) / np.maximum(high - low, 1e-9) - 1
        if card.progress is not None:
            found[:, 4] = 2 * card.progress[rows] - 1
        return torch.from_numpy(found)

    def course(self, video: int, numbers: Sequence[int]) -> str:
        """How far the task has got in some frames, in tenths; empty where it is not known."""
        progress = self.cards[video].progress
        if progress is None:
            return ""
        known = progress[list(numbers)]
        return f"progress {' '.join('-' if np.isnan(p) else str(min(9, max(0, int(10 * p)))) for p in known)}"

    def motion(self, video: int, numbers: Sequence[int]) -> str:
        """Which way the object goes in some frames and on which side of it the agent stands meanwhile, as compass points.

        North is the second number of a place growing. Empty where object or agent is not known.
        """
        card, rows = self.cards[video], list(numbers)
        if card.state is None or card.place is None or card.state.shape[1] < 2 or len(rows) < 2:
            return ""
        thing, agent = card.state[rows, :2], card.place[rows]
        step = np.diff(thing, axis=0)
        apart = ((agent - thing)[1:] + (agent - thing)[:-1]) / 2
        side = (apart * (np.linalg.norm(step, axis=1, keepdims=True) + 1e-9)).sum(axis=0)  # when it moves counts
        return f"object goes {compass(thing[-1] - thing[0])}; agent {compass(side)} of it"

    def stir(self) -> list[Floats]:
        """How much happens between frames, [T - 1] per video: change of the true state where all have one, else pixels.

        The state is what the task is about; the agent's own movement is not part of it.
        """
        states = [c.state for c in self.cards]
        if any(s is None for s in states):
            return [c.change for c in self.cards]
        known = [s for s in states if s is not None]
        spread = np.concatenate(known).std(axis=0) + 1e-6
        return [np.linalg.norm(np.diff(s, axis=0) / spread, axis=1).astype(np.float32) for s in known]

    def _card(self, index: int) -> Card:
        video = self._source.video(index)
        small = self._keep(index, self.size, video)
        change = (small[1:].float() - small[:-1].float()).abs().mean(dim=(1, 2, 3)) / 255
        proprio = video.proprio
        return Card(
            origin=video.provenance,
            side_px=min(video.frames.shape[1:3]),
            look=fitted(video.frames, LOOK_PX).numpy(),
            change=change.numpy(),
            action=_array(video.action),
            place=_array(None if proprio is None or proprio.shape[1] < 2 else proprio[:, :2]),
            state=_array(video.true_state),
            progress=_array(video.progress),
            success=video.success,
        )

    def _keep(self, index: int, side: int, video: Video) -> Tensor:
        frames = fitted(video.frames, side)
        self._kept[index, side] = frames
        while sum(f.numel() for f in self._kept.values()) > self._room and len(self._kept) > 1:
            self._kept.popitem(last=False)
        return frames

    def _range(self) -> Limits:
        """Ends of what object and agent cover together, x and y."""
        places = [p[:, :2] for c in self.cards for p in (c.state, c.place) if p is not None and p.shape[1] >= 2]
        if not places:
            return ((0.0, 1.0), (0.0, 1.0))
        low, high = np.concatenate(places).min(axis=0), np.concatenate(places).max(axis=0)
        return ((float(low[0]), float(high[0])), (float(low[1]), float(high[1])))

    def _cell(self, place: Floats) -> str:
        digits = []
        for value, (low, high) in zip(place[:2], self.limits, strict=True):
            share = (float(value) - low) / max(high - low, 1e-9)
            digits.append(str(min(max(int(share * 10), 0), 9)))
        return "".join(digits)


def compass(way: Floats) -> str:
    """The nearest of eight compass points of a direction [2]: east is the first number growing, north the second."""
    return COMPASS[round(float(np.arctan2(way[1], way[0])) / (2 * np.pi) * 8) % 8]


def _array(value: Tensor | None) -> Floats | None:
    return None if value is None else value.to(torch.float32).numpy()


def _heading(place: Floats) -> str:
    """The third digit: which tenth of a turn."""
    if len(place) < 4 or abs(float(np.hypot(place[2], place[3])) - 1) > 1e-2:
        return ""
    return str(int(np.arctan2(place[3], place[2]) / (2 * np.pi) * 10 % 10) % 10)
