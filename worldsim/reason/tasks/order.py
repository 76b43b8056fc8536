"""Frame order: three frames are shuffled; in which order did they happen?"""

import dataclasses
from itertools import permutations

from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, format_prompt
from worldsim.reason.items.windows import balance, find_windows, frame_features, most_eventful
from worldsim.reason.tasks.base import ItemRequest, QuestionPool, make_clip_item

OPTIONS = tuple("".join(map(str, p)) for p in permutations((1, 2, 3)))
"""Numbers of the shown frames in the order in which they happened."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OrderConfig:
    """Three frames, `stride` apart; of all clips the `eventful` share, of these the `level` share."""

    stride: int = 4
    eventful: float = 0.5
    level: float = 0.4


class OrderTask:
    """Three frames in any of six orders."""

    name = "order"
    motion = True

    def __init__(self, config: OrderConfig | None = None) -> None:
        self.config = config or OrderConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Eventful clips, such that early, middle and late frames look alike on average."""
        c = self.config
        found = most_eventful(footage, find_windows(footage, (0, c.stride, 2 * c.stride), key=key), share=c.eventful)
        seen = frame_features(footage, found)
        lean = (seen - seen.mean(axis=1, keepdims=True)).reshape(len(found), -1)
        pool = tuple(found[i] for i in balance(lean, keep=c.level))
        return (QuestionPool(labels=OPTIONS, pools=(pool,)),)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Show the frame that happened i-th in place label[i]."""
        window = request.window
        shown = tuple(window.frames[request.label.index(place)] for place in "123")
        return make_clip_item(
            self,
            footage,
            request,
            frames=shown,
            prompt=format_prompt("Frames 1 to 3 are shuffled. In which order did they happen?", OPTIONS),
            options=OPTIONS,
            think=footage.describe_places(window.video, shown),
            clip=False,
        )
