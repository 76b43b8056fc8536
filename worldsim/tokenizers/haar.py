"""Haar wavelet packets of frames and videos: exact, orthogonal, causal in time.

Every level splits every band again (a packet, not a pyramid), as the Cosmos tokenizers do (arXiv 2501.03575, section 4.1):
an image of C channels becomes C * 4**levels bands on a grid 2**levels times coarser, a video C * 8**levels. Bands are ordered
low before high, time before height before width: LL, LH, HL, HH, and LLL, LLH, LHL, ... for videos.

Shape legend: B batch, C channels, T time, H W pixels, N batch of images.
"""

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

_T, _H, _W = -3, -2, -1


def haar_2d(x_NCHW: Tensor, *, levels: int) -> Tensor:
    """Analyse images, orthonormally: the sum of squares is kept.

    Args:
        x_NCHW: [..., C, H, W]; H and W are multiples of 2**levels.
        levels: How often to halve the grid.

    Returns:
        [..., C * 4**levels, H / 2**levels, W / 2**levels].

    Raises:
        InvalidInputError: H or W is not a multiple of 2**levels.
    """
    check_divisible(x_NCHW.shape[-2:], 2**levels)
    for _ in range(levels):
        x_NCHW = _analyse(x_NCHW, (_H, _W), channel=-3)
    return x_NCHW


def haar_2d_inverse(y_NCHW: Tensor, *, levels: int) -> Tensor:
    """Undo `haar_2d` exactly: [..., C * 4**levels, h, w] -> [..., C, h * 2**levels, w * 2**levels]."""
    for _ in range(levels):
        y_NCHW = _synthesise(y_NCHW, (_H, _W), channel=-3)
    return y_NCHW


def haar_3d(x_BCTHW: Tensor, *, levels: int) -> Tensor:
    """Analyse a video causally: the first frame stands alone, later ones in groups of 2**levels.

    The first frame is repeated in front so that groups are {x0}, {x1 .. xp}, ... with p = 2**levels; a still video of an image
    and the image itself share their first group. Orthonormal on the repeated video.

    Args:
        x_BCTHW: [B, C, 1 + k * 2**levels, H, W].
        levels: How often to halve time, height and width.

    Returns:
        [B, C * 8**levels, 1 + k, H / 2**levels, W / 2**levels].

    Raises:
        InvalidInputError: The size does not divide.
    """
    patch = 2**levels
    check_divisible(x_BCTHW.shape[-2:], patch)
    check_frames(x_BCTHW.shape[2], patch)
    first, rest = x_BCTHW[:, :, :1], x_BCTHW[:, :, 1:]
    y = torch.cat([first.expand(-1, -1, patch, -1, -1), rest], dim=2)
    for _ in range(levels):
        y = _analyse(y, (_T, _H, _W), channel=1)
    return y


def haar_3d_inverse(y_BCTHW: Tensor, *, levels: int) -> Tensor:
    """Undo `haar_3d`: [B, C * 8**levels, 1 + k, h, w] -> [B, C, 1 + k * 2**levels, H, W].

    Of the repeated first frame, the last copy is kept, as Cosmos does.
    """
    for _ in range(levels):
        y_BCTHW = _synthesise(y_BCTHW, (_T, _H, _W), channel=1)
    return y_BCTHW[:, :, 2**levels - 1 :]


def check_divisible(size: tuple[int, ...] | torch.Size, patch: int) -> None:
    """Make sure that a picture divides into patches.

    Raises:
        InvalidInputError: It does not.
    """
    if any(side % patch for side in size):
        raise InvalidInputError(
            f"Frames are {tuple(size)} pixels; the tokenizer needs multiples of {patch}. Resize or crop them, or use fewer levels."
        )


def check_frames(count: int, stride: int) -> None:
    """Make sure that a clip is 1 + k * stride frames long.

    Raises:
        InvalidInputError: It is not.
    """
    if count < 1 or (count - 1) % stride:
        raise InvalidInputError(
            f"Clips must have 1 + k * {stride} frames; got {count}. Cut the clip, or pass one frame."
        )


def _analyse(x: Tensor, axes: tuple[int, ...], *, channel: int) -> Tensor:
    """One level: split every axis into low and high, bands stacked in front of the channels."""
    bands = [x]
    for axis in axes:
        bands = [part for band in bands for part in _split(band, axis)]
    return torch.cat(bands, dim=channel)


def _synthesise(y: Tensor, axes: tuple[int, ...], *, channel: int) -> Tensor:
    """Undo `_analyse`."""
    bands = list(y.chunk(2 ** len(axes), dim=channel))
    for axis in reversed(axes):
        bands = [_join(low, high, axis) for low, high in zip(bands[::2], bands[1::2], strict=True)]
    return bands[0]


def _split(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Normalised sum and difference of neighbours."""
    pairs = x.unflatten(axis, (-1, 2))
    even, odd = pairs.unbind(axis if axis < 0 else axis + 1)
    return (even + odd) * 0.5**0.5, (even - odd) * 0.5**0.5


def _join(low: Tensor, high: Tensor, axis: int) -> Tensor:
    """Undo `_split`."""
    even, odd = (low + high) * 0.5**0.5, (low - high) * 0.5**0.5
    return torch.stack([even, odd], dim=axis if axis < 0 else axis + 1).flatten(axis - 1, axis)
