"""Spatial puzzle: a frame is cut into four shuffled quarters; which belongs in a corner? An uncut frame is shown too."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import FrameFacts, Item, format_prompt
from worldsim.reason.items.video import resize_frames
from worldsim.reason.items.windows import find_windows, shuffle, thumbnails
from worldsim.reason.tasks.base import ItemRequest, QuestionPool

CORNERS = ("top left", "top right", "bottom left", "bottom right")
OPTIONS = ("2", "3", "4", "5")
"""Numbers of the shown frames; the first is the uncut one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PuzzleConfig:
    """The uncut frame is `apart` frames before the cut one.

    Of all clips the `clear` share with the most distinct quarters is used.
    """

    apart: int = 5
    clear: float = 0.7


class PuzzleTask:
    """An uncut frame, then four quarters of a later one, each as large as a frame."""

    name = "puzzle"
    motion = False

    def __init__(self, config: PuzzleConfig | None = None) -> None:
        self.config = config or PuzzleConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Clips whose quarters can be distinguished; the more alike two of them are, the harder."""
        found = find_windows(footage, (0, self.config.apart), key=key)
        gap = np.array([_gap(thumbnails(footage, w)[1]) for w in found])
        order = np.argsort(-gap, kind="stable")[: max(1, round(self.config.clear * len(found)))]
        pool = [dataclasses.replace(found[i], difficulty=r / max(1, len(order) - 1)) for r, i in enumerate(order)]
        return (QuestionPool(labels=OPTIONS, pools=(shuffle(pool, key),)),)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Cut, shuffle, and ask for the corner whose quarter was put in the labelled place.

        The think names all four, the one asked for last, right before the answer: a small model that had to look it up
        among the four did not learn to with one seed of two.
        """
        window, order = request.window, request.choices.order(4)
        uncut, cut = window.frames
        large = 2 * footage.size if footage.summaries[window.video].side_px > footage.size else footage.size
        quarters = _quarters(footage.frames(window.video, [cut], size=large))
        shown = [resize_frames(quarters[corner], footage.size) for corner in order]
        asked = order[OPTIONS.index(request.label)]
        corner = CORNERS[asked]
        found = [f"{CORNERS[c]} {OPTIONS[order.index(c)]}" for c in sorted(range(4), key=lambda c: (c == asked, c))]
        return Item(
            task=self.name,
            group=corner,
            number=request.number,
            prompt=format_prompt(
                f"Frame 1 is whole. Frames 2 to 5 are the quarters of a later frame, shuffled. Which is the {corner}?",
                OPTIONS,
            ),
            frames=torch.cat([footage.frames(window.video, [uncut]), *shown]),
            options=OPTIONS,
            answer=request.label,
            difficulty=window.difficulty,
            think="; ".join(found),
            provenance=footage.summaries[window.video].provenance,
            taken=(uncut, cut, cut, cut, cut),
            frame_facts=FrameFacts(labels=(None, *(CORNERS[c] for c in order))),
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
