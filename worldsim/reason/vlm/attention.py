"""Attention of the vision tower for many frames at once.

transformers calls attention once per frame where flash attention is absent, which on small frames costs more than the
arithmetic. This registers an attention under a name for which transformers passes all frames with their borders; frames of
one length become a batch.

Shape legend: L patches of all frames, H heads, D width of a head, N frames.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TOWER = "visual"
"""What Qwen-VL and Cosmos models call their vision tower."""
NAME = "worldsim_flash_like"
"""The "flash" in it is what makes transformers pass `cu_seq_lens_q`."""


def batched_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None, **options: Any
) -> tuple[Tensor, None]:
    """Attention within each frame.

    Args:
        module: Unused; the interface of transformers.
        query: [1, H, L, D].
        key: As `query`.
        value: As `query`.
        attention_mask: Always None here.
        options: `cu_seq_lens_q`, int32 [N + 1] borders, and `scaling`.

    Returns:
        [1, L, H, D] and None.
    """
    borders, scale = options["cu_seq_lens_q"], options.get("scaling")
    lengths = (borders[1:] - borders[:-1]).tolist()
    if len(set(lengths)) == 1:
        heads, length, width = query.shape[1], lengths[0], query.shape[3]
        q, k, v = (t[0].reshape(heads, -1, length, width).transpose(0, 1) for t in (query, key, value))
        seen = F.scaled_dot_product_attention(q, k, v, scale=scale)
        return seen.transpose(1, 2).reshape(1, -1, heads, width), None
    pieces = [t.split(lengths, dim=2) for t in (query, key, value)]

    seen = torch.cat(
        [F.scaled_dot_product_attention(q, k, v, scale=scale) for q, k, v in zip(*pieces, strict=True)], dim=2
    )
    return seen.transpose(1, 2), None


def use_batched_attention(model: Any) -> None:
    """Give the vision tower of a model this attention, unless it has a flash attention already."""
    from transformers import AttentionInterface

    tower = getattr(getattr(model, "model", None), TOWER, None)
    if tower is None or "flash" in str(tower.config._attn_implementation):
        return
    AttentionInterface.register(NAME, batched_attention)
    tower.config._attn_implementation = NAME
