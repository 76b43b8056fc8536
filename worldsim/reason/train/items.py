"""What a critic is trained and evaluated on: items of several tasks over datasets, or one's own; held-out videos apart."""

import abc
import dataclasses
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import torch

from worldsim import storage
from worldsim.errors import InvalidInputError, WorldsimError, unknown_name
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, KeyedChoices, Mixture
from worldsim.reason.items.sources import (
    By,
    DatasetVideos,
    FolderVideos,
    JoinedSource,
    LabelledVideos,
    Source,
    group_of,
    skip_unreadable,
    split,
    split_groups,
    subsample,
)
from worldsim.reason.items.video import StateLayout
from worldsim.reason.tasks import TASKS
from worldsim.reason.tasks.base import Items

Colour = tuple[float, float, float]
_FAINT = 0.02
"""Smallest deviation of a colour that counts, so that noise of a still scene is not blown up."""
_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemsConfig:
    """Which tasks are asked about which videos.

    Attributes:
        tasks: Names of tasks.
        weights: How much of each, in any unit; equal by default.
        options: Settings of tasks by name, for example ``{"arrow": {"stride": 3}}``.
        layout: Where proprioception, true state and action hold places; by default as known for the task of each dataset.
        videos: Most videos to train on, held-out ones aside; 0 stands for all. Frames of all of them are kept in memory.
        held_out: Most videos to evaluate on.
        by: What training and held-out videos must not share: episode, seed or policy.
        share: Of the groups, to hold out.
        final_eval: Held-out items of each task in the evaluation at the end.
        quick_eval: Held-out items of each task in evaluations during training.
        bad_share: Most videos that may be unreadable, as a share of all; they are skipped and counted.
        labels: File of labels that people gave to the episodes (`worldsim label`), which outcomes are then asked of; the data is
            then one dataset.
        cache_mb: Memory for frames, in units of 2**20 bytes, of training and held-out videos each.

    Raises:
        InvalidInputError: No task, one twice, or a number out of range.
        UnknownNameError: There is no such way to hold out videos.
    """

    tasks: tuple[str, ...] = ("arrow", "puzzle", "permanence")
    weights: tuple[float, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    layout: StateLayout = dataclasses.field(default_factory=StateLayout)
    videos: int = 0
    held_out: int = 400
    by: By = "episode"
    share: float = 0.2
    final_eval: int = 512
    quick_eval: int = 96
    bad_share: float = 0.05
    labels: str = ""
    cache_mb: int = 2048

    def __post_init__(self) -> None:
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise InvalidInputError(f"tasks must not be empty or repeat itself; got {self.tasks}.")
        if self.videos < 0 or min(self.held_out, self.final_eval, self.quick_eval) < 1:
            raise InvalidInputError("videos must be >= 0, held_out, final_eval and quick_eval >= 1.")
        if self.by not in ("episode", "seed", "policy"):
            raise unknown_name("way to hold out videos", self.by, ("episode", "seed", "policy"))
        stray = sorted(set(self.options) - set(self.tasks))
        if stray:
            raise InvalidInputError(f"options are given for {stray}, which are not among the tasks {self.tasks}.")


class TrainingItems(abc.ABC):
    """Items to train on, and held-out ones to evaluate on."""

    bad: tuple[str, ...]
    """What was skipped, and why."""
    digest: str = ""
    """Of items of one's own; empty where tasks make the items."""

    @abc.abstractmethod
    def training(self, count: int) -> Sequence[Item]:
        """`count` items to train on, in order."""

    @abc.abstractmethod
    def held_out(self, each: int) -> list[Item]:
        """At most `each` held-out items of every task; the same whatever the training, so that runs compare."""

    def texts(self, count: int = 600) -> list[str]:
        """Prompts and replies of some training items, for a tokenizer."""
        return [text for item in self.training(count) for text in (item.prompt, item.completion)]

    def pixels(self, count: int = 200) -> tuple[Colour, Colour]:
        """Mean and deviation of each colour, 0..1, over the frames of some training items, all of one size."""
        frames = torch.cat([item.frames for item in self.training(count)]).float() / 255
        mean, deviation = frames.mean(dim=(0, 1, 2)), frames.std(dim=(0, 1, 2)).clamp(min=_FAINT)
        return _colour(mean), _colour(deviation)


def _colour(value_C: torch.Tensor) -> Colour:
    red, green, blue = value_C.tolist()
    return red, green, blue


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskItems(TrainingItems):
    """Items that tasks make about prepared videos.

    Attributes:
        train: Videos to train on.
        held: Videos to evaluate on.
        config: Which tasks are asked.
        seed: Of the training items.
    """

    train: Footage
    held: Footage
    config: ItemsConfig
    seed: int
    bad: tuple[str, ...]

    def training(self, count: int) -> Mixture:
        """Training items, mixed.

        Raises:
            UnknownNameError: No such task.
            InvalidInputError: The videos lack what a task is about.
        """
        parts = self._parts(self.train, count, "train")
        return Mixture(parts, weights=self.config.weights or None, count=count, seed=self.seed)

    def held_out(self, each: int) -> list[Item]:
        """The first held-out items of every task; errors as `training`."""
        return [item for part in self._parts(self.held, each, "held") for item in part]

    def _parts(self, footage: Footage, count: int, side: str) -> list[Items]:
        seed = self.seed if side == "train" else 0
        built = [TASKS.build(name, self.config.options.get(name, {})) for name in self.config.tasks]
        return [Items(task, footage, count=count, seed=seed, split=side) for task in built]


def open_task_items(data: str | Sequence[str], config: ItemsConfig, *, size: int, seed: int) -> TaskItems:
    """Open videos and hold some of them out.

    Args:
        data: As for `open_videos`. Several folders are split together: one policy, or seed, is on one side in all of them.
        config: What to ask.
        size: Side of the frames that are shown, in pixels.
        seed: Of the training items. What is held out does not depend on it.

    Raises:
        WorldsimError: The data cannot be read, or too much of it; or there are too few groups to hold one out.
    """
    layout = None if config.layout == StateLayout() else config.layout
    train, held = split(open_videos(data, layout=layout, labels=config.labels), by=config.by, share=config.share)
    sides = [
        skip_unreadable(subsample(side, most), share=config.bad_share)
        for side, most in ((train, config.videos), (held, config.held_out))
    ]
    learned = Footage(sides[0], size=size, cache_mb=config.cache_mb)
    other = Footage(sides[1], size=size, cache_mb=config.cache_mb, limits=learned.limits)
    bad = tuple(b for side in sides for b in side.bad)
    if bad:
        _LOG.warning("%d videos were skipped.", len(bad))
    return TaskItems(train=learned, held=other, config=config, seed=seed, bad=bad)


def open_videos(data: str | Sequence[str], *, layout: StateLayout | None = None, labels: str = "") -> Source:
    """Videos of one folder or of several joined.

    Args:
        data: LeRobotDataset folders and folders of video files, as a list or one text separated by commas.
        layout: As for `worldsim.reason.items.sources.DatasetVideos`.
        labels: File of labels of the one dataset; empty for the outcomes that are recorded.

    Raises:
        WorldsimError: One cannot be read.
        InvalidInputError: None is named, or several with labels.
    """
    names = [n.strip() for n in (data.split(",") if isinstance(data, str) else data)]
    if not names or not all(names):
        raise InvalidInputError(f"data must name one folder or several, as in data=[data/a,data/b]; got {data!r}.")
    if labels:
        if len(names) > 1:
            raise InvalidInputError(
                f"Labels are of one dataset, and data names {len(names)}. Name the one that was labelled."
            )
        return LabelledVideos(names[0], labels, layout=layout)
    sources: list[Source] = [
        DatasetVideos(n, layout=layout) if (Path(n) / "meta/info.json").is_file() else FolderVideos(n) for n in names
    ]
    return sources[0] if len(sources) == 1 else JoinedSource(sources)


class ItemSubset(Sequence[Item]):
    """Some of a sequence's items, in the order given.

    Args:
        items: All of them.
        rows: Which; any may come several times.
    """

    def __init__(self, items: Sequence[Item], rows: Sequence[int]) -> None:
        self._items, self._rows = items, tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """An item, or some."""
        if isinstance(index, slice):
            return ItemSubset(self._items, self._rows[index])
        return self._items[self._rows[index]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnItems(TrainingItems):
    """Items of one's own, of which no video is on both sides.

    Attributes:
        train: To train on.
        held: To evaluate on.
        seed: Of the order.
        digest: Of what is asked about which frames, and of the answers.
    """

    train: ItemSubset
    held: ItemSubset
    seed: int
    bad: tuple[str, ...]
    digest: str

    def training(self, count: int) -> ItemSubset:
        """Training items; every pass over them has an order of its own."""
        each = len(self.train)
        passes = range(-(-count // each))
        order = [row for n in passes for row in KeyedChoices("own items", self.seed, n).order(each)]
        return ItemSubset(self.train, order[:count])

    def held_out(self, each: int) -> list[Item]:
        """Held-out items, at most `each` of every task."""
        found: dict[str, list[Item]] = {}
        for row in KeyedChoices("own exam").order(len(self.held)):
            item = self.held[row]
            same = found.setdefault(item.task, [])
            if len(same) < each:
                same.append(item)
        return [item for task in sorted(found) for item in found[task]]


def split_items(items: Sequence[Item], config: ItemsConfig, *, seed: int) -> OwnItems:
    """Read every item once, skip and count bad ones, and hold some of the others out.

    Args:
        items: Any; an index may raise a WorldsimError where an item is bad, and must give the same item every time.
        config: Its `by`, `share` and `bad_share` are read here.
        seed: Of the order of training.

    Raises:
        InvalidInputError: Too many are bad, or there are too few groups to hold one out.
    """
    facts: list[str] = []
    good, groups = [], []
    bad: list[str] = []
    for number in range(len(items)):
        try:
            item = items[number]
        except WorldsimError as error:
            bad.append(f"{number}: {error}")
            _LOG.warning("Skipped item %s", bad[-1])
            continue
        good.append(number)
        groups.append(group_of(item.provenance, config.by, number=number))
        facts.append(_facts(item))
    if not good or len(bad) > config.bad_share * len(items):
        raise InvalidInputError(
            f"{len(bad)} of {len(items)} items are bad, more than the share of {config.bad_share} that may be skipped: "
            f"{'; '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}. Repair them, or raise items.bad_share."
        )
    train, held = split_groups(groups, by=config.by, share=config.share)
    return OwnItems(
        train=ItemSubset(items, [good[r] for r in train]),
        held=ItemSubset(items, [good[r] for r in held]),
        seed=seed,
        bad=(*getattr(items, "bad", ()), *bad),
        digest=storage.digest_bytes("\n".join(facts).encode()),
    )


def _facts(item: Item) -> str:
    """What identifies an item, but for the look of its frames."""
    shown = (list(item.frames.shape), item.taken, item.provenance.episode)
    return json.dumps([item.task, item.prompt, item.options, item.answer, item.think, *shown])
