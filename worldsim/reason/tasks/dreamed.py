"""Real or dreamed: did a camera or simulator see this, or did a world model make it up?"""

import dataclasses

from worldsim.errors import InvalidInputError
from worldsim.reason.footage import Footage
from worldsim.reason.item import Item, ask
from worldsim.reason.tasks.base import Request, Turn
from worldsim.reason.windows import mixed, windows

OPTIONS = ("real", "dreamed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DreamedConfig:
    """Clips of `frames` frames, every `stride`-th, from anywhere."""

    frames: int = 8
    stride: int = 3


class Dreamed:
    """Clips of both kinds."""

    name = "dreamed"
    motion = False

    def __init__(self, config: DreamedConfig | None = None) -> None:
        self.config = config or DreamedConfig()

    def plan(self, footage: Footage, key: int) -> tuple[Turn, ...]:
        """Clips by kind; the later in a dream, the easier, for errors add up."""
        c = self.config
        found = windows(footage, tuple(range(0, c.frames * c.stride, c.stride)), key=key)
        found = [dataclasses.replace(w, difficulty=1 - w.frames[-1] / footage.cards[w.video].frames) for w in found]
        kinds = [[w for w in found if (footage.cards[w.video].origin.kind == "dream") == d] for d in (False, True)]
        if not all(kinds):
            raise InvalidInputError(
                f"Real and dreamed clips are both needed; got {len(kinds[0])} and {len(kinds[1])}. Join a source of "
                "recorded videos with one that a world dreamed."
            )
        return (Turn(labels=OPTIONS, pools=tuple(mixed(pool, key) for pool in kinds)),)

    def make(self, footage: Footage, request: Request) -> Item:
        """Show the clip. No read-out is given: dreams have no true state, so its presence would tell.

        Nor is it a clip that may be shown as a video where frame rates differ, for times would tell.
        """
        window = request.window
        return Item(
            task=self.name,
            group=footage.cards[window.video].origin.kind,
            number=request.number,
            prompt=ask("Is this video real, or dreamed by a world model?", OPTIONS),
            frames=footage.frames(window.video, window.frames),
            options=OPTIONS,
            answer=request.label,
            difficulty=window.difficulty,
            think="",
            provenance=footage.cards[window.video].origin,
            taken=window.frames,
            clip=len({c.origin.rate_hz for c in footage.cards}) == 1,
        )
