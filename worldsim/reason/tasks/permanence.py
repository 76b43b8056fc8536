"""Object permanence: behind a bar, does the thing stay what it is, or does it vanish, appear or become another?

The thing may be there, be missing or have another look before the bar comes, and again after it goes; all three are as
frequent before and after, in unedited and in edited clips alike, so that no single frame gives the answer away. The empty
scene and its things are found without labels, for fixed cameras and things of about one colour each.

Shape legend: F N frames, C=3 colour, H W S pixels.
"""

import dataclasses
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.item import FrameFacts, Item, format_prompt
from worldsim.reason.items.video import resize_frames
from worldsim.reason.items.windows import find_windows, shuffle
from worldsim.reason.tasks.base import ItemRequest, QuestionPool
from worldsim.tokenizers.layers.discovery import color_peaks
from worldsim.tokenizers.layers.registration import coverage
from worldsim.video import to_frames, to_model

SAMPLED = 384
"""Frames that the scene is found from."""
_PAINTS = ((1.0, 0.8, -1.0), (-1.0, 0.9, 0.9), (0.9, -0.9, 0.9), (-0.9, -0.9, -0.9), (1.0, 1.0, 1.0))
"""Colours that a thing may be given, in [-1, 1]; the one least like anything in the scene is taken."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """A background and the largest thing that moves before it.

    Attributes:
        background_CHW: The empty scene, in [-1, 1].
        color_C: The thing's colour.
        paint_C: A colour that nothing in the scene has.
    """

    background_CHW: Tensor
    color_C: Tensor
    paint_C: Tensor

    def covered(self, frames_FHWC: Tensor) -> Tensor:
        """How much of each pixel the thing covers: uint8 [F, H, W, 3] -> [F, H, W] in 0..1, its soft edge included."""
        x_FCHW = to_model(frames_FHWC)
        return coverage(x_FCHW, self.background_CHW, self.color_C)

    def without(self, frames_FHWC: Tensor) -> Tensor:
        """The frames with the thing taken out."""
        x_FCHW = to_model(frames_FHWC)
        a_FHW = coverage(x_FCHW, self.background_CHW, self.color_C)
        core_FHW = F.max_pool2d((a_FHW > 0.5)[:, None].float(), 5, stride=1, padding=2)[:, 0] > 0
        from_color_FHW = (x_FCHW - self.color_C[:, None, None]).square().sum(1)
        from_background_FHW = (x_FCHW - self.background_CHW).square().sum(1)
        gone_FHW = core_FHW & ((a_FHW > 0.02) | (from_color_FHW < from_background_FHW))
        return to_frames(torch.where(gone_FHW[:, None], self.background_CHW, x_FCHW))

    def painted(self, frames_FHWC: Tensor) -> Tensor:
        """The frames with another thing, of the same shape and another colour, in its place."""
        a_FHW = self.covered(frames_FHWC)
        changed = self.background_CHW * (1 - a_FHW[:, None]) + self.paint_C[:, None, None] * a_FHW[:, None]
        x_FCHW = to_model(self.without(frames_FHWC))
        return to_frames(torch.where(a_FHW[:, None] > 0.05, changed, x_FCHW))


def find_scene(footage: Footage, *, size: int) -> Scene:
    """Find the scene of some footage.

    Args:
        footage: Videos of one fixed camera.
        size: Side of the frames that it is for, in pixels.

    Raises:
        InvalidInputError: Nothing of one colour moves before a still background.
    """
    places = [(v, f) for v, card in enumerate(footage.summaries) for f in (0, card.frames // 2, card.frames - 1)]
    places = places[:: len(places) // SAMPLED + 1]
    frames_NHWC = torch.cat([footage.frames(v, [f], size=size) for v, f in places])
    x_NCHW = to_model(frames_NHWC)
    background_CHW = x_NCHW.median(dim=0).values
    peaks = color_peaks(x_NCHW, background_CHW, most=4)
    if not peaks:
        raise InvalidInputError(
            "No thing of one colour moves before a still background in this footage. Leave this task out for it."
        )
    color_C = max(peaks, key=lambda c: float(coverage(x_NCHW, background_CHW, c).sum()))
    taken_MC = torch.cat([background_CHW.flatten(1).T, torch.stack(peaks)])
    paints = torch.tensor(_PAINTS)
    lonely = torch.cdist(paints, taken_MC).amin(dim=1)
    return Scene(background_CHW=background_CHW, color_C=color_C, paint_C=paints[lonely.argmax()])


OPTIONS = ("yes", "no")
STATES = ("there", "missing", "other")
BAR_RGB = (70, 70, 80)
_SCENES: WeakKeyDictionary[Footage, dict[int, Scene]] = WeakKeyDictionary()
"""What was found once, for as long as the footage lives."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PermanenceConfig:
    """Clips of `frames` frames, every `stride`-th.

    The bar covers the middle `hidden` ones, `margin_px` (of a frame of 64) wider than the thing on each side.
    """

    frames: int = 8
    stride: int = 2
    hidden: int = 2
    margin_px: int = 3


class PermanenceTask:
    """Clips whose second half may show another scene than the first."""

    name = "permanence"
    motion = True

    def __init__(self, config: PermanenceConfig | None = None) -> None:
        self.config = config or PermanenceConfig()

    def plan(self, footage: Footage, key: int) -> tuple[QuestionPool, ...]:
        """Any clips of a scene in which a thing can be separated from the background."""
        _scene(footage, _side(footage))  # says at once if there is none
        offsets = tuple(range(0, self.config.frames * self.config.stride, self.config.stride))
        return (QuestionPool(labels=OPTIONS, pools=(shuffle(find_windows(footage, offsets, key=key), key),)),)

    def make(self, footage: Footage, request: ItemRequest) -> Item:
        """Edit before and after the bar, and draw the bar."""
        window, choices, side = request.window, request.choices, _side(footage)
        before = choices.below(3)
        after = before if request.label == "yes" else (before + 1 + choices.below(2)) % 3
        frames = footage.frames(window.video, window.frames, size=side)
        thing = _scene(footage, side)
        first = (self.config.frames - self.config.hidden) // 2
        last = first + self.config.hidden
        parts = [
            _as(thing, frames[:first], STATES[before]),
            frames[first:last],
            _as(thing, frames[last:], STATES[after]),
        ]
        columns = self._columns(thing, frames[max(0, first - 1) : last + 1])
        shown = torch.cat(parts).clone()
        shown[first:last, :, columns] = torch.tensor(BAR_RGB, dtype=torch.uint8)
        labels = [STATES[before]] * first + ["hidden"] * self.config.hidden
        labels += [STATES[after]] * (self.config.frames - last)
        width = (columns.stop - columns.start) / side
        return Item(
            task=self.name,
            group=_group(STATES[before], STATES[after]),
            number=request.number,
            prompt=format_prompt(
                "A bar hides a part of the scene for a while. Does every object stay what it was behind it?", OPTIONS
            ),
            frames=resize_frames(shown, footage.size),
            options=OPTIONS,
            answer=request.label,
            difficulty=0.25 + 0.5 * width + (0.25 if "other" in (STATES[before], STATES[after]) else 0.0),
            think=f"{STATES[before]} before; {STATES[after]} after",
            provenance=footage.summaries[window.video].provenance,
            taken=window.frames,
            frame_facts=FrameFacts(labels=tuple(labels)),
            clip=True,
        )

    def _columns(self, thing: Scene, frames: Tensor) -> slice:
        """Columns that the bar covers: wherever the thing is while it is hidden."""
        side = frames.shape[2]
        margin = max(1, round(self.config.margin_px * side / 64))
        hit = (thing.covered(frames) > 0.2).sum(dim=1).amax(dim=0) > 1
        where = hit.nonzero().flatten().tolist() or [side // 2]
        return slice(max(0, where[0] - margin), min(side, where[-1] + 1 + margin))


def _as(thing: Scene, frames: Tensor, state: str) -> Tensor:
    """Frames in which the thing is there, missing or another."""
    if state == "there":
        return frames
    return thing.without(frames) if state == "missing" else thing.painted(frames)


def _group(before: str, after: str) -> str:
    if before == after:
        return f"stays {before}"
    if "missing" in (before, after):
        return "vanishes" if after == "missing" else "appears"
    return "swapped"


def _side(footage: Footage) -> int:
    """Pixels that edits are made at: twice what is shown, if the videos have them."""
    return 2 * footage.size if footage.summaries[0].side_px >= 2 * footage.size else footage.size


def _scene(footage: Footage, side: int) -> Scene:
    known = _SCENES.setdefault(footage, {})
    if side not in known:
        known[side] = find_scene(footage, size=side)
    return known[side]
