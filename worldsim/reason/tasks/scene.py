"""The empty scene and its things, found without labels; and taking a thing out of a frame or giving it another colour.

For fixed cameras and things of about one colour each.

Shape legend: F N frames, C=3 colour, H W S pixels.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.reason.items.footage import Footage
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
