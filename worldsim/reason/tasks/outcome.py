"""Task outcome: did the robot succeed, and how far did it get? The two questions alternate."""

import dataclasses
from typing import Literal

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, format_prompt
from worldsim.reason.items.video import spread_frames
from worldsim.reason.items.windows import Window, shuffle
from worldsim.reason.tasks.base import ItemRequest, QuestionPool, make_clip_item

OPTIONS = ("yes", "no")
BINS = ("0-20", "20-40", "40-60", "60-80", "80-100")
"""Shares of the way, in per cent."""
About = Literal["success", "progress"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OutcomeConfig:
    """`frames` frames over the entire episode, first and last included.

    Attributes:
        frames: How many.
        about: Which question, or both in turn.
        task: One sentence that says what the robot should do; empty to leave it out.
    """

    frames: int = 8
    about: Literal["success", "progress", "both"] = "both"
    task: str = ""


def wording(about: About, task: str = "") -> tuple[str, tuple[str, ...]]:
    """Prompt and options of a question; the critic asks the same.

    Args:
        about: Which question.
        task: One sentence that says what the robot should do; empty to leave it out.
    """
    question = "Did the robot succeed?" if about == "success" else "How far did the robot get, in per cent?"
    options = OPTIONS if about == "success" else BINS
    return format_prompt(f"{task} {question}".strip(), options), options


class OutcomeTask:
    """Entire episodes."""

    name = "outcome"
    motion = False

    def __init__(self, config: OutcomeConfig | None = None) -> None:
        self.config = config or OutcomeConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Episodes by outcome; where an episode is near the middle of its answer it is easy."""
        turns = []
        if self.config.about in ("success", "both"):
            turns.append(self._success(footage, key))
        if self.config.about in ("progress", "both"):
            turns.append(self._progress(footage, key))
        return tuple(turns)

    def _success(self, footage: Footage, key: int) -> QuestionPool:
        known = [(v, c.success) for v, c in enumerate(footage.summaries) if c.success is not None]
        pools = [
            [self._episode(footage, v, _difficulty(s)) for v, s in known if (s >= 0.5) == good]
            for good in (True, False)
        ]
        if not all(pools):
            raise InvalidInputError(
                f"Of {len(footage)} videos {len(pools[0])} are known to succeed and {len(pools[1])} to fail; both are "
                "needed to ask for success. Add others, or ask about progress only."
            )
        return QuestionPool(labels=OPTIONS, pools=tuple(shuffle(pool, key) for pool in pools))

    def _progress(self, footage: Footage, key: int) -> QuestionPool:
        pools: dict[str, list[Window]] = {}
        for v, card in enumerate(footage.summaries):
            if card.progress is not None and np.isfinite(card.progress[-1]):
                place = min(max(float(card.progress[-1]), 0.0), 1.0) * 5
                number = min(int(place), 4)
                off = abs(place - number - 0.5) * 2  # 1 at the border of a bin
                pools.setdefault(BINS[number], []).append(self._episode(footage, v, off))
        if len(pools) < 2:
            raise InvalidInputError(
                f"The progress of these {len(footage)} videos falls into {len(pools)} of {len(BINS)} bins; two are "
                "needed. Add others, or ask about success only."
            )
        labels = tuple(b for b in BINS if b in pools)
        return QuestionPool(labels=labels, pools=tuple(shuffle(pools[b], key) for b in labels))

    def _episode(self, footage: Footage, video: int, difficulty: float) -> Window:
        frames = spread_frames(footage.summaries[video].frames, self.config.frames)
        return Window(video=video, frames=frames, difficulty=difficulty)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Show the episode."""
        window = request.window
        about: About = "success" if request.label in OPTIONS else "progress"
        prompt, options = wording(about, self.config.task)
        progress = footage.describe_progress(window.video, window.frames)
        return make_clip_item(
            self,
            footage,
            request,
            frames=window.frames,
            prompt=prompt,
            options=options,
            think=progress or footage.describe_places(window.video, window.frames),
            group=about,
        )


def _difficulty(success: float) -> float:
    """0 where it is certain, 1 at one half."""
    return 1 - 2 * abs(success - 0.5)
