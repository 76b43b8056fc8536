"""One call for attention: torch's fused kernel everywhere, flash-attn where it is installed and fits.

Shape legend: B batch, S queries, L keys, H heads, D channels per head.
"""

import functools
import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

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
