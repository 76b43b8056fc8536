"""Frames into patches as the Qwen families' image processor makes them, bit for bit, without its overhead per image.

For frames of one size that need no resizing; others go through the processor itself. Not for text.

Shape legend: N frames, S pixels, P patches of a frame, D numbers of a patch.
"""

from typing import Any

import torch
from torch import Tensor


def patches(frames_NSSC: Tensor, processor: Any) -> tuple[Tensor, Tensor]:
    """Cut frames into normalised patches, neighbours that become one token side by side.

    Args:
        frames_NSSC: uint8 [N, S, S, 3].
        processor: An image processor with `patch_size`, `merge_size`, `temporal_patch_size`, mean and deviation.

    Returns:
        float32 [N * P, D], and each frame's grid, int64 [N, 3].
    """
    count, height, width = frames_NSSC.shape[:3]
    patch, merge, temporal = processor.patch_size, processor.merge_size, processor.temporal_patch_size
    if not fits(height, width, processor):
        pictures = list(frames_NSSC.movedim(-1, 1))
        made = processor(images=pictures, return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]
    rows, columns = height // patch, width // patch
    scale = 1 / processor.rescale_factor
    mean, deviation = (
        torch.tensor(v, device=frames_NSSC.device) * scale for v in (processor.image_mean, processor.image_std)
    )
    x = ((frames_NSSC.float() - mean) / deviation).reshape(
        count, rows // merge, merge, patch, columns // merge, merge, patch, 3
    )
    x = x.permute(0, 1, 4, 2, 5, 7, 3, 6).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, temporal, -1, -1)
    grid = torch.tensor([[1, rows, columns]], device=frames_NSSC.device).expand(count, 3)
    return x.reshape(count * rows * columns, 3 * temporal * patch * patch), grid


def fits(height: int, width: int, processor: Any) -> bool:
    """Whether frames pass the processor without being resized."""
    unit = processor.patch_size * processor.merge_size
    low, high = processor.size["shortest_edge"], processor.size["longest_edge"]
    usual = processor.do_rescale and processor.do_normalize
    return bool(usual and not height % unit and not width % unit and low <= height * width <= high)
