"""Closed-form registration of rigid layers: coverage, template angles and inverse compositional alignment.

Nothing here is learned. A layer is a flat rigid thing of roughly one colour; its sprite alpha is known, its pose in a
frame is wanted. Used by `worldsim.tokenizers.layers.tokenizer` to discover sprites and to encode frames.

Shape legend: N frames, C=3 colour, H W pixels, S sprite side in pixels, G candidate angles.
Poses are [N, 3]: x and y in pixels from the image centre (x right, y down), angle in radians.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ANGLES = 72
"""Candidate angles of the coarse search: every 5 degrees."""


def coverage(x_NCHW: Tensor, background_CHW: Tensor, color_C: Tensor, *, tolerance: float = 0.35) -> Tensor:
    """Fraction of each pixel that a layer of one colour covers.

    Solves frame = (1 - a) background + a color for a by least squares and rejects pixels that this mixture does not
    explain, which is exact for antialiased flat colours.

    Args:
        x_NCHW: Frames in [-1, 1].
        background_CHW: The empty scene in [-1, 1].
        color_C: The layer's colour in [-1, 1].
        tolerance: Largest residual colour distance that still counts as explained.

    Returns:
        [N, H, W] in 0..1; zero where the layer's colour cannot be distinguished from the background.
    """
    direction_CHW = color_C[:, None, None] - background_CHW
    power_HW = direction_CHW.square().sum(0)
    difference_NCHW = x_NCHW - background_CHW
    a_NHW = (difference_NCHW * direction_CHW).sum(1) / power_HW.clamp_min(1e-6)
    a_NHW = a_NHW.clamp(0, 1)
    residual_NHW = (difference_NCHW - a_NHW[:, None] * direction_CHW).square().sum(1).sqrt()
    explained = (residual_NHW < tolerance * a_NHW.clamp_min(0.15)) & (power_HW > 0.05)
    return torch.where(explained, a_NHW, torch.zeros(()).to(a_NHW))


def centroid(a_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """Centre of mass and mass of coverage maps.

    Returns:
        [N, 2] x and y in pixels from the image centre, and [N] mass in pixels.
    """
    height, width = a_NHW.shape[-2:]
    xs = torch.arange(width, device=a_NHW.device) - (width - 1) / 2
    ys = torch.arange(height, device=a_NHW.device) - (height - 1) / 2
    mass_N = a_NHW.sum((1, 2))
    safe = mass_N.clamp_min(1e-6)
    return torch.stack([(a_NHW.sum(1) * xs).sum(1) / safe, (a_NHW.sum(2) * ys).sum(1) / safe], dim=1), mass_N


def crop(a_NKHW: Tensor, pose_N3: Tensor, side: int) -> Tensor:
    """Resample a window that is centred on and turned with a pose: [N, K, H, W] -> [N, K, side, side] (bilinear)."""
    height, width = a_NKHW.shape[-2:]
    xs = torch.arange(side, device=a_NKHW.device, dtype=a_NKHW.dtype) - (side - 1) / 2
    cos, sin = pose_N3[:, 2].cos()[:, None, None], pose_N3[:, 2].sin()[:, None, None]
    px = cos * xs[None, None, :] - sin * xs[None, :, None] + pose_N3[:, 0, None, None]
    py = sin * xs[None, None, :] + cos * xs[None, :, None] + pose_N3[:, 1, None, None]
    grid = torch.stack([px * 2 / width, py * 2 / height], dim=-1)  # pixel centres, align_corners=False
    return F.grid_sample(a_NKHW, grid, align_corners=False, padding_mode="zeros")


def turned(sprite_SS: Tensor, count: int = ANGLES) -> Tensor:
    """The sprite as seen at `count` equally spaced angles: [G, S, S]."""
    angle_G = torch.arange(count, device=sprite_SS.device) * (2 * math.pi / count)
    pose = torch.stack([torch.zeros_like(angle_G), torch.zeros_like(angle_G), -angle_G], dim=1).to(sprite_SS)
    return crop(sprite_SS[None, None].expand(count, 1, -1, -1), pose, sprite_SS.shape[-1])[:, 0]


def coarse_angle(patch_NSS: Tensor, sprite_SS: Tensor) -> tuple[Tensor, Tensor]:
    """Best of `ANGLES` candidate angles by normalised correlation.

    Returns:
        [N] angle in radians and [N, G] correlation with every candidate.
    """
    templates_GS = F.normalize(turned(sprite_SS).flatten(1), dim=1)
    scores_NG = F.normalize(patch_NSS.flatten(1), dim=1) @ templates_GS.T
    return scores_NG.argmax(1) * (2 * math.pi / templates_GS.shape[0]), scores_NG


def symmetry_order(sprite_SS: Tensor, *, threshold: float = 0.97) -> int:
    """How often a sprite coincides with itself in one turn: 1 for none, 2, 3, 4, 6, and 0 for a round thing."""
    _, scores = coarse_angle(sprite_SS[None], sprite_SS)
    if float(scores.min()) > threshold:
        return 0
    for order in (6, 4, 3, 2):
        steps = [round(i * ANGLES / order) % ANGLES for i in range(1, order)]
        if min(float(scores[0, s]) for s in steps) > threshold:
            return order
    return 1


class Aligner:
    """Inverse compositional alignment (Baker and Matthews, IJCV 2004, eq. 30-36) of one sprite under SE(2).

    The Jacobian belongs to the sprite, so its pseudo-inverse is computed once.
    """

    def __init__(self, sprite_SS: Tensor, *, round_layer: bool) -> None:
        """Prepare the pseudo-inverse for `sprite_SS`; a round layer has no angle to solve for."""
        side = sprite_SS.shape[-1]
        padded = F.pad(sprite_SS[None, None], (1, 1, 1, 1))[0, 0]
        dx = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
        dy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
        offset = torch.arange(side).to(sprite_SS) - (side - 1) / 2
        turn = dy * offset[None, :] - dx * offset[:, None]
        columns = [dx, dy] if round_layer else [dx, dy, turn]
        self._pinv = torch.linalg.pinv(torch.stack([c.flatten() for c in columns], dim=1))  # [2 or 3, S*S]
        self._sprite = sprite_SS
        self._round = round_layer

    def refine(self, a_NHW: Tensor, pose_N3: Tensor, *, iterations: int = 6) -> Tensor:
        """Improve poses [N, 3] so that the sprite matches the coverage maps."""
        for _ in range(iterations):
            seen = crop(a_NHW[:, None], pose_N3, self._sprite.shape[-1])[:, 0]
            delta = (seen - self._sprite).flatten(
                1
            ) @ self._pinv.T  # where the sprite would have to move in its own frame
            delta = F.pad(delta, (0, 1)) if self._round else delta
            delta = torch.cat([delta[:, :2].clamp(-2, 2), delta[:, 2:].clamp(-0.3, 0.3)], dim=1)
            pose_N3 = compose(pose_N3, -delta)
        return pose_N3


def compose(pose_N3: Tensor, motion_N3: Tensor) -> Tensor:
    """Apply a motion given in the pose's own frame: [N, 3] x [N, 3] -> [N, 3]."""
    cos, sin = pose_N3[:, 2].cos(), pose_N3[:, 2].sin()
    x = pose_N3[:, 0] + cos * motion_N3[:, 0] - sin * motion_N3[:, 1]
    y = pose_N3[:, 1] + sin * motion_N3[:, 0] + cos * motion_N3[:, 1]
    return torch.stack([x, y, pose_N3[:, 2] + motion_N3[:, 2]], dim=1)
