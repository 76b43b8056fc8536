"""Arrow of time: does the clip run forward or backward?"""

import dataclasses

from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, format_prompt
from worldsim.reason.items.windows import balance, find_windows, frame_features, most_eventful
from worldsim.reason.tasks.base import ItemRequest, QuestionPool, make_clip_item

OPTIONS = ("forward", "backward")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArrowConfig:
    """Clips of `frames` frames, every `stride`-th; of at most `most` clips the `eventful` share, of these the `level` share.

    Few clips are soon memorised: a critic trained on 800 was right on 84 % of new ones.
    """

    frames: int = 8
    stride: int = 3
    eventful: float = 0.5
    level: float = 0.4
    most: int = 32768


class ArrowTask:
    """Clips shown as they are or backward."""

    name = "arrow"
    motion = True

    def __init__(self, config: ArrowConfig | None = None) -> None:
        self.config = config or ArrowConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Eventful clips, such that frame t looks on average as frame F - 1 - t does."""
        c = self.config
        offsets = tuple(range(0, c.frames * c.stride, c.stride))
        found = most_eventful(footage, find_windows(footage, offsets, key=key, most=c.most), share=c.eventful)
        half = c.frames // 2
        seen = frame_features(footage, found)
        lean = (seen[:, ::-1] - seen)[:, :half].reshape(len(found), -1)
        pool = tuple(found[i] for i in balance(lean, keep=c.level))
        return (QuestionPool(labels=OPTIONS, pools=(pool,)),)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Reverse the clip or not."""
        window = request.window
        shown = window.frames if request.label == "forward" else window.frames[::-1]
        return make_clip_item(
            self,
            footage,
            request,
            frames=shown,
            prompt=format_prompt("Does this video run forward or backward in time?", OPTIONS),
            options=OPTIONS,
            think=footage.describe_motion(window.video, shown),
        )
