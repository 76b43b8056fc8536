"""Pictures put together: cutting windows out of frames, placing sprites into them, and the errors that layers learn from.

Positions are [-1, 1] along each axis of the frame, as `torch.nn.functional.grid_sample` takes them.

Shape legend: N pictures, K things, C channels, H W frame, S window or sprite side in its own pixels.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 0.02
"""Errors far below this count as squares, far above by their size: what is not explained is left out like an outlier."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gain:
    """What drawing things explains.

    Attributes:
        missed_NKCSS: Each thing's window with it drawn, less what is seen.
        taken_NK: Absolute error that it takes away, in sprite pixels.
        bare_NKCSS: The window without it, less what is seen.
        color_NK3: Mean colour of what is seen where it is drawn, 0..1.
        unlike_NK: How far its own colours are from what is seen where it is drawn, in the mean over its window. Over a canvas of
            one colour a dark thing that is translucent looks as a pale one that is opaque, but is drawn wrong over other colours.
    """

    missed_NKCSS: Tensor
    taken_NK: Tensor
    bare_NKCSS: Tensor
    color_NK3: Tensor
    unlike_NK: Tensor


def robust(x: Tensor, eps: float = EPS) -> Tensor:
    """The Charbonnier penalty (Charbonnier et al., 1994) of errors [...]: a smooth absolute value."""
    return (x * x + eps * eps).sqrt() - eps


def sharp_error(drawn_NCHW: Tensor, frame_NCHW: Tensor) -> Tensor:
    """Robust error of frames [N, C, H, W], a scalar, that of their differences between neighbours included: it keeps edges."""
    e = drawn_NCHW - frame_NCHW
    across, down = e[..., 1:] - e[..., :-1], e[..., 1:, :] - e[..., :-1, :]
    return robust(e).mean() + 0.5 * (robust(across).mean() + robust(down).mean())


def over(below: Tensor, color: Tensor, alpha: Tensor) -> Tensor:
    """Lay a colour [..., 3, H, W] of some opacity [..., 1, H, W] on a picture."""
    return below * (1 - alpha) + color * alpha


def faded(layers_NK4HW: Tensor, shown_NK: Tensor) -> Tensor:
    """Layers whose opacity is scaled."""
    return torch.cat([layers_NK4HW[:, :, :3], layers_NK4HW[:, :, 3:] * shown_NK[..., None, None, None]], 2)


def windows(x_NCHW: Tensor, xy_NK2: Tensor, side_px: float, size: int) -> Tensor:
    """Cut a square of `side_px` frame pixels around each position: [N, K, C, size, size]; borders are repeated."""
    height, width = x_NCHW.shape[-2:]
    count, channels = xy_NK2.shape[1], x_NCHW.shape[1]
    theta = x_NCHW.new_zeros(len(x_NCHW) * count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = side_px / width, side_px / height
    theta[:, :, 2] = xy_NK2.flatten(0, 1)
    grid = F.affine_grid(theta, [len(theta), channels, size, size], align_corners=False)
    below = grid.view(len(x_NCHW), count * size, size, 2)  # one below the other, so that no picture is copied
    cut = F.grid_sample(x_NCHW, below, align_corners=False, padding_mode="border")
    return cut.unflatten(2, (count, size)).transpose(1, 2)


def place(sprite_NCSS: Tensor, xy_N2: Tensor, side_px: float, image_size: tuple[int, int]) -> Tensor:
    """Put sprites into empty frames: [N, C, H, W], zero outside of each sprite's `side_px` frame pixels."""
    height, width = image_size
    theta = sprite_NCSS.new_zeros(len(xy_N2), 2, 3)
    scale = sprite_NCSS.new_tensor([width / side_px, height / side_px])
    theta[:, 0, 0], theta[:, 1, 1] = scale[0], scale[1]
    theta[:, :, 2] = -xy_N2 * scale
    grid = F.affine_grid(theta, [len(xy_N2), sprite_NCSS.shape[1], height, width], align_corners=False)
    return F.grid_sample(sprite_NCSS, grid, align_corners=False)
