"""One question about frames with its checked answer; wording and keyed choices that all tasks share; items of several mixed.

The last line of each prompt is the format of the reply: a copy of it with an option in place of the last words earns every
reward in full (`worldsim.reason.train.rewards`).
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim import storage
from worldsim.errors import InvalidInputError
from worldsim.noise import uniform
from worldsim.reason.items.video import Provenance


def make_key(*parts: object) -> int:
    """A noise key from what identifies a run: names, seeds, numbers."""
    digest = hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class KeyedChoices:
    """Choices in a row; two with one key give the same row.

    Args:
        parts: What the key is made of.
    """

    def __init__(self, *parts: object) -> None:
        self._key = torch.tensor([make_key(*parts)], dtype=torch.int64)
        self._step = 0

    def uniform(self, count: int) -> list[float]:
        """Numbers in [0, 1)."""
        self._step += 1
        drawn: list[float] = uniform(self._key, self._step, (count,))[0].tolist()
        return drawn

    def below(self, n: int) -> int:
        """A number in 0..n-1."""
        return min(int(self.uniform(1)[0] * n), n - 1)

    def order(self, n: int) -> list[int]:
        """A permutation of 0..n-1."""
        drawn = self.uniform(n)
        return sorted(range(n), key=lambda i: (drawn[i], i))


def balanced_label(key: int, k: int, n: int) -> int:
    """Label of item k among n: every run of n items from a multiple of n on has each label once."""
    return KeyedChoices(key, "label", k // n).order(n)[k % n]


PLACEHOLDER = "one option"
FORMAT = f"<think>what you see</think><answer>{PLACEHOLDER}</answer>"
"""How to reply."""
_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_LOOSE = re.compile(r"<[\s/\\]*(?:think|answer)\b[^>]*>?", re.IGNORECASE)
"""Anything that looks like one of the tags, well written or not."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FrameFacts:
    """What is known of each of F frames. The vision warm-up learns to read it off them.

    Attributes:
        labels: What a frame shows, a word or two; None where that is not known. Empty where no frame has a label.
        numbers: float32 [F, D], each in about -1..1, for example places; nan where it is not known. None without numbers.

    Raises:
        InvalidInputError: Neither is given, or they are of different numbers of frames.
    """

    labels: tuple[str | None, ...] = ()
    numbers: Tensor | None = None

    def __post_init__(self) -> None:
        shape = None if self.numbers is None else tuple(self.numbers.shape)
        if not self.labels and shape is None:
            raise InvalidInputError("Facts of frames are labels, numbers or both; neither was given.")
        if shape is not None and (len(shape) != 2 or (self.labels and len(self.labels) != shape[0])):
            raise InvalidInputError(
                f"Numbers must be [F, D] for {len(self.labels) or 'F'} labelled frames; got {shape}."
            )

    @property
    def frames(self) -> int:
        """How many frames F these are."""
        return len(self.labels) if self.numbers is None else len(self.numbers)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """A question about F frames.

    Attributes:
        task: Name of the task.
        group: Kind of clip within the task, for figures by kind.
        number: Of the item within its task.
        prompt: Question, options and the format of the reply.
        frames: uint8 [F, S, S, 3], to be shown in this order.
        options: The possible answers.
        answer: The right one.
        difficulty: 0 easy to 1 hard, comparable within the task.
        think: The reasons for the answer in a few checkable words, for supervised training; empty where the video has no
            states.
        provenance: The video's.
        taken: Numbers of the video's frames that were used, in the order shown.
        frame_facts: What is known of each frame, for the vision warm-up; None where nothing is.
        clip: Whether the frames are one clip in order of time, forward or backward. Only such may be shown as a video,
            which merges neighbours in time and gives the time of each.

    Raises:
        InvalidInputError: The answer is not among the options, the frames are none, a clip is not in order, or facts are
            of another number of frames.
    """

    task: str
    group: str
    number: int
    prompt: str
    frames: Tensor
    options: tuple[str, ...]
    answer: str
    difficulty: float
    think: str
    provenance: Provenance
    taken: tuple[int, ...]
    frame_facts: FrameFacts | None = None
    clip: bool = False

    def __post_init__(self) -> None:
        name, shape = f"Item {self.number} of {self.task}", tuple(self.frames.shape)
        if self.answer not in self.options:
            raise InvalidInputError(f"{name}: {self.answer!r} is not among {self.options}.")
        if self.frames.dtype != torch.uint8 or len(shape) != 4 or shape[-1] != 3 or not all(shape):
            raise InvalidInputError(f"{name}: frames must be uint8 [F, S, S, 3]; got {self.frames.dtype} {shape}.")
        ordered = list(self.taken) in (sorted(self.taken), sorted(self.taken, reverse=True))
        if self.clip and not (ordered and len(self.taken) == shape[0]):
            raise InvalidInputError(f"{name}: {shape[0]} frames, taken {self.taken}, are no clip in order of time.")
        if self.frame_facts is not None and self.frame_facts.frames != shape[0]:
            raise InvalidInputError(
                f"{name}: facts of {self.frame_facts.frames} frames are given for {shape[0]} frames."
            )

    @property
    def completion(self) -> str:
        """The ideal reply."""
        return f"<think>{self.think}</think><answer>{self.answer}</answer>"

    @property
    def times_s(self) -> tuple[float, ...]:
        """When each frame comes, in seconds after the first one shown; a clip shown backward counts up too.

        Raises:
            InvalidInputError: The video's frame rate is not known.
        """
        rate_hz = self.provenance.rate_hz
        if not rate_hz > 0:
            raise InvalidInputError(
                f"Item {self.number} of {self.task}: the frame rate of video {self.provenance.episode} is not known, and "
                "it is not guessed. Give Provenance.rate_hz, or show images."
            )
        return tuple(abs(n - self.taken[0]) / rate_hz for n in self.taken)


def format_prompt(question: str, options: Sequence[str]) -> str:
    """The prompt: question, options, format, a line each."""
    return f"{question}\nOptions: {', '.join(options)}\n{FORMAT}"


def parse_reply(text: str) -> str | None:
    """The answer of a reply, or None where it is not exactly one thought followed by one answer.

    Text around the tags is allowed here; `worldsim.reason.train.rewards.format_reward` forbids it.
    """
    found = [m.group() for m in _LOOSE.finditer(text)]
    if found != list(_TAGS):
        return None
    return text[text.index("<answer>") + len("<answer>") : text.index("</answer>")].strip()


class ItemSequence(Sequence[Item]):
    """Items made when they are asked for, by `make`: the same at every call."""

    def make(self, number: int) -> Item:
        """Make item `number`, 0 <= number < len(self)."""
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Make an item, or several.

        Raises:
            IndexError: There is no such item.
        """
        if isinstance(index, slice):
            return [self.make(k) for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Item {index} of {len(self)}")
        return self.make(index % len(self))


class Mixture(ItemSequence):
    """Items of several tasks in a keyed order, in the wanted shares exactly (up to one), each task's in its own order.

    Args:
        parts: Items of each task; a part that runs out starts over.
        weights: How much of each, in any unit; equal by default.
        count: How many items in all; by default what all parts have together.
        seed: Of the order.

    Raises:
        InvalidInputError: No parts, an empty one, or weights that do not fit or are not positive.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[Item]],
        *,
        weights: Sequence[float] | None = None,
        count: int | None = None,
        seed: int = 0,
    ) -> None:
        shares = np.array(weights if weights is not None else [1.0] * len(parts), np.float64)
        total = sum(len(p) for p in parts) if count is None else count
        if not parts or not all(len(p) for p in parts) or total < 1:
            raise InvalidInputError(f"A mixture needs parts with items; got lengths {[len(p) for p in parts]}.")
        if len(shares) != len(parts) or not np.isfinite(shares).all() or not (shares > 0).all():
            raise InvalidInputError(f"Expected {len(parts)} positive weights; got {shares.tolist()}.")
        self._parts = tuple(parts)
        self._part, self._place = _arranged(shares / shares.sum(), total, seed)

    def __len__(self) -> int:
        return len(self._part)

    def make(self, number: int) -> Item:
        """See `ItemSequence.make`."""
        part = self._parts[self._part[number]]
        return part[int(self._place[number]) % len(part)]


def _arranged(share: NDArray[np.float64], total: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part and place within the part, int64 [total] each."""
    counts = np.floor(share * total).astype(np.int64)
    for i in np.argsort(-(share * total - counts), kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    part = np.repeat(np.arange(len(share)), counts)[KeyedChoices("mixture", seed).order(total)]
    place = np.zeros(total, np.int64)
    for i in range(len(share)):
        mine = part == i
        place[mine] = np.arange(int(mine.sum()))
    return part, place


_GAP_PX, _LINE_PX, _CHARS = 6, 14, 130


def draw_items(items: list[Item], path: str | Path, *, frame_px: int = 112) -> None:
    """Write a PNG with one row per item.

    Args:
        items: What to draw, from the top down.
        path: The file.
        frame_px: Side of a drawn frame.

    Raises:
        StorageError: The file cannot be written.
    """
    import io
    import textwrap

    from PIL import Image, ImageDraw

    texts = []
    for item in items:
        words = f"{item.task}/{item.group} #{item.number} difficulty {item.difficulty:.2f} | {item.prompt}"
        lines = [line for part in words.splitlines() for line in textwrap.wrap(part, _CHARS)]
        texts.append([*lines, *textwrap.wrap(f"= {item.completion}", _CHARS)])
    heights = [frame_px + _LINE_PX * len(lines) + 3 * _GAP_PX for lines in texts]
    width = max(len(i.frames) for i in items) * (frame_px + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (max(width, 900), sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for item, lines, height in zip(items, texts, heights, strict=True):
        for number, frame in enumerate(item.frames.numpy()):
            picture = Image.fromarray(frame).resize((frame_px, frame_px), Image.Resampling.NEAREST)
            sheet.paste(picture, (_GAP_PX + number * (frame_px + _GAP_PX), top + _GAP_PX))
        for number, line in enumerate(lines):
            pen.text((_GAP_PX, top + frame_px + 2 * _GAP_PX + number * _LINE_PX), line, fill="black")
        top += height
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    storage.write_bytes(Path(path), buffer.getvalue())
