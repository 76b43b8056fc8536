"""Next action: in which of four directions does the agent act after the clip ends?

A single frame gives something away, for a goal-directed agent acts on where things are; the places of agents are balanced
between the four answers.
"""

import dataclasses

import numpy as np

from worldsim.arrays import Float32s
from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, format_prompt
from worldsim.reason.items.windows import Window, balance, find_windows, frame_features
from worldsim.reason.tasks.actions import DIRECTIONS, direction, mean_action, peak_action
from worldsim.reason.tasks.base import ItemRequest, QuestionPool, make_clip_item

_MOST = 16384
"""Windows that are searched: few of them end in a clear action."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextActionConfig:
    """Clips of `frames` frames, every `stride`-th, before a clear action.

    The mean of the next `ahead` actions must reach `strong` of the strongest in one direction, and that must be `clear`
    times the other axis. With `steady`, the last action of the clip must lean the same way, so that the motion
    gives it away. Of these clips the `level` share is used.
    """

    frames: int = 8
    stride: int = 1
    ahead: int = 3
    strong: float = 0.3
    clear: float = 2.0
    steady: bool = True
    level: float = 0.2


class NextActionTask:
    """Clips that end before the action in question."""

    name = "next_action"
    motion = False

    def __init__(self, config: NextActionConfig | None = None) -> None:
        self.config = config or NextActionConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Clips by direction, such that the directions' frames look alike on average."""
        c, peak = self.config, peak_action(footage, task=self.name)
        offsets = tuple(range(0, c.frames * c.stride, c.stride))
        pools: list[list[Window]] = [[], [], [], []]
        for window in find_windows(footage, offsets, key=key, after=c.ahead, most=_MOST):
            clear = self._clear(footage, window, peak)
            if clear is not None:
                pools[clear[0]].append(dataclasses.replace(window, difficulty=clear[1]))
        empty = [d for d, pool in zip(DIRECTIONS, pools, strict=True) if not pool]
        if empty:
            raise InvalidInputError(f"No clip is followed by an action {' or '.join(empty)}. Use more or other videos.")
        asked = np.linspace(0, c.frames - 1, 4).round().astype(int)
        lean = [frame_features(footage, pool)[:, asked].reshape(len(pool), -1) for pool in pools]
        middle = np.mean([rows.mean(axis=0) for rows in lean], axis=0)
        chosen = [balance(rows - middle, keep=c.level) for rows in lean]
        kept = tuple(tuple(pool[i] for i in rows) for pool, rows in zip(pools, chosen, strict=True))
        return (QuestionPool(labels=DIRECTIONS, pools=kept),)

    def _clear(self, footage: Footage, window: Window, peak: Float32s) -> tuple[int, float] | None:
        """Direction and difficulty of what follows a clip; None where it is not clear, or the agent is held back."""
        c, last = self.config, window.frames[-1]
        share = mean_action(footage, window.video, last, c.ahead) / peak
        before = mean_action(footage, window.video, last - 1, 1) / peak
        most, least, where = float(np.abs(share).max()), float(np.abs(share).min()), direction(share)
        if most < c.strong or most < c.clear * least:
            return None
        if c.steady and (direction(before) != where or float(np.abs(before).max()) < c.strong):
            return None
        place = footage.summaries[window.video].agent_xy
        if place is not None and direction(place[last + c.ahead] - place[last]) != where:
            return None
        return where, min(1.0, c.clear * least / most)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Show the clip."""
        window = request.window
        return make_clip_item(
            self,
            footage,
            request,
            frames=window.frames,
            prompt=format_prompt("In which direction does the robot move next?", DIRECTIONS),
            options=DIRECTIONS,
            think=footage.describe_places(window.video, window.frames),
        )
