"""What an item's read-out says of each of its frames, as classes that a classifier can learn. Not for whole clips.

Shape legend: N frames, H heads.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.reason.item import Item

UNKNOWN = -100
"""Where a head has nothing to say of a frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """One thing that can be said of a frame.

    Attributes:
        name: Of what is told, for example "quarter"; empty for bare words.
        classes: Its values.
    """

    name: str
    classes: tuple[str, ...]


def per_frame(item: Item) -> list[dict[str, str]]:
    """What is said of each frame: by name, or under "" where it has none.

    Read are lists with as many values as there are frames ("colour red red green", "there hidden there") and remarks about
    a numbered frame ("2 top left"); anything else is passed over.
    """
    count = len(item.frames)
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for part in item.readout.split("; "):
        words = part.split()
        if len(words) > 1 and words[0].isdigit():
            if 1 <= int(words[0]) <= count:
                found[int(words[0]) - 1][""] = " ".join(words[1:])
        elif len(words) in (count, count + 1):
            name = words[0] if len(words) == count + 1 else ""
            for frame, word in zip(found, words[-count:], strict=True):
                frame[name] = word
    return found


def heads(items: Sequence[Item]) -> tuple[Head, ...]:
    """Everything that is said of frames in some items."""
    words: dict[str, set[str]] = {}
    for item in items:
        for frame in per_frame(item):
            for name, value in frame.items():
                words.setdefault(name, set()).add(value)
    return tuple(Head(name=n, classes=tuple(sorted(words[n]))) for n in sorted(words))


def targets(items: Sequence[Item], known: Sequence[Head]) -> Tensor:
    """Class of every frame for every head, int64 [N, H], UNKNOWN where nothing is said."""
    rows = []
    for item in items:
        for frame in per_frame(item):
            rows.append([_class(frame.get(h.name, ""), h) for h in known])
    return torch.tensor(rows, dtype=torch.int64).reshape(len(rows), len(known))


def _class(value: str, head: Head) -> int:
    return head.classes.index(value) if value in head.classes else UNKNOWN
