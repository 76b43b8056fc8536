"""Whether a thing turns, by how much in each look, and how symmetric it is: closed form, from its decoded sprites.

A code says how a thing looks, and for a rigid thing seen by a fixed camera that is mostly its angle. The sprites of many codes
are registered on a reference by rotation; where that explains what a fixed shape does not, the thing turns, and each code has
an angle. Poses can then be moved rigidly, and what is drawn is the look seen at that angle.

Shape legend: N codes, S sprite side, G trial angles.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

_ANGLES = 72
_TURNS = 0.2
"""Share of what a fixed shape misses that rotation must explain for a thing to turn."""
_RIGID = 0.8
"""Least overlap of turned shapes: what looks otherwise, turned as well as can be, changes its shape."""
_SYMMETRIC = 0.85
"""Overlap of a shape with itself turned by a fraction of a circle that makes it symmetric."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turning:
    """What registration found of one thing.

    Attributes:
        angle_N: Of each code, rad, within one symmetric part of a turn.
        center_N2: Centre of each code's shape relative to its sprite's, in sprite half-sides.
        order: Rotational symmetry: 1 none, n n-fold, 0 where it does not turn.
        overlap: Median overlap (intersection over union) of the shapes with the reference, best turned.
        fixed: The same where nothing is turned.
    """

    angle_N: Tensor
    center_N2: Tensor
    order: int
    overlap: float
    fixed: float


@torch.no_grad()
def register_looks(alpha_NSS: Tensor) -> Turning:
    """Register the shapes of many looks of one thing on each other by rotation.

    Args:
        alpha_NSS: Opacity of the sprite of each code, in 0..1.
    """
    center = _centers(alpha_NSS)
    zero = torch.zeros(len(alpha_NSS))
    centred = _turned(alpha_NSS, zero, center)
    mass = alpha_NSS.flatten(1).sum(1)
    reference = centred[(mass - mass.median()).abs().argmin()]
    for _ in range(2):
        angle, best = _align(centred, reference)
        reference = _turned(centred, -angle, torch.zeros_like(center)).median(0).values
    fixed = float(_overlap(centred, reference[None]).median())
    overlap = float(best.median())
    order = 0
    if overlap > _RIGID and (overlap - fixed) / (1 - fixed + 1e-3) > _TURNS:
        order = _symmetry(reference)
        angle = torch.remainder(angle, 2 * math.pi / order)
    return Turning(angle_N=angle, center_N2=center, order=order, overlap=overlap, fixed=fixed)


def _centers(alpha_NSS: Tensor) -> Tensor:
    """Centre of opacity, [N, 2] in sprite half-sides."""
    size = alpha_NSS.shape[-1]
    line = (torch.arange(size) * 2 + 1) / size - 1
    mass = alpha_NSS.sum((1, 2)).clamp_min(1e-3)
    return torch.stack([(alpha_NSS.sum(1) * line).sum(1) / mass, (alpha_NSS.sum(2) * line).sum(1) / mass], -1)


def _turned(alpha_NSS: Tensor, angle_N: Tensor, center_N2: Tensor) -> Tensor:
    """Shapes turned about a centre of theirs, which comes to the middle: [N, S, S]."""
    theta = torch.zeros(len(alpha_NSS), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = angle_N.cos()
    theta[:, 0, 1], theta[:, 1, 0] = angle_N.sin(), -angle_N.sin()
    theta[:, :, 2] = center_N2
    grid = F.affine_grid(theta, [len(alpha_NSS), 1, *alpha_NSS.shape[1:]], align_corners=False)
    return F.grid_sample(alpha_NSS[:, None], grid, align_corners=False)[:, 0]


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of soft shapes [..., S, S]."""
    return torch.minimum(a, b).sum((-1, -2)) / torch.maximum(a, b).sum((-1, -2)).clamp_min(1e-6)


def _align(centred_NSS: Tensor, reference_SS: Tensor) -> tuple[Tensor, Tensor]:
    """The angle [N], rad, at which the reference overlaps each shape most, refined by a parabola, and that overlap [N]."""
    step = 2 * math.pi / _ANGLES
    trial = torch.arange(_ANGLES) * step
    turned = _turned(reference_SS.expand(_ANGLES, -1, -1), trial, torch.zeros(_ANGLES, 2))
    scores = torch.stack([_overlap(shape[None], turned) for shape in centred_NSS])
    best, at = scores.max(1)
    left, right = (scores.gather(1, ((at + d) % _ANGLES)[:, None])[:, 0] for d in (-1, 1))
    bend = (left - 2 * best + right).clamp_max(-1e-6)
    return trial[at] + step * 0.5 * (left - right) / bend, best


def _symmetry(reference_SS: Tensor) -> int:
    """How often a shape coincides with itself in one turn, 1 for none."""

    def at(angle: float) -> float:
        turned = _turned(reference_SS[None], torch.tensor([angle]), torch.zeros(1, 2))
        return float(_overlap(turned, reference_SS[None]))

    for order in (6, 5, 4, 3, 2):
        same, between = at(2 * math.pi / order), at(math.pi / order)
        if same > _SYMMETRIC and same > between + 0.03:
            return order
    return 1
