"""What an item's think says of each of its frames, as numbers that a classifier can learn. Not for whole clips.

Shape legend: N frames, H heads.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.reason.item import Item

UNKNOWN = -100
"""Where a head has nothing to say of a frame."""
_DIGITS = tuple("0123456789")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """One thing that can be said of a frame.

    Attributes:
        name: Of what is told, for example "object"; empty for bare words.
        place: Which digit of the number; -1 for words.
        classes: Its values.
    """

    name: str
    place: int
    classes: tuple[str, ...]


def per_frame(item: Item) -> list[dict[str, str]]:
    """What is said of each frame: by name, or under "" where it has none.

    Read are lists with as many values as there are frames ("agent 12 13 14", "there hidden there") and remarks about a
    numbered frame ("2 top left"); anything else is passed over.
    """
    count = len(item.frames)
    found: list[dict[str, str]] = [{} for _ in range(count)]
    for part in item.think.split("; "):
        words = part.split()
        if len(words) in (count, count + 1) and not (len(words) == count and count < 2):
            name = words[0] if len(words) == count + 1 else ""
            for frame, word in zip(found, words[-count:], strict=True):
                frame[name] = word
        elif len(words) > 1 and words[0].isdigit() and 1 <= int(words[0]) <= count:
            found[int(words[0]) - 1][""] = " ".join(words[1:])
    return found


def heads(items: Sequence[Item]) -> tuple[Head, ...]:
    """Everything that is said of frames in some items."""
    words: dict[str, set[str]] = {}
    digits: dict[str, int] = {}
    for item in items:
        for frame in per_frame(item):
            for name, value in frame.items():
                if value.isdigit():
                    digits[name] = max(digits.get(name, 0), len(value))
                else:
                    words.setdefault(name, set()).add(value)
    numbers = [Head(name=n, place=p, classes=_DIGITS) for n in sorted(digits) for p in range(digits[n])]
    return (*numbers, *(Head(name=n, place=-1, classes=tuple(sorted(words[n]))) for n in sorted(words)))


def targets(items: Sequence[Item], known: Sequence[Head]) -> Tensor:
    """Class of every frame for every head, int64 [N, H], UNKNOWN where nothing is said."""
    rows = []
    for item in items:
        for frame in per_frame(item):
            rows.append([_class(frame.get(h.name, ""), h) for h in known])
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, len(known))


def _class(value: str, head: Head) -> int:
    if head.place >= 0:
        return int(value[head.place]) if value.isdigit() and head.place < len(value) else UNKNOWN
    return head.classes.index(value) if value in head.classes else UNKNOWN
