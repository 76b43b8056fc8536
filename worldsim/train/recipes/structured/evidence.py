"""What canvas and robot leave unexplained in frames: where it is strongest, which is where things are looked for first.

Shape legend: N frames, H W frame, h w the grid that peaks are looked for on.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def residual_map(frames_NCHW: Tensor, scene_NCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Blurred absolute difference [N, h, w] of frames and what was drawn of them."""
    difference = (frames_NCHW - scene_NCHW).abs().mean(1, keepdim=True)
    soft = F.avg_pool2d(difference, 3, 1, 1)
    soft = F.adaptive_avg_pool2d(soft, size)
    return F.avg_pool2d(soft, 3, 1, 1)[:, 0]


def strongest(map_Nhw: Tensor) -> tuple[Tensor, Tensor]:
    """The cell of the peak, int64 [N], counted row by row, and its height [N]."""
    height, cell = map_Nhw.flatten(1).max(1)
    return cell, height


def cell_places(cell_N: Tensor, size: tuple[int, int]) -> Tensor:
    """Centres of cells, [N, 2] in [-1, 1]."""
    h, w = size
    x, y = cell_N % w, cell_N.div(w, rounding_mode="floor")
    return torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1)
