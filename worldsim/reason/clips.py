"""Anybody's own clips as items: one question about each clip, with its right answer. Not for making up questions.

Shape legend: F frames, S pixels.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import overload

from worldsim.errors import InvalidInputError
from worldsim.reason.footage import Footage
from worldsim.reason.item import Item, ask
from worldsim.reason.sources import Source
from worldsim.reason.tasks.outcome import spread
from worldsim.reason.video import Provenance


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked about a clip.

    Attributes:
        text: The question. Options and the format of the reply are added to it.
        options: The possible answers.
        answer: The right one.
        think: What can be read off the frames; only supervised training learns it.
        difficulty: 0 easy to 1 hard.

    Raises:
        InvalidInputError: Fewer than two options, one twice, or another answer.
    """

    text: str
    options: tuple[str, ...]
    answer: str
    think: str = ""
    difficulty: float = 0.5

    def __post_init__(self) -> None:
        if len(self.options) < 2 or len(set(self.options)) < len(self.options) or self.answer not in self.options:
            raise InvalidInputError(
                f"A question needs two options or more, each once, and the right answer among them; got {self.options} "
                f"and {self.answer!r}."
            )


Ask = Callable[[Provenance], Question | None]
"""Chooses the question about a clip, by its name and folder; None leaves the clip out."""


class ClipItems(Sequence[Item]):
    """An item per clip.

    Args:
        source: The clips; every one is read once here. `worldsim.reason.sources.tolerant` skips and counts bad ones.
        ask: Chooses the questions.
        frames: How many frames F are shown, evenly from the first to the last.
        size: Side S of the frames that are shown, in pixels.
        task: Name of the task, for figures.
        cache_mb: Memory for frames, in units of 2**20 bytes.

    Raises:
        InvalidInputError: `ask` raised, or chose no question at all; the clip is named.
        WorldsimError: A clip cannot be read.
    """

    def __init__(
        self,
        source: Source,
        ask: Ask,
        *,
        frames: int = 8,
        size: int = 224,
        task: str = "own",
        cache_mb: int = 1024,
    ) -> None:
        if frames < 1:
            raise InvalidInputError(f"frames must be at least 1; got {frames}.")
        self._frames, self._task = frames, task
        self._footage = Footage(source, size=size, cache_mb=cache_mb)
        self.bad: tuple[str, ...] = tuple(getattr(source, "bad", ()))
        """What the source skipped, and why."""
        asked = [(v, _asked(ask, card.origin)) for v, card in enumerate(self._footage.cards)]
        self._asked = [(v, q) for v, q in asked if q is not None]
        if not self._asked:
            raise InvalidInputError(f"No question was asked about any of {len(self._footage)} clips.")

    def __len__(self) -> int:
        return len(self._asked)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Make an item, or several.

        Raises:
            InvalidInputError: The clip has too few frames; it is named.
        """
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        video, question = self._asked[number]
        card = self._footage.cards[video]
        if card.frames < self._frames:
            raise InvalidInputError(
                f"Clip {card.origin.episode} has {card.frames} frames; {self._frames} are to be shown. Show fewer, or "
                f"leave short clips out: tolerant(source, shortest={self._frames})."
            )
        taken = spread(card.frames, self._frames)
        return Item(
            task=self._task,
            group=card.origin.policy or card.origin.kind,
            number=number,
            prompt=ask(question.text, question.options),
            frames=self._footage.frames(video, taken),
            options=question.options,
            answer=question.answer,
            difficulty=question.difficulty,
            think=question.think,
            provenance=card.origin,
            taken=taken,
            clip=True,
        )


def _asked(choose: Ask, clip: Provenance) -> Question | None:
    try:
        question = choose(clip)
        if question is not None and not isinstance(question, Question):
            raise TypeError(f"a Question or None is expected, not {type(question).__name__}")
    except Exception as error:
        raise InvalidInputError(
            f"No question could be made about clip {clip.episode}: {type(error).__name__}: {error}"
        ) from error
    return question
