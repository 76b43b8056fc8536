"""Arrow of time: does the clip run forward or backward?"""

import dataclasses

from worldsim.reason.footage import Footage
from worldsim.reason.item import Item, ask
from worldsim.reason.tasks.base import Request, Turn
from worldsim.reason.windows import eventful, level, traits, windows

OPTIONS = ("forward", "backward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrowConfig:
    """Clips of `frames` frames, every `stride`-th; of at most `most` clips the `eventful` share, of these the `level` share.

    Few clips are soon known by heart: a critic that was shown 800 again and again was right in 84 % of new ones.
    """

    frames: int = 8
    stride: int = 3
    eventful: float = 0.5
    level: float = 0.4
    most: int = 32768


class Arrow:
    """Clips shown as they are or backward."""

    name = "arrow"
    motion = True

    def __init__(self, config: ArrowConfig | None = None) -> None:
        self.config = config or ArrowConfig()

    def plan(self, footage: Footage, key: int) -> tuple[Turn, ...]:
        """Eventful clips, such that frame t looks on average as frame F - 1 - t does."""
        c = self.config
        offsets = tuple(range(0, c.frames * c.stride, c.stride))
        found = eventful(footage, windows(footage, offsets, key=key, most=c.most), share=c.eventful)
        half = c.frames // 2
        seen = traits(footage, found)
        lean = (seen[:, ::-1] - seen)[:, :half].reshape(len(found), -1)
        pool = tuple(found[i] for i in level(lean, keep=c.level))
        return (Turn(labels=OPTIONS, pools=(pool,)),)

    def make(self, footage: Footage, request: Request) -> Item:
        """Turn the clip round or not."""
        window = request.window
        shown = window.frames if request.label == "forward" else window.frames[::-1]
        return Item(
            task=self.name,
            group=footage.cards[window.video].origin.kind,
            number=request.number,
            prompt=ask("Does this video run forward or backward in time?", OPTIONS),
            frames=footage.frames(window.video, shown),
            options=OPTIONS,
            answer=request.label,
            difficulty=window.difficulty,
            think=footage.motion(window.video, shown),
            provenance=footage.cards[window.video].origin,
            taken=shown,
            places=footage.places(window.video, shown),
            clip=True,
        )
