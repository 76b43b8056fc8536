"""What a critic learns from and is examined on: items of several tasks over one dataset, held-out videos apart.

Not for making items (`worldsim.reason.tasks`) or for training.
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from worldsim.errors import InvalidInputError, unknown_name
from worldsim.reason.footage import Footage
from worldsim.reason.item import Item
from worldsim.reason.mixture import Mixture
from worldsim.reason.sources import DatasetVideos, FolderVideos, Joined, Source, thinned, tolerant
from worldsim.reason.split import By, split
from worldsim.reason.tasks.base import Items
from worldsim.reason.tasks.registry import TASKS

Colour = tuple[float, float, float]
_FAINT = 0.02
"""Smallest deviation of a colour that counts, so that noise of a still scene is not blown up."""
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedItems:
    """Which tasks are asked about which videos.

    Attributes:
        tasks: Names of tasks.
        weights: How much of each, in any unit; equal by default.
        options: Settings of tasks by name, for example ``{"arrow": {"stride": 3}}``.
        videos: Most videos to learn from, held-out ones aside; 0 stands for all. Frames of all of them are kept in memory.
        held_out: Most videos to examine on.
        by: What training and held-out videos must not share: episode, seed or policy.
        share: Of the groups, to hold out.
        exam: Held-out items of each task at the end.
        glance: Held-out items of each task at evaluations on the way.
        bad_share: Most videos that may be unreadable, as a share of all; they are skipped and counted.
        cache_mb: Memory for frames, in units of 2**20 bytes, of training and held-out videos each.

    Raises:
        InvalidInputError: No task, one twice, or a number out of range.
        UnknownNameError: There is no such way to part videos.
    """

    tasks: tuple[str, ...] = ("arrow", "puzzle", "permanence")
    weights: tuple[float, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    videos: int = 0
    held_out: int = 400
    by: By = "episode"
    share: float = 0.2
    exam: int = 512
    glance: int = 96
    bad_share: float = 0.05
    cache_mb: int = 2048

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise InvalidInputError(f"tasks must not be empty or repeat itself; got {self.tasks}.")
        if self.videos < 0 or min(self.held_out, self.exam, self.glance) < 1:
            raise InvalidInputError("videos must be >= 0, held_out, exam and glance >= 1.")
        if self.by not in ("episode", "seed", "policy"):
            raise unknown_name("way to part videos", self.by, ("episode", "seed", "policy"))
        stray = sorted(set(self.options) - set(self.tasks))
        if stray:
            raise InvalidInputError(f"options are given for {stray}, which are not among the tasks {self.tasks}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lessons:
    """Prepared videos of both sides.

    Attributes:
        train: To learn from.
        held: To examine on.
        asked: Which tasks are asked.
        seed: Of the items.
        bad: What was skipped, and why.
    """

    train: Footage
    held: Footage
    asked: AskedItems
    seed: int
    bad: tuple[str, ...]

    def to_learn(self, count: int) -> Mixture:
        """Training items, mixed.

        Raises:
            UnknownNameError: No such task.
            InvalidInputError: The videos lack what a task is about.
        """
        parts = self._parts(self.train, count, "train")
        return Mixture(parts, weights=self.asked.weights or None, count=count, seed=self.seed)

    def to_examine(self, each: int) -> list[Item]:
        """The first held-out items of every task; the same whatever the training, so that runs compare."""
        return [item for part in self._parts(self.held, each, "held") for item in part]

    def texts(self, count: int = 600) -> list[str]:
        """Prompts and replies of some training items, for a tokenizer."""
        return [text for item in self.to_learn(count) for text in (item.prompt, item.completion)]

    def pixels(self, count: int = 200) -> tuple[Colour, Colour]:
        """Mean and deviation of each colour, 0..1, over the frames of some training items."""
        return colours(self.to_learn(count))

    def _parts(self, footage: Footage, count: int, side: str) -> list[Items]:
        seed = self.seed if side == "train" else 0
        built = [TASKS.build(name, self.asked.options.get(name, {})) for name in self.asked.tasks]
        return [Items(task, footage, count=count, seed=seed, split=side) for task in built]


def colours(items: Sequence[Item]) -> tuple[Colour, Colour]:
    """Mean and deviation of each colour, 0..1, over the frames of items of one size."""
    shown = torch.cat([item.frames for item in items]).float() / 255
    mean, deviation = shown.mean(dim=(0, 1, 2)), shown.std(dim=(0, 1, 2)).clamp(min=_FAINT)
    return _colour(mean), _colour(deviation)


def _colour(value_C: torch.Tensor) -> Colour:
    red, green, blue = value_C.tolist()
    return red, green, blue


def lessons(data: str | Sequence[str], asked: AskedItems, *, size: int, seed: int) -> Lessons:
    """Open what there is to learn from and part it.

    Args:
        data: As for `opened`. Several folders are parted together: one policy, or seed, is on one side in all of them.
        asked: What to ask.
        size: Side of the frames that are shown, in pixels.
        seed: Of the training items. What is held out does not depend on it.

    Raises:
        WorldsimError: The data cannot be read, or too much of it; or it does not part.
    """
    train, held = split(opened(data), by=asked.by, share=asked.share)
    sides = [
        tolerant(thinned(side, most), share=asked.bad_share)
        for side, most in ((train, asked.videos), (held, asked.held_out))
    ]
    learn = Footage(sides[0], size=size, cache_mb=asked.cache_mb)
    examine = Footage(sides[1], size=size, cache_mb=asked.cache_mb, limits=learn.limits)
    bad = tuple(b for side in sides for b in side.bad)
    if bad:
        _LOG.warning("%d videos were skipped.", len(bad))
    return Lessons(train=learn, held=examine, asked=asked, seed=seed, bad=bad)


def opened(data: str | Sequence[str]) -> Source:
    """Videos of one folder or of several joined.

    Args:
        data: LeRobotDataset folders and folders of video files, as a list or one text parted by commas.

    Raises:
        WorldsimError: One cannot be read.
        InvalidInputError: None is named.
    """
    names = [n.strip() for n in (data.split(",") if isinstance(data, str) else data)]
    if not names or not all(names):
        raise InvalidInputError(f"data must name one folder or several, as in data=[data/a,data/b]; got {data!r}.")
    sources = [DatasetVideos(n) if (Path(n) / "meta/info.json").is_file() else FolderVideos(n) for n in names]
    return sources[0] if len(sources) == 1 else Joined(sources)
