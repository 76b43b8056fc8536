"""Find the rigid layers of a scene without labels: median background, colour peaks, aligned class averages.

The class averages are those of single-particle microscopy: align every view to a reference, average, repeat
(van Heel and Frank, 1981). Used once, by `LayersTokenizer.fit`.

Shape legend: N frames, C=3 colour, H W pixels, S sprite side in pixels.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.tokenizers.layers.registration import Aligner, centroid, coarse_angle, coverage, crop, symmetry_order

CHANGED = 0.2
"""A pixel departs from the background when a colour channel differs by this much (of a range of 2)."""
SAME_COLOR = 0.4
"""Colours closer than this belong to one layer."""
ROUNDS = 4
MOST_FRAMES = 1500


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sprite:
    """One discovered layer."""

    color_C: Tensor  # [3], in [-1, 1]
    alpha_SS: Tensor  # [S, S], opacity in 0..1, centred on the centre of mass
    order: int  # rotational symmetry: 1 none, n for n-fold, 0 round


@torch.no_grad()
def discover(x_NCHW: Tensor, *, max_layers: int) -> tuple[Tensor, list[Sprite]]:
    """Separate frames into a background and rigid sprites.

    Args:
        x_NCHW: Frames in [-1, 1].
        max_layers: Most layers to return.

    Returns:
        The background [3, H, W] and the sprites, largest first (drawn from the bottom up).
    """
    chosen = torch.linspace(0, x_NCHW.shape[0] - 1, min(MOST_FRAMES, x_NCHW.shape[0])).long()
    x_NCHW = x_NCHW[chosen]
    background_CHW = x_NCHW.median(dim=0).values
    sprites = []
    for color_C in color_peaks(x_NCHW, background_CHW, most=max_layers):
        sprite = class_average(coverage(x_NCHW, background_CHW, color_C), color_C)
        if sprite is not None:
            sprites.append(sprite)
    return background_CHW, sorted(sprites, key=lambda s: -float(s.alpha_SS.sum()))


def color_peaks(x_NCHW: Tensor, background_CHW: Tensor, *, most: int) -> list[Tensor]:
    """Dominant colours of what departs from the background, most frequent first.

    Only pixels whose entire 3x3 neighbourhood departs are counted: edges mix colours.
    """
    changed = (x_NCHW - background_CHW).abs().amax(1, keepdim=True) > CHANGED
    inner = -F.max_pool2d(-changed.float(), 3, stride=1, padding=1) > 0.5
    pixels_MC = x_NCHW.movedim(1, -1)[inner[:, 0]]
    total = pixels_MC.shape[0]
    peaks: list[Tensor] = []
    while len(peaks) < most and pixels_MC.shape[0] > max(0.02 * total, 200):
        bins = ((pixels_MC + 1) * 8).floor().long().clamp(0, 15)
        code = (bins[:, 0] * 16 + bins[:, 1]) * 16 + bins[:, 2]
        mode = torch.bincount(code, minlength=4096).argmax()
        color = pixels_MC[code == mode].median(dim=0).values
        near = (pixels_MC - color).square().sum(1).sqrt() < SAME_COLOR
        peaks.append(pixels_MC[near].median(dim=0).values)
        pixels_MC = pixels_MC[~near]
    return peaks


def class_average(a_NHW: Tensor, color_C: Tensor) -> Sprite | None:
    """Mean shape of one layer over all frames where it is wholly in view; None if it is never or not rigid."""
    center_N2, mass_N = centroid(a_NHW)
    seen = mass_N > 4
    if int(seen.sum()) < 32:
        return None
    typical = mass_N[seen].median()
    complete = (mass_N > 0.93 * typical) & (mass_N < 1.07 * typical)
    if int(complete.sum()) < 32:
        return None
    a_NHW, center_N2 = a_NHW[complete], center_N2[complete]
    side = _window(a_NHW, center_N2)
    pose_N3 = F.pad(center_N2, (0, 1))
    alpha_SS = crop(a_NHW[:1, None], pose_N3[:1], side)[0, 0]
    for round_ in range(ROUNDS):
        patch_NSS = crop(a_NHW[:, None], F.pad(center_N2, (0, 1)), side)[:, 0]
        angle_N, score_NG = coarse_angle(patch_NSS, alpha_SS)
        pose_N3 = torch.cat([center_N2, angle_N[:, None]], dim=1)
        if round_ > 0:
            pose_N3 = Aligner(alpha_SS, round_layer=symmetry_order(alpha_SS) == 0).refine(a_NHW, pose_N3)
        best_N = score_NG.max(1).values
        good = best_N > best_N.quantile(0.2)
        good |= ~good.any()  # views may all fit alike, as those of a square at integer positions do
        alpha_SS = crop(a_NHW[good, None], pose_N3[good], side)[:, 0].mean(0)
    fit = F.cosine_similarity(crop(a_NHW[:, None], pose_N3, side)[:, 0].flatten(1), alpha_SS.flatten()[None], dim=1)
    if float(fit.median()) < 0.9:
        return None
    return Sprite(color_C=color_C, alpha_SS=_settle(alpha_SS), order=symmetry_order(alpha_SS))


def _window(a_NHW: Tensor, center_N2: Tensor) -> int:
    """Side of a window that holds the layer at any angle."""
    height, width = a_NHW.shape[-2:]
    xs = torch.arange(width) - (width - 1) / 2
    ys = torch.arange(height) - (height - 1) / 2
    distance = (
        (xs[None, None] - center_N2[:, :1, None]) ** 2 + (ys[None, :, None] - center_N2[:, 1:, None]) ** 2
    ).sqrt()
    reach = (distance * (a_NHW > 0.5)).flatten(1).amax(1).quantile(0.5)
    return min(2 * math.ceil(float(reach)) + 5, 2 * min(height, width) - 1)


def _settle(alpha_SS: Tensor) -> Tensor:
    """Clear the faint halo that stray pixels leave, and recentre on the centre of mass."""
    clean = torch.where(alpha_SS > 0.05, alpha_SS, torch.zeros(()).to(alpha_SS))
    shift, _ = centroid(clean[None])
    return crop(clean[None, None], F.pad(shift, (0, 1)), alpha_SS.shape[0])[0, 0]
