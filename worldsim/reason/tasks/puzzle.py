"""Spatial puzzle: a frame is cut into four shuffled quarters; which belongs in a corner? A whole frame stands beside."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from worldsim.reason.footage import Footage
from worldsim.reason.item import Item, ask
from worldsim.reason.tasks.base import Request, Turn
from worldsim.reason.video import fitted
from worldsim.reason.windows import look, mixed, windows

CORNERS = ("top left", "top right", "bottom left", "bottom right")
OPTIONS = ("2", "3", "4", "5")
"""Numbers of the shown frames; the first is the whole one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuzzleConfig:
    """The whole frame lies `apart` frames before the cut one.

    Of all clips the `clear` share with the most distinct quarters is used.
    """

    apart: int = 5
    clear: float = 0.7


class Puzzle:
    """A whole frame, then four quarters of a later one, each as large as a frame."""

    name = "puzzle"
    motion = False

    def __init__(self, config: PuzzleConfig | None = None) -> None:
        self.config = config or PuzzleConfig()

    def plan(self, footage: Footage, key: int) -> tuple[Turn, ...]:
        """Clips whose quarters can be told apart; the more alike two of them are, the harder."""
        found = windows(footage, (0, self.config.apart), key=key)
        gap = np.array([_gap(look(footage, w)[1]) for w in found])
        order = np.argsort(-gap, kind="stable")[: max(1, round(self.config.clear * len(found)))]
        pool = [dataclasses.replace(found[i], difficulty=r / max(1, len(order) - 1)) for r, i in enumerate(order)]
        return (Turn(labels=OPTIONS, pools=(mixed(pool, key),)),)

    def make(self, footage: Footage, request: Request) -> Item:
        """Cut, shuffle, and ask for the corner whose quarter was put in the labelled place.

        The think tells all four, the wanted one last, so that the answer stands right before it is given: a small model that
        had to look it up among the four did not learn to with one seed of two.
        """
        window, order = request.window, request.draw.order(4)
        whole, cut = window.frames
        large = 2 * footage.size if footage.cards[window.video].side_px > footage.size else footage.size
        quarters = _quarters(footage.frames(window.video, [cut], size=large))
        shown = [fitted(quarters[corner], footage.size) for corner in order]
        asked = order[OPTIONS.index(request.label)]
        corner = CORNERS[asked]
        found = [f"{CORNERS[c]} {OPTIONS[order.index(c)]}" for c in sorted(range(4), key=lambda c: (c == asked, c))]
        places = [f"{place} {CORNERS[c]}" for place, c in zip(OPTIONS, order, strict=True)]
        return Item(
            task=self.name,
            group=corner,
            number=request.number,
            prompt=ask(
                f"Frame 1 is whole. Frames 2 to 5 are the quarters of a later frame, shuffled. Which is the {corner}?",
                OPTIONS,
            ),
            frames=torch.cat([footage.frames(window.video, [whole]), *shown]),
            options=OPTIONS,
            answer=request.label,
            difficulty=window.difficulty,
            think="; ".join(found),
            provenance=footage.cards[window.video].origin,
            taken=(whole, cut, cut, cut, cut),
            readout="; ".join(places),
        )


def _quarters(frame_1SSC: Tensor) -> list[Tensor]:
    """Four [1, S/2, S/2, 3] in the order of CORNERS."""
    half = frame_1SSC.shape[1] // 2
    return [frame_1SSC[:, y : y + half, x : x + half] for y in (0, half) for x in (0, half)]


def _gap(look_D: np.ndarray[tuple[int], np.dtype[np.float32]]) -> float:
    """Smallest difference between two quarters of a small look."""
    side = round((look_D.size // 3) ** 0.5)
    image, half = look_D.reshape(side, side, 3), side // 2
    parts = [image[y : y + half, x : x + half] for y in (0, half) for x in (0, half)]
    return min(float(np.abs(parts[i] - parts[j]).mean()) for i in range(4) for j in range(i))
