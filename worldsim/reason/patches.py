"""Frames into patches as the Qwen families' processors make them, bit for bit, without their overhead per picture.

For frames of one size that need no resizing; others go through the processor itself. Not for text.

Shape legend: N pictures, M videos, F frames of a video, S pixels, P patches of a picture or video, D numbers of a patch.
"""

from typing import Any

import torch
from torch import Tensor


def patches(frames_NSSC: Tensor, processor: Any) -> tuple[Tensor, Tensor]:
    """Cut pictures into normalised patches, neighbours that become one token side by side.

    Args:
        frames_NSSC: uint8 [N, S, S, 3].
        processor: An image processor with `patch_size`, `merge_size`, `temporal_patch_size`, mean and deviation.

    Returns:
        float32 [N * P, D], and each picture's grid, int64 [N, 3].
    """
    count, height, width = frames_NSSC.shape[:3]
    if not fits(height, width, processor):
        made = processor(images=list(frames_NSSC.movedim(-1, 1)), return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]
    cut = _cut(frames_NSSC, processor)  # a still picture fills a temporal patch with copies of itself
    cut = cut.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, processor.temporal_patch_size, -1, -1)
    return _flat(cut, (count, 1, height, width), processor)


def film_patches(frames_MFSSC: Tensor, processor: Any) -> tuple[Tensor, Tensor]:
    """Cut videos into normalised patches of several frames each; the last frame is repeated where it does not come out.

    Args:
        frames_MFSSC: uint8 [M, F, S, S, 3], F >= 2.
        processor: A video processor with the numbers of an image processor.

    Returns:
        float32 [M * P, D], and each video's grid, int64 [M, 3].
    """
    count, frames, height, width = frames_MFSSC.shape[:4]
    if not fits(height, width, processor, frames=frames + 1) or getattr(processor, "cap_pixels_per_frame", None):
        films = list(frames_MFSSC.movedim(-1, 2))
        made = processor(videos=films, do_sample_frames=False, return_tensors="pt")
        return made["pixel_values_videos"], made["video_grid_thw"]
    deep = processor.temporal_patch_size
    last = frames_MFSSC[:, -1:].expand(-1, -frames % deep, -1, -1, -1)
    whole = torch.cat([frames_MFSSC, last], dim=1)
    cut = _cut(whole.flatten(0, 1), processor).unflatten(0, (-1, deep)).movedim(1, 6)
    return _flat(cut, (count, whole.shape[1] // deep, height, width), processor)


def fits(height: int, width: int, processor: Any, *, frames: int = 1) -> bool:
    """Whether frames pass the processor without being resized, be their pixels counted one by one or all together."""
    unit = processor.patch_size * processor.merge_size
    low, high = processor.size["shortest_edge"], processor.size["longest_edge"]
    usual = processor.do_rescale and processor.do_normalize
    return bool(
        usual and not height % unit and not width % unit and low <= height * width and frames * height * width <= high
    )


def _cut(frames_NSSC: Tensor, processor: Any) -> Tensor:
    """Normalised [N, rows, columns, merge, merge, 3, patch, patch]; rows and columns are those of tokens."""
    count, height, width = frames_NSSC.shape[:3]
    patch, merge = processor.patch_size, processor.merge_size
    scale = 1 / processor.rescale_factor
    mean, deviation = (
        torch.tensor(v, device=frames_NSSC.device) * scale for v in (processor.image_mean, processor.image_std)
    )
    x = ((frames_NSSC.float() - mean) / deviation).reshape(
        count, height // patch // merge, merge, patch, width // patch // merge, merge, patch, 3
    )
    return x.permute(0, 1, 4, 2, 5, 7, 3, 6)


def _flat(cut: Tensor, sizes: tuple[int, int, int, int], processor: Any) -> tuple[Tensor, Tensor]:
    """A row per patch, and the grids of `sizes`: how many, temporal patches, height and width in pixels."""
    count, times, height, width = sizes
    rows, columns = height // processor.patch_size, width // processor.patch_size
    grid = torch.tensor([[times, rows, columns]], device=cut.device).expand(count, 3)
    return cut.reshape(count * times * rows * columns, -1), grid
