"""Canvases that differ between episodes: their code, read from a frame in closed form.

A canvas is the mean of all episodes and a weighted sum of a few pictures, its basis. What covers it (robot, things) is left out as
an outlier: weighted least squares, solved again and again with weights of the errors that were left (Holland and Welsch, 1977).

Shape legend: N rows, S numbers of the code, H W frame, X pixels and colours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_WIDTH_PX = 48
"""About the shorter side of the pictures that are solved on."""
_EPS = 0.03
"""Errors far below this count as squares."""
_POWERS = (0, 1, 1, 1, 1, 1, 2, 2, 2)
"""Of each round: errors far above count as squares, then by their size, then hardly."""
_RIDGE = 1e-4


@torch.no_grad()
def solve_code(frames_NCHW: Tensor, base_CHW: Tensor, basis_SCHW: Tensor) -> Tensor:
    """Code [N, S] of the canvas behind what frames in 0..1 show.

    Args:
        frames_NCHW: What is seen.
        base_CHW: The canvas whose code is zero.
        basis_SCHW: What each number of the code adds.
    """
    shrink = max(1, min(base_CHW.shape[-2:]) // _WIDTH_PX)
    small = [F.avg_pool2d(x, shrink, ceil_mode=True).flatten(1) for x in (frames_NCHW - base_CHW, basis_SCHW)]
    miss_NX, basis_SX = small
    count = len(basis_SX)
    pairs_X = (basis_SX[:, None] * basis_SX[None]).flatten(0, 1).T
    ridge = _RIDGE * pairs_X.sum(0).view(count, count).trace() * torch.eye(count).to(basis_SX)
    code_NS = miss_NX.new_zeros(len(miss_NX), count)
    for power in _POWERS:
        left = ((miss_NX - code_NS @ basis_SX) / _EPS).abs()
        weight = 2 / (1 + left.pow(power))
        weight = weight / weight.mean(1, keepdim=True)
        gram = (weight @ pairs_X).unflatten(1, (count, count))
        code_NS = torch.linalg.solve(gram + ridge, (weight * miss_NX) @ basis_SX.T)
    return code_NS
