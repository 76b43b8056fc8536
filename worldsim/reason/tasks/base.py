"""What a task is: a plan of which clips belong to which label, and the making of one item; and items by number.

Shape legend: F frames, S pixels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, overload

from worldsim.errors import InvalidInputError
from worldsim.reason.draw import Draw, balanced, key_of
from worldsim.reason.footage import Footage
from worldsim.reason.item import Item
from worldsim.reason.windows import Window


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """One question with its labels.

    Attributes:
        labels: Its labels; items have them in equal numbers.
        pools: Clips for each label, or one pool for all labels.
    """

    labels: tuple[str, ...]
    pools: tuple[tuple[Window, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What one item is to be made of."""

    number: int
    turn: int
    label: str
    window: Window
    draw: Draw


class Task(Protocol):
    """A kind of question; its config says how many frames it shows."""

    @property
    def name(self) -> str:
        """Its registered name."""

    @property
    def motion(self) -> bool:
        """Whether it is about motion, so that one frame must not give the answer away."""

    def plan(self, footage: Footage, key: int) -> tuple[Turn, ...]:
        """Sort clips by label; questions take turns.

        Raises:
            InvalidInputError: The footage lacks what the task is about.
        """

    def make(self, footage: Footage, request: Request) -> Item:
        """Make one item; a pure function of its arguments."""


class Items(Sequence[Item]):
    """Items of one task, made when asked for. Item k is a pure function of (task, videos, seed, split) and k.

    Labels are balanced: among any first n items of a question, no label has two more than another.

    Args:
        task: The task.
        footage: The videos.
        count: How many items; clips repeat, with other choices, where there are fewer.
        seed: Of the run.
        split: "train" or a name of held-out items: their choices differ.

    Raises:
        InvalidInputError: No item is wanted, or the footage lacks what the task is about.
    """

    def __init__(self, task: Task, footage: Footage, *, count: int, seed: int = 0, split: str = "train") -> None:
        if count < 1:
            raise InvalidInputError(f"count must be at least 1; got {count}.")
        self.task, self.footage, self._count = task, footage, count
        self._key = key_of(task.name, seed, split)
        self._turns = task.plan(footage, self._key)

    @property
    def distinct(self) -> int:
        """How many different clips there are."""
        return len({(w.video, w.frames) for t in self._turns for pool in t.pools for w in pool})

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Make an item, or several."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        k = index + self._count if index < 0 else index
        if not 0 <= k < self._count:
            raise IndexError(f"Item {index} of {self._count}")
        number, turn = k // len(self._turns), k % len(self._turns)
        labels, pools = self._turns[turn].labels, self._turns[turn].pools
        label = balanced(key_of(self._key, turn), number, len(labels))
        pool = pools[label] if len(pools) > 1 else pools[0]
        place = number // len(labels) if len(pools) > 1 else number
        request = Request(
            number=k, turn=turn, label=labels[label], window=pool[place % len(pool)], draw=Draw(self._key, "item", k)
        )
        return self.task.make(self.footage, request)
