"""Frame order: three frames are shuffled; in which order did they happen?"""

import dataclasses
from itertools import permutations

from worldsim.reason.footage import Footage
from worldsim.reason.item import Item, ask
from worldsim.reason.tasks.base import Request, Turn
from worldsim.reason.windows import eventful, level, traits, windows

OPTIONS = tuple("".join(map(str, p)) for p in permutations((1, 2, 3)))
"""Numbers of the shown frames in the order in which they happened."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Three frames, `stride` apart; of all clips the `eventful` share, of these the `level` share."""

    stride: int = 4
    eventful: float = 0.5
    level: float = 0.4


class Order:
    """Three frames in any of six orders."""

    name = "order"
    motion = True

    def __init__(self, config: OrderConfig | None = None) -> None:
        self.config = config or OrderConfig()

    def plan(self, footage: Footage, key: int) -> tuple[Turn, ...]:
        """Eventful clips, such that early, middle and late frames look alike on average."""
        c = self.config
        found = eventful(footage, windows(footage, (0, c.stride, 2 * c.stride), key=key), share=c.eventful)
        seen = traits(footage, found)
        lean = (seen - seen.mean(axis=1, keepdims=True)).reshape(len(found), -1)
        pool = tuple(found[i] for i in level(lean, keep=c.level))
        return (Turn(labels=OPTIONS, pools=(pool,)),)

    def make(self, footage: Footage, request: Request) -> Item:
        """Show the frame that happened i-th in place label[i]."""
        window = request.window
        shown = tuple(window.frames[request.label.index(place)] for place in "123")
        return Item(
            task=self.name,
            group=footage.cards[window.video].origin.kind,
            number=request.number,
            prompt=ask("Frames 1 to 3 are shuffled. In which order did they happen?", OPTIONS),
            frames=footage.frames(window.video, shown),
            options=OPTIONS,
            answer=request.label,
            difficulty=window.difficulty,
            think=footage.readout(window.video, shown),
            provenance=footage.cards[window.video].origin,
            taken=shown,
            places=footage.places(window.video, shown),
        )
