"""Attention of the diffusion transformer: rotary positions, and one call to torch's fused kernel or flash-attn where it fits.

Rotary positions are in time, height and width. Each head's channels are shared out over the three axes (2 * (D // 6) each to
height and width, the rest to time), with the base stretched per axis for grids larger than trained on (NTK: theta * ratio**(d /
(d - 2))) and time measured in seconds' worth of frames where the frame rate is known (Cosmos, arXiv 2501.03575, section 5.2.1).

Shape legend: B batch, S queries (T h w tokens), L keys, H heads, D channels per head.
"""

import functools
import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import InvalidInputError

FLASH_DTYPES = (torch.float16, torch.bfloat16)
FLASH_MAX_DIM = 256


def attend(q_BSHD: Tensor, k_BLHD: Tensor, v_BLHD: Tensor) -> Tensor:
    """Scaled dot-product attention of every query over all keys.

    Args:
        q_BSHD: Queries [B, S, H, D].
        k_BLHD: Keys [B, L, H, D].
        v_BLHD: Values [B, L, H, D].

    Returns:
        [B, S, H, D].
    """
    flash = _flash() if fits_flash(q_BSHD) else None
    if flash is not None:
        return flash(q_BSHD, k_BLHD, v_BLHD)
    mixed = F.scaled_dot_product_attention(q_BSHD.transpose(1, 2), k_BLHD.transpose(1, 2), v_BLHD.transpose(1, 2))
    return mixed.transpose(1, 2)


def fits_flash(q_BSHD: Tensor) -> bool:
    """Whether flash-attn can take these tensors: half precision, on CUDA, a head width it has kernels for."""
    width = q_BSHD.shape[-1]
    return q_BSHD.is_cuda and q_BSHD.dtype in FLASH_DTYPES and width % 8 == 0 and width <= FLASH_MAX_DIM


@functools.cache
def _flash() -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """The flash-attn function, or None where it is not installed or does not load on this machine."""
    try:
        found: Callable[[Tensor, Tensor, Tensor], Tensor] = importlib.import_module("flash_attn").flash_attn_func
    except (ImportError, OSError, AttributeError):
        return None
    return found


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
