"""Rotary positions in time, height and width for grids of tokens.

Each head's channels are shared out over the three axes (2 * (D // 6) each to height and width, the rest to time), with the base
stretched per axis for grids larger than trained on (NTK: theta * ratio**(d / (d - 2))) and time measured in seconds' worth of
frames where the frame rate is known (Cosmos, arXiv 2501.03575, section 5.2.1).

Shape legend: B batch, S = T h w tokens, H heads, D channels per head.
"""

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

THETA = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels for time, height and width.

    Raises:
        InvalidInputError: The width is odd or below 6.
    """
    if head_dim < 6 or head_dim % 2:
        raise InvalidInputError(
            f"Heads need an even width of at least 6 for three axes; got {head_dim}. Use fewer heads."
        )
    space = head_dim // 6 * 2
    return head_dim - 2 * space, space, space


def rope_angles(
    grid: tuple[int, int, int],
    *,
    head_dim: int,
    ratios: tuple[float, float, float] = (1.0, 1.0, 1.0),
    fps_hz: float | None = None,
    base_fps_hz: float = 24.0,
    device: torch.device | None = None,
) -> Tensor:
    """Angles of every token of a grid.

    Args:
        grid: Tokens along time, height and width.
        head_dim: D.
        ratios: How far each axis is stretched beyond what was trained on; 1 leaves it.
        fps_hz: Frame rate of the clip; None counts frames.
        base_fps_hz: The rate at which one frame counts as one.
        device: Where to compute.

    Returns:
        float32 [S, D / 2] in radians, tokens in (time, height, width) order, channels time first.
    """
    steps = [torch.arange(n, device=device, dtype=torch.float32) for n in grid]
    if fps_hz is not None:
        steps[0] = steps[0] / fps_hz * base_fps_hz
    parts = []
    for axis, (dim, ratio) in enumerate(zip(axis_dims(head_dim), ratios, strict=True)):
        angles = torch.outer(steps[axis], _frequencies(dim, ratio, device))
        shape = [1, 1, 1, angles.shape[1]]
        shape[axis] = grid[axis]
        parts.append(angles.view(shape).expand(*grid, -1))
    return torch.cat(parts, dim=-1).flatten(0, 2)


def rotate(x_BSHD: Tensor, angle_SR: Tensor) -> Tensor:
    """Rotate channel i and i + D / 2 of every head by the token's angle.

    Args:
        x_BSHD: Queries or keys.
        angle_SR: [S, D / 2] as `rope_angles` gives them.

    Returns:
        [B, S, H, D], same dtype.
    """
    cos, sin = angle_SR.cos()[:, None], angle_SR.sin()[:, None]
    first, second = x_BSHD.float().chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x_BSHD.dtype)


def _frequencies(dim: int, ratio: float, device: torch.device | None) -> Tensor:
    """Radians per step of each channel pair of one axis."""
    if ratio != 1.0 and dim <= 2:
        raise InvalidInputError(f"An axis of {dim} channels is too narrow to be stretched by {ratio}. Use wider heads.")
    theta = THETA * (ratio ** (dim / (dim - 2)) if ratio != 1.0 else 1.0)
    exponent = torch.arange(0, dim, 2, device=device, dtype=torch.float32) / dim
    return theta**-exponent
