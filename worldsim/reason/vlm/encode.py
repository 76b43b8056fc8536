"""Items as a model reads them: prompts as tokens, frames as numbered pictures or as one video, rotary positions.

A video has temporal patches of two frames each, and the times of its frames are given: by the families of Qwen3-VL in
words between the patches, by Qwen2.5-VL as positions. Items whose frames are no clip in order of time (a puzzle's quarters,
shuffled frames, candidate futures) are shown as pictures either way, for a video would merge unrelated neighbours.

Patches are cut as the Qwen families' processors cut them, bit for bit, without their overhead per picture; frames that need
resizing go through the processor itself.

Shape legend: B items, L tokens, N pictures, M videos, F frames of a video, S pixels, P patches, D numbers of a patch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, unknown_name
from worldsim.reason.items.item import Item

FrameMode = Literal["images", "video"]
FRAME_MODES: tuple[FrameMode, ...] = ("images", "video")
Encoded = dict[str, Tensor]
"""What a model of transformers is called with."""
_MOST = 4096
"""Prompts that are cached."""


class ItemEncoder:
    """Shows items through one processor.

    Args:
        processor: Of the Qwen families' interface.
        shown: ``images`` for frames one by one, or ``video`` for clips as one video.

    Raises:
        UnknownNameError: There is no such way.
        InvalidInputError: The processor has no videos.
    """

    def __init__(self, processor: Any, *, shown: FrameMode = "images") -> None:
        if shown not in FRAME_MODES:
            raise unknown_name("way to show frames", shown, FRAME_MODES)
        if shown == "video" and getattr(processor, "video_processor", None) is None:
            raise InvalidInputError(
                f"A {type(processor).__name__} without video processor cannot show videos. Use shown=images, or copy "
                "video_preprocessor_config.json from the original model."
            )
        self.processor, self.shown = processor, shown
        self._paced = "second_per_grid_ts" in processor.model_input_names
        self._prompts: dict[tuple[object, ...], list[int]] = {}

    def is_video(self, item: Item) -> bool:
        """Whether an item is shown as a video."""
        return self.shown == "video" and item.clip and len(item.frames) > 1

    def messages(self, item: Item) -> list[dict[str, Any]]:
        """One turn of a user: a place for the video, or places for the frames, each after its number; then the prompt.

        The numbers are what questions about frames ask for; a small model cannot tell frames apart by position alone.
        """
        parts: list[dict[str, Any]] = [{"type": "video"}]
        if not self.is_video(item):
            numbers = range(1, len(item.frames) + 1)
            parts = [p for n in numbers for p in ({"type": "text", "text": str(n)}, {"type": "image"})]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": item.prompt}]}]

    def encode(self, items: Sequence[Item]) -> tuple[list[list[int]], Encoded, list[Encoded]]:
        """Turn items into what a model reads: B prompts as tokens, and what `pixels` gives.

        Raises:
            InvalidInputError: A video's frame rate is not known; the item is named.
        """
        pixels, own = self.pixels(items)
        return [self.prompt(i, o) for i, o in zip(items, own, strict=True)], pixels, own

    def pixels(self, items: Sequence[Item]) -> tuple[Encoded, list[Encoded]]:
        """Frames as patches.

        Args:
            items: B items, which may be of both kinds.

        Returns:
            Of all items `pixel_values` [P, D] with `image_grid_thw` [N, 3], `pixel_values_videos` [P, D] with
            `video_grid_thw` [M, 3], and `second_per_grid_ts` [M] for models that read it; and of each item its own grids
            and times out of these.

        Raises:
            InvalidInputError: A video's frame rate is not known; the item is named.
        """
        videos = [i for i in items if self.is_video(i)]
        pictures = [i for i in items if not self.is_video(i)]
        pixels: Encoded = {}
        if pictures:
            pixels["pixel_values"], pixels["image_grid_thw"] = _item_image_patches(
                pictures, self.processor.image_processor
            )
        if videos:
            made, grid = _item_video_patches(videos, self.processor.video_processor)
            pixels |= {"pixel_values_videos": made, "video_grid_thw": grid}
            if self._paced:
                pixels["second_per_grid_ts"] = torch.tensor([self._pace_s(i) for i in videos])
        return pixels, self._own(items, pixels)

    def _own(self, items: Sequence[Item], pixels: Encoded) -> list[Encoded]:
        """Grids and times of each item."""
        found: list[Encoded] = []
        image = video = 0
        for item in items:
            if self.is_video(item):
                names = ("video_grid_thw", "second_per_grid_ts")
                found.append({n: pixels[n][video : video + 1] for n in names if n in pixels})
                video += 1
            else:
                found.append({"image_grid_thw": pixels["image_grid_thw"][image : image + len(item.frames)]})
                image += len(item.frames)
        return found

    def _pace_s(self, item: Item) -> float:
        """Seconds from one temporal patch to the next, on average."""
        times_s = item.times_s
        return float(self.processor.video_processor.temporal_patch_size * times_s[-1] / (len(times_s) - 1))

    def prompt(self, item: Item, own: Encoded) -> list[int]:
        """A user's turn as tokens, up to where the reply begins; `own` are the item's grids, as `pixels` gives them."""
        as_video = "video_grid_thw" in own
        grid = tuple(own["video_grid_thw" if as_video else "image_grid_thw"][0].tolist())
        key = (item.prompt, len(item.frames), grid, item.times_s if as_video else ())
        if key not in self._prompts:
            asked = self.messages(item)
            text = self.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            if as_video:
                text = text.replace(self.processor.video_token, self._video_text(item, own), 1)
            else:
                image = self.processor.image_token
                merged = self.processor.image_processor.merge_size**2
                text = text.replace(image, image * (grid[0] * grid[1] * grid[2] // merged), len(item.frames))
            if len(self._prompts) > _MOST:
                self._prompts.clear()
            self._prompts[key] = list(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._prompts[key]

    def _video_text(self, item: Item, own: Encoded) -> str:
        """The text of a video in the prompt: the processor's own words, with the clip's own times."""
        from transformers.video_utils import VideoMetadata

        numbers = [abs(n - item.taken[0]) for n in item.taken]
        facts = VideoMetadata(total_num_frames=numbers[-1] + 1, fps=item.provenance.rate_hz, frames_indices=numbers)
        inputs = {"video_grid_thw": own["video_grid_thw"], "video_metadata": [facts]}
        return str(self.processor.replace_video_token(inputs, 0))


def _item_image_patches(items: Sequence[Item], processor: Any) -> tuple[Tensor, Tensor]:
    """Patches of all frames [P, D] and their grids [N, 3]."""
    if len({i.frames.shape[1:] for i in items}) == 1:
        return image_patches(torch.cat([i.frames for i in items]), processor)
    made = [image_patches(i.frames, processor) for i in items]
    return torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])


def _item_video_patches(items: Sequence[Item], processor: Any) -> tuple[Tensor, Tensor]:
    """Patches of all videos [P, D] and their grids [M, 3]."""
    if len({i.frames.shape for i in items}) == 1:
        return video_patches(torch.stack([i.frames for i in items]), processor)
    made = [video_patches(i.frames[None], processor) for i in items]
    return torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])


def image_patches(frames_NSSC: Tensor, processor: Any) -> tuple[Tensor, Tensor]:
    """Cut pictures into normalised patches, neighbours that become one token side by side.

    Args:
        frames_NSSC: uint8 [N, S, S, 3].
        processor: An image processor with `patch_size`, `merge_size`, `temporal_patch_size`, mean and deviation.

    Returns:
        float32 [N * P, D], and each picture's grid, int64 [N, 3].
    """
    count, height, width = frames_NSSC.shape[:3]
    if not keeps_size(height, width, processor):
        made = processor(images=list(frames_NSSC.movedim(-1, 1)), return_tensors="pt")
        return made["pixel_values"], made["image_grid_thw"]
    cut = _cut(frames_NSSC, processor)  # a still picture fills a temporal patch with copies of itself
    cut = cut.unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, processor.temporal_patch_size, -1, -1)
    return _flat(cut, (count, 1, height, width), processor)


def video_patches(frames_MFSSC: Tensor, processor: Any) -> tuple[Tensor, Tensor]:
    """Cut videos into normalised patches of several frames each; the last frame is repeated where their number is odd.

    Args:
        frames_MFSSC: uint8 [M, F, S, S, 3], F >= 2.
        processor: A video processor with the numbers of an image processor.

    Returns:
        float32 [M * P, D], and each video's grid, int64 [M, 3].
    """
    count, frames, height, width = frames_MFSSC.shape[:4]
    if not keeps_size(height, width, processor, frames=frames + 1) or getattr(processor, "cap_pixels_per_frame", None):
        videos = list(frames_MFSSC.movedim(-1, 2))
        made = processor(videos=videos, do_sample_frames=False, return_tensors="pt")
        return made["pixel_values_videos"], made["video_grid_thw"]
    deep = processor.temporal_patch_size
    last = frames_MFSSC[:, -1:].expand(-1, -frames % deep, -1, -1, -1)
    padded = torch.cat([frames_MFSSC, last], dim=1)
    cut = _cut(padded.flatten(0, 1), processor).unflatten(0, (-1, deep)).movedim(1, 6)
    return _flat(cut, (count, padded.shape[1] // deep, height, width), processor)


def keeps_size(height: int, width: int, processor: Any, *, frames: int = 1) -> bool:
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


_MOST = 4096
"""Layouts that are cached."""


class PositionCache:
    """Positions by layout of text and pictures."""

    def __init__(self) -> None:
        self._known: dict[bytes, Tensor] = {}

    def positions(self, model: Any, batch: Encoded, own: Sequence[Encoded]) -> Tensor:
        """Positions of a batch.

        Args:
            model: With `get_rope_index`.
            batch: `input_ids`, `attention_mask` and `mm_token_type_ids`, int64 [B, L], on the CPU.
            own: Grids and times of each item, as `worldsim.reason.vlm.encode.ItemEncoder.show` gives them.

        Returns:
            int64 [3, B, L].
        """
        found = []
        for row, facts in enumerate(own):
            types, mask = batch["mm_token_type_ids"][row], batch["attention_mask"][row]
            key = b"".join(t.numpy().tobytes() for t in (types, mask, *facts.values()))
            if key not in self._known:
                if len(self._known) > _MOST:
                    self._known.clear()
                places, _ = model.get_rope_index(
                    input_ids=batch["input_ids"][row, None],
                    mm_token_type_ids=types[None],
                    attention_mask=mask[None],
                    **facts,
                )
                self._known[key] = places[:, 0]
            found.append(self._known[key])
        return torch.stack(found, dim=1)
