"""Action effect: given what was seen and the action that comes, which of four futures follows?"""

import dataclasses

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, KeyedChoices, format_prompt
from worldsim.reason.items.windows import Window, find_windows, most_eventful, shuffle
from worldsim.reason.tasks.actions import describe_action, mean_action, peak_action
from worldsim.reason.tasks.base import ItemRequest, QuestionPool, make_clip_item

OPTIONS = ("5", "6", "7", "8")
"""Numbers of the shown frames; four come before."""
CONTEXT = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class EffectConfig:
    """Four frames, every `stride`-th, then the futures.

    The true one comes `ahead` frames later; the others are frames of the same video about as far from now, at least
    `apart` frames from the true one. Of all clips the `eventful` share is used.
    """

    stride: int = 2
    ahead: int = 6
    apart: int = 4
    eventful: float = 0.5


class EffectTask:
    """Four frames that lead up to now, then four candidates."""

    name = "effect"
    motion = True

    def __init__(self, config: EffectConfig | None = None) -> None:
        self.config = config or EffectConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Eventful clips of videos long enough to hold other futures."""
        c = self.config
        peak_action(footage, task=self.name)
        offsets = (*range(0, CONTEXT * c.stride, c.stride), (CONTEXT - 1) * c.stride + c.ahead)
        found = most_eventful(footage, find_windows(footage, offsets, key=key), share=c.eventful)
        found = [w for w in found if len(self._others(footage, w)) >= 3]
        if not found:
            raise InvalidInputError("No video is long enough to hold three other futures. Use longer videos.")
        return (QuestionPool(labels=OPTIONS, pools=(shuffle(found, key),)),)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Put the true future in the labelled place and three others around it."""
        window, c = request.window, self.config
        now, future = window.frames[-2:]
        others = self._nearest(footage, window, request.choices)
        candidates = list(others)
        candidates.insert(OPTIONS.index(request.label), future)
        share = mean_action(footage, window.video, now, c.ahead) / peak_action(footage, task=self.name)
        shown = (*window.frames[:-1], *candidates)
        question = f"Frames 1 to 4 lead up to now. Then the robot moves {describe_action(share)}. Which frame follows?"
        return make_clip_item(
            self,
            footage,
            request,
            frames=shown,
            prompt=format_prompt(question, OPTIONS),
            options=OPTIONS,
            think=footage.describe_places(window.video, shown),
            clip=False,
        )

    def _others(self, footage: Footage, window: Window) -> list[int]:
        """Frames that may stand for wrong futures: not shown before, and not close to the true one in time."""
        future, count = window.frames[-1], footage.summaries[window.video].frames
        return [j for j in range(count) if j not in window.frames and abs(j - future) >= self.config.apart]

    def _nearest(self, footage: Footage, window: Window, choices: KeyedChoices) -> list[int]:
        """Three wrong futures, in keyed order: of a few drawn, those whose distance from now is most like the true."""
        looks = footage.summaries[window.video].thumbnails.astype(np.float32)
        now, future = window.frames[-2:]
        others = self._others(footage, window)
        drawn = [others[i] for i in choices.order(len(others))]
        true = float(np.abs(looks[future] - looks[now]).mean())
        unlike = {j: abs(float(np.abs(looks[j] - looks[now]).mean()) - true) for j in drawn}
        chosen: list[int] = []
        for j in sorted(drawn[:12], key=lambda j: unlike[j]):
            if all(abs(j - k) >= self.config.apart for k in chosen) and len(chosen) < 3:
                chosen.append(j)
        chosen += [j for j in drawn if j not in chosen][: 3 - len(chosen)]
        return [chosen[i] for i in choices.order(3)]
