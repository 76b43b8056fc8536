"""Items put before a model: their words as tokens, their frames as numbered pictures or as one real video.

A video has temporal patches of two frames each, and is told when they were taken: the families of Qwen3-VL in words
between the patches, Qwen2.5-VL by positions. Items whose frames are no clip in order of time (a puzzle's quarters, shuffled
frames, candidate futures) are shown as pictures either way, for a video would merge neighbours that do not belong together.
Not for models (`worldsim.reason.vlm`).

Shape legend: N pictures, M videos, P patches, D numbers of a patch.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, unknown_name
from worldsim.reason.item import Item
from worldsim.reason.patches import film_patches, patches

Shown = Literal["images", "video"]
SHOWN: tuple[Shown, ...] = ("images", "video")
Encoded = dict[str, Tensor]
"""What a model of transformers is called with."""
_MOST = 4096
"""Prompts that are remembered."""


class Display:
    """Shows items through one processor.

    Args:
        processor: Of the Qwen families' interface.
        shown: ``images`` for frames one by one, or ``video`` for clips as one video.

    Raises:
        UnknownNameError: There is no such way.
        InvalidInputError: The processor has no videos.
    """

    def __init__(self, processor: Any, *, shown: Shown = "images") -> None:
        if shown not in SHOWN:
            raise unknown_name("way to show frames", shown, SHOWN)
        if shown == "video" and getattr(processor, "video_processor", None) is None:
            raise InvalidInputError(
                f"A {type(processor).__name__} without video processor cannot show videos. Use shown=images, or copy "
                "video_preprocessor_config.json from the original model."
            )
        self.processor, self.shown = processor, shown
        self._paced = "second_per_grid_ts" in processor.model_input_names
        self._prompts: dict[tuple[object, ...], list[int]] = {}

    def is_film(self, item: Item) -> bool:
        """Whether an item is shown as a video."""
        return self.shown == "video" and item.clip and len(item.frames) > 1

    def messages(self, item: Item) -> list[dict[str, Any]]:
        """One turn of a user: a place for the video, or places for the frames, each after its number; then the prompt.

        The numbers are what questions about frames ask for; a position alone would not tell a small model which is which.
        """
        parts: list[dict[str, Any]] = [{"type": "video"}]
        if not self.is_film(item):
            numbers = range(1, len(item.frames) + 1)
            parts = [p for n in numbers for p in ({"type": "text", "text": str(n)}, {"type": "image"})]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": item.prompt}]}]

    def show(self, items: Sequence[Item]) -> tuple[list[list[int]], Encoded, list[Encoded]]:
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
        films = [i for i in items if self.is_film(i)]
        pictures = [i for i in items if not self.is_film(i)]
        pixels: Encoded = {}
        if pictures:
            pixels["pixel_values"], pixels["image_grid_thw"] = _pictures(pictures, self.processor.image_processor)
        if films:
            made, grid = _films(films, self.processor.video_processor)
            pixels |= {"pixel_values_videos": made, "video_grid_thw": grid}
            if self._paced:
                pixels["second_per_grid_ts"] = torch.tensor([self._pace_s(i) for i in films])
        return pixels, self._own(items, pixels)

    def _own(self, items: Sequence[Item], pixels: Encoded) -> list[Encoded]:
        """Grids and times of each item."""
        found: list[Encoded] = []
        image = film = 0
        for item in items:
            if self.is_film(item):
                names = ("video_grid_thw", "second_per_grid_ts")
                found.append({n: pixels[n][film : film + 1] for n in names if n in pixels})
                film += 1
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
        film = "video_grid_thw" in own
        grid = tuple(own["video_grid_thw" if film else "image_grid_thw"][0].tolist())
        key = (item.prompt, len(item.frames), grid, item.times_s if film else ())
        if key not in self._prompts:
            asked = self.messages(item)
            text = self.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            if film:
                text = text.replace(self.processor.video_token, self._film_words(item, own), 1)
            else:
                image = self.processor.image_token
                merged = self.processor.image_processor.merge_size**2
                text = text.replace(image, image * (grid[0] * grid[1] * grid[2] // merged), len(item.frames))
            if len(self._prompts) > _MOST:
                self._prompts.clear()
            self._prompts[key] = list(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._prompts[key]

    def _film_words(self, item: Item, own: Encoded) -> str:
        """What stands for a video in the prompt: the processor's own words, with the clip's own times."""
        from transformers.video_utils import VideoMetadata

        numbers = [abs(n - item.taken[0]) for n in item.taken]
        facts = VideoMetadata(total_num_frames=numbers[-1] + 1, fps=item.provenance.rate_hz, frames_indices=numbers)
        told = {"video_grid_thw": own["video_grid_thw"], "video_metadata": [facts]}
        return str(self.processor.replace_video_token(told, 0))


def _pictures(items: Sequence[Item], processor: Any) -> tuple[Tensor, Tensor]:
    """Patches of all frames [P, D] and their grids [N, 3]."""
    if len({i.frames.shape[1:] for i in items}) == 1:
        return patches(torch.cat([i.frames for i in items]), processor)
    made = [patches(i.frames, processor) for i in items]
    return torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])


def _films(items: Sequence[Item], processor: Any) -> tuple[Tensor, Tensor]:
    """Patches of all videos [P, D] and their grids [M, 3]."""
    if len({i.frames.shape for i in items}) == 1:
        return film_patches(torch.stack([i.frames for i in items]), processor)
    made = [film_patches(i.frames[None], processor) for i in items]
    return torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])
