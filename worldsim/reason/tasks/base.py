"""What a task is: a plan of which clips belong to which label, and the making of one item; and items by number.

Shape legend: F frames, S pixels.
"""

import dataclasses
from typing import Protocol

from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, ItemSequence, KeyedChoices, balanced_label, make_key
from worldsim.reason.items.windows import Window


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionPool:
    """One question with its labels.

    Attributes:
        labels: Its labels; items have them in equal numbers.
        pools: Clips for each label, or one pool for all labels.
    """

    labels: tuple[str, ...]
    pools: tuple[tuple[Window, ...], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemRequest:
    """What one item is to be made of.

    Attributes:
        number: Of the item within its task.
        label: The right answer.
        window: Which frames of which video.
        choices: For whatever else the item draws.
    """

    number: int
    label: str
    window: Window
    choices: KeyedChoices


class Task(Protocol):
    """A kind of question; its config says how many frames it shows."""

    @property
    def name(self) -> str:
        """Its registered name."""

    @property
    def motion(self) -> bool:
        """Whether it is about motion, so that one frame must not give the answer away."""

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Sort clips by label; questions alternate.

        Raises:
            InvalidInputError: The footage lacks what the task is about.
        """

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Make one item; a pure function of its arguments."""


def make_clip_item(
    task: Task,
    footage: Footage,
    request: ItemRequest,
    *,
    frames: tuple[int, ...],
    prompt: str,
    options: tuple[str, ...],
    think: str,
    group: str = "",
    facts: bool = True,
    clip: bool = True,
) -> Item:
    """An item that shows unedited frames of the request's video.

    Args:
        task: The task.
        footage: The videos.
        request: What is wanted.
        frames: Numbers of the frames, in the order shown.
        prompt: As in `Item`; so are options, think and clip.
        options: The possible answers.
        think: The reasons for the answer.
        group: Kind of clip within the task; by default what made the video.
        facts: Whether the item knows places and progress of its frames.
        clip: Whether the frames are in order of time.
    """
    window = request.window
    provenance = footage.summaries[window.video].provenance
    return Item(
        task=task.name,
        group=group or provenance.kind,
        number=request.number,
        prompt=prompt,
        frames=footage.frames(window.video, frames),
        options=options,
        answer=request.label,
        difficulty=window.difficulty,
        think=think,
        provenance=provenance,
        taken=frames,
        frame_facts=footage.frame_facts(window.video, frames) if facts else None,
        clip=clip,
    )


class Items(ItemSequence):
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
        self._key = make_key(task.name, seed, split)
        self._questions = task.plan(footage, self._key)

    def __len__(self) -> int:
        return self._count

    def make(self, number: int) -> Item:
        """See `ItemSequence.make`."""
        turn, question = divmod(number, len(self._questions))
        labels, pools = self._questions[question].labels, self._questions[question].pools
        label = balanced_label(make_key(self._key, question), turn, len(labels))
        pool = pools[label] if len(pools) > 1 else pools[0]
        place = turn // len(labels) if len(pools) > 1 else turn
        request = ItemRequest(
            number=number,
            label=labels[label],
            window=pool[place % len(pool)],
            choices=KeyedChoices(self._key, "item", number),
        )
        return self.task.make(self.footage, request)
