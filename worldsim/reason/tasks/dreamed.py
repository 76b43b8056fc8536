"""Real or dreamed: did a camera or simulator see this, or did a world model make it up?"""

import dataclasses

from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import Item, format_prompt
from worldsim.reason.items.windows import find_windows, shuffle
from worldsim.reason.tasks.base import ItemRequest, QuestionPool, make_clip_item

OPTIONS = ("real", "dreamed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamedConfig:
    """Clips of `frames` frames, every `stride`-th, from anywhere."""

    frames: int = 8
    stride: int = 3


class DreamedTask:
    """Clips of both kinds."""

    name = "dreamed"
    motion = False

    def __init__(self, config: DreamedConfig | None = None) -> None:
        self.config = config or DreamedConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Clips by kind; the later in a dream, the easier, for errors add up."""
        c = self.config
        found = find_windows(footage, tuple(range(0, c.frames * c.stride, c.stride)), key=key)
        found = [dataclasses.replace(w, difficulty=1 - w.frames[-1] / footage.summaries[w.video].frames) for w in found]
        kinds = [
            [w for w in found if (footage.summaries[w.video].provenance.kind == "dream") == d] for d in (False, True)
        ]
        if not all(kinds):
            raise InvalidInputError(
                f"Real and dreamed clips are both needed; got {len(kinds[0])} and {len(kinds[1])}. Join a source of "
                "recorded videos with one that a world dreamed."
            )
        return (QuestionPool(labels=OPTIONS, pools=tuple(shuffle(pool, key) for pool in kinds)),)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Show the clip, without thoughts or facts about its frames: dreams have no true state, so they would give it away.

        Where frame rates differ it is not shown as a video either, for the times would give it away.
        """
        return make_clip_item(
            self,
            footage,
            request,
            frames=request.window.frames,
            prompt=format_prompt("Is this video real, or dreamed by a world model?", OPTIONS),
            options=OPTIONS,
            think="",
            facts=False,
            clip=len({s.provenance.rate_hz for s in footage.summaries}) == 1,
        )
