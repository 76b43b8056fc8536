"""Next action: in which of four directions does the agent act after the clip ends?

A single frame may tell something, for a goal-directed agent acts on what stands where; how much is measured by
`worldsim.reason.leak`, and where agents of the four answers are is levelled.
"""

import dataclasses

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.reason.footage import Floats, Footage
from worldsim.reason.item import Item, ask
from worldsim.reason.tasks.actions import DIRECTIONS, direction, mean_action, strongest
from worldsim.reason.tasks.base import Request, Turn
from worldsim.reason.windows import Window, level, traits, windows

_MOST = 16384
"""Windows that are searched: few of them end in a clear action."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextActionConfig:
    """Clips of `frames` frames, every `stride`-th, before a clear action.

    The mean of the next `ahead` actions must reach `strong` of the strongest in one direction, and that must be `clear`
    times the other axis. With `steady`, the last action of the clip must lean the same way, so that who sees the motion
    can know. Of these clips the `level` share is used.
    """

    frames: int = 8
    stride: int = 1
    ahead: int = 3
    strong: float = 0.3
    clear: float = 2.0
    steady: bool = True
    level: float = 0.2


class NextAction:
    """Clips that end before the action in question."""

    name = "next_action"
    motion = False

    def __init__(self, config: NextActionConfig | None = None) -> None:
        self.config = config or NextActionConfig()

    def plan(self, footage: Footage, key: int) -> tuple[Turn, ...]:
        """Clips by direction, such that the directions' frames look alike on average."""
        c, peak = self.config, strongest(footage, task=self.name)
        offsets = tuple(range(0, c.frames * c.stride, c.stride))
        pools: list[list[Window]] = [[], [], [], []]
        for window in windows(footage, offsets, key=key, after=c.ahead, most=_MOST):
            clear = self._clear(footage, window, peak)
            if clear is not None:
                pools[clear[0]].append(dataclasses.replace(window, difficulty=clear[1]))
        empty = [d for d, pool in zip(DIRECTIONS, pools, strict=True) if not pool]
        if empty:
            raise InvalidInputError(f"No clip is followed by an action {' or '.join(empty)}. Use more or other videos.")
        asked = np.linspace(0, c.frames - 1, 4).round().astype(int)
        lean = [traits(footage, pool)[:, asked].reshape(len(pool), -1) for pool in pools]
        middle = np.mean([rows.mean(axis=0) for rows in lean], axis=0)
        chosen = [level(rows - middle, keep=c.level) for rows in lean]
        kept = tuple(tuple(pool[i] for i in rows) for pool, rows in zip(pools, chosen, strict=True))
        return (Turn(labels=DIRECTIONS, pools=kept),)

    def _clear(self, footage: Footage, window: Window, peak: Floats) -> tuple[int, float] | None:
        """Direction and difficulty of what follows a clip; None where it is not clear, or the agent is held back."""
        c, last = self.config, window.frames[-1]
        share = mean_action(footage, window.video, last, c.ahead) / peak
        before = mean_action(footage, window.video, last - 1, 1) / peak
        most, least, where = float(np.abs(share).max()), float(np.abs(share).min()), direction(share)
        if most < c.strong or most < c.clear * least:
            return None
        if c.steady and (direction(before) != where or float(np.abs(before).max()) < c.strong):
            return None
        place = footage.cards[window.video].place
        if place is not None and direction(place[last + c.ahead] - place[last]) != where:
            return None
        return where, min(1.0, c.clear * least / most)

    def make(self, footage: Footage, request: Request) -> Item:
        """Show the clip."""
        window = request.window
        return Item(
            task=self.name,
            group=footage.cards[window.video].origin.kind,
            number=request.number,
            prompt=ask("In which direction does the robot move next?", DIRECTIONS),
            frames=footage.frames(window.video, window.frames),
            options=DIRECTIONS,
            answer=request.label,
            difficulty=window.difficulty,
            think=footage.readout(window.video, window.frames),
            provenance=footage.cards[window.video].origin,
            taken=window.frames,
            places=footage.places(window.video, window.frames),
            clip=True,
        )
