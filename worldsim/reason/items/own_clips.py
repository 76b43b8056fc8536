"""Clips of one's own as items: one question about each clip, with its right answer.

Shape legend: F frames, S pixels.
"""

import dataclasses
from collections.abc import Callable

from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, ItemSequence, format_prompt
from worldsim.reason.items.sources import Source
from worldsim.reason.items.video import Provenance, spread_frames


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


class ClipItems(ItemSequence):
    """An item per clip.

    Args:
        source: The clips; every one is read once here. `worldsim.reason.items.sources.skip_unreadable` skips and counts bad ones.
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
        asked = [(v, _question_for(ask, about.provenance)) for v, about in enumerate(self._footage.summaries)]
        self._asked = [(v, q) for v, q in asked if q is not None]
        if not self._asked:
            raise InvalidInputError(f"No question was asked about any of {len(self._footage)} clips.")

    def __len__(self) -> int:
        return len(self._asked)

    def make(self, number: int) -> Item:
        """See `ItemSequence.make`.

        Raises:
            InvalidInputError: The clip has too few frames; it is named.
        """
        video, question = self._asked[number]
        about = self._footage.summaries[video]
        if about.frames < self._frames:
            raise InvalidInputError(
                f"Clip {about.provenance.episode} has {about.frames} frames; {self._frames} are to be shown. Show fewer, or "
                f"leave short clips out: skip_unreadable(source, shortest={self._frames})."
            )
        taken = spread_frames(about.frames, self._frames)
        return Item(
            task=self._task,
            group=about.provenance.policy or about.provenance.kind,
            number=number,
            prompt=format_prompt(question.text, question.options),
            frames=self._footage.frames(video, taken),
            options=question.options,
            answer=question.answer,
            difficulty=question.difficulty,
            think=question.think,
            provenance=about.provenance,
            taken=taken,
            clip=True,
        )


def _question_for(choose: Ask, clip: Provenance) -> Question | None:
    try:
        question = choose(clip)
        if question is not None and not isinstance(question, Question):
            raise TypeError(f"a Question or None is expected, not {type(question).__name__}")
    except Exception as error:
        raise InvalidInputError(
            f"No question could be made about clip {clip.episode}: {type(error).__name__}: {error}"
        ) from error
    return question
