"""A vision-language model that is shown items: it replies to them, or weighs their options.

One class for a model of half a million parameters and for a local Cosmos-Reason folder (Qwen2.5-VL, Qwen3-VL,
cosmos3_omni). Frames are shown as images. Not for training (`worldsim.train`) or verdicts.

Shape legend: B items, L tokens, F frames, O options, V vocabulary, N frames of all items.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.reason import pretrained
from worldsim.reason.drawn import Drawn
from worldsim.reason.item import Item
from worldsim.reason.patches import patches
from worldsim.reason.tiny import TinyConfig, tiny
from worldsim.reason.tower import hasten
from worldsim.reason.weigh import weigh

Encoded = dict[str, Tensor]
"""What a model of transformers is called with."""
UNSAID = -100
"""Label of tokens that carry no loss."""


class VLM:
    """Model and processor.

    Args:
        model: An image-text-to-text model of transformers.
        processor: Its processor, of the Qwen families' interface.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self._prompts: dict[tuple[str, int, int], list[int]] = {}
        self._places: dict[bytes, Tensor] = {}
        hasten(model)

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: torch.dtype = torch.float32) -> Self:
        """Load a folder offline; arguments and errors as `worldsim.reason.pretrained.load`."""
        return cls(*pretrained.load(folder, dtype=dtype))

    @classmethod
    def tiny(cls, texts: Iterable[str], config: TinyConfig | None = None, *, seed: int = 0) -> Self:
        """Make a small model with random weights; arguments and errors as `worldsim.reason.tiny.tiny`."""
        return cls(*tiny(texts, config or TinyConfig(), seed=seed))

    def save_pretrained(self, folder: str | Path, *, manifest: dict[str, Any] | None = None) -> None:
        """Write a folder that `from_pretrained` and transformers read, whole or not at all.

        Raises:
            StorageError: It cannot be written.
        """
        pretrained.save(Path(folder), self.model, self.processor, manifest=manifest or {})

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(next(self.model.parameters()).device)

    @property
    def plain(self) -> Any:
        """The model without what an adapter puts around it."""
        return getattr(self.model, "get_base_model", lambda: self.model)()

    @property
    def tokenizer(self) -> Any:
        """The processor's."""
        return self.processor.tokenizer

    def messages(self, item: Item) -> list[dict[str, Any]]:
        """One turn of a user: places for the frames, each after its number, then the prompt.

        The numbers are what questions about frames ask for; a position alone would not tell a small model which is which.
        """
        return _messages(item.prompt, len(item.frames))

    def encode(self, items: Sequence[Item], completions: Sequence[str] | None = None, *, left: bool = False) -> Encoded:
        """Turn items into a batch.

        Args:
            items: B items; frames may differ in number and, at some cost, in size.
            completions: B replies to learn. They end with the end-of-turn token and are the only tokens with labels.
            left: Pad on the left, for generation.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` int64 [B, L], `pixel_values` float32,
            `image_grid_thw` int64 [N, 3]; with completions also `labels` int64 [B, L] and `position_ids` int64 [3, B, L].

        Raises:
            InvalidInputError: No items, or another number of completions.
        """
        if not items or (completions is not None and len(completions) != len(items)):
            raise InvalidInputError(
                f"encode needs items, and as many completions; got {len(items)} and {len(completions or [])}."
            )
        prompts, pixels = self._shown(items)
        replies = [[] for _ in items] if completions is None else [self.reply_tokens(text) for text in completions]
        batch = self.padded([p + r for p, r in zip(prompts, replies, strict=True)], left=left) | pixels
        if completions is not None:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, UNSAID)
            for row, prompt in enumerate(prompts):
                labels[row, : len(prompt)] = UNSAID
            batch |= {"labels": labels, "position_ids": self.positions(batch)}
        return {k: v.to(self.device) for k, v in batch.items()}

    @torch.no_grad()
    def replies(
        self,
        items: Sequence[Item],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        keys: Tensor | None = None,
        batch: int = 64,
    ) -> list[str]:
        """Let the model reply.

        Args:
            items: B items.
            max_new_tokens: Longest reply.
            temperature: 0 takes the likeliest token; else tokens are drawn.
            keys: int64 [B], one per item, that decide what is drawn, whatever the batch; by default 0..B-1.
            batch: Items per call.

        Returns:
            B texts, without what follows the end of the turn.

        Raises:
            InvalidInputError: A negative temperature, or another number of keys.
        """
        keys = torch.arange(len(items)) if keys is None else keys.cpu()
        if temperature < 0 or len(keys) != len(items):
            raise InvalidInputError(
                f"temperature must be >= 0 and keys as many as items; got {temperature}, {len(keys)} for {len(items)}."
            )
        found: list[str] = []
        for first in range(0, len(items), batch):
            part = items[first : first + batch]
            found += self._generate(
                self.encode(part, left=True), keys[first : first + batch], max_new_tokens, temperature
            )
        return found

    def option_logprobs(self, items: Sequence[Item], *, thinks: Sequence[str] | None = None) -> Tensor:
        """Log-probability of each option as the answer, float32 [B, O]; one question a row of `worldsim.reason.weigh`."""
        return weigh(self, [[i] for i in items], thinks=thinks)[0]

    def _generate(self, encoded: Encoded, keys: Tensor, most: int, temperature: float) -> list[str]:
        from transformers import GenerationConfig, LogitsProcessorList

        start = encoded["input_ids"].shape[1]
        made = self.model.generate(
            **encoded,
            generation_config=GenerationConfig(
                max_new_tokens=most,
                do_sample=False,
                eos_token_id=self.model.generation_config.eos_token_id or self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
                suppress_tokens=self.picture_tokens,
            ),
            logits_processor=LogitsProcessorList([Drawn(keys, start, temperature)] if temperature else []),
        )
        return list(self.tokenizer.batch_decode(made[:, start:], skip_special_tokens=True))

    @property
    def picture_tokens(self) -> list[int]:
        """Tokens that stand for pictures, which no reply may hold."""
        config = self.model.config
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return [int(n) for n in (getattr(config, name, None) for name in names) if n is not None]

    def _shown(self, items: Sequence[Item]) -> tuple[list[list[int]], Encoded]:
        """Prompts as tokens, and pixels."""
        pixels, per = self.pixels(items)
        return [self.prompt_tokens(i.prompt, len(i.frames), n) for i, n in zip(items, per, strict=True)], pixels

    def pixels(self, items: Sequence[Item]) -> tuple[Encoded, list[int]]:
        """`pixel_values` and `image_grid_thw` of all items' frames, and each item's tokens per frame."""
        image = self.processor.image_processor
        if len({i.frames.shape[1:] for i in items}) == 1:
            pixels, grid = patches(torch.cat([i.frames for i in items]), image)
            per = [int(grid[0].prod()) // image.merge_size**2] * len(items)
        else:
            made = [patches(i.frames, image) for i in items]
            pixels, grid = torch.cat([m[0] for m in made]), torch.cat([m[1] for m in made])
            per = [int(m[1][0].prod()) // image.merge_size**2 for m in made]
        return {"pixel_values": pixels, "image_grid_thw": grid}, per

    def prompt_tokens(self, prompt: str, frames: int, tokens: int) -> list[int]:
        """A user's turn about so many frames of so many tokens each, up to where the reply begins."""
        key = (prompt, frames, tokens)
        if key not in self._prompts:
            asked = _messages(prompt, frames)
            text = self.processor.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
            if len(self._prompts) > 4096:
                self._prompts.clear()
            image = self.processor.image_token
            self._prompts[key] = self.words(text.replace(image, image * tokens))
        return self._prompts[key]

    def reply_tokens(self, text: str) -> list[int]:
        """A reply and the end of the turn."""
        return [*self.words(text), int(self.tokenizer.eos_token_id)]

    def words(self, text: str) -> list[int]:
        """Tokens of a text, and none around it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def padded(self, rows: Sequence[list[int]], *, left: bool) -> Encoded:
        """Rows of tokens as a batch, int64 [B, L]: ids, mask and which are pictures."""
        length, pad = max(map(len, rows)), int(self.tokenizer.pad_token_id)
        gaps = [[pad] * (length - len(r)) for r in rows]
        ids = torch.tensor([g + r if left else r + g for r, g in zip(rows, gaps, strict=True)])
        ones = [[1] * len(r) for r in rows]
        zeros = [[0] * len(g) for g in gaps]
        mask = torch.tensor([z + o if left else o + z for o, z in zip(ones, zeros, strict=True)])
        types = (ids == self.model.config.image_token_id).long()
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": types}

    def positions(self, batch: Encoded) -> Tensor:
        """The model's own positions, int64 [3, B, L], worked out once per layout of text and pictures."""
        types, mask, grid = batch["mm_token_type_ids"], batch["attention_mask"], batch["image_grid_thw"]
        starts = (types[:, 1:] > types[:, :-1]).sum(1).cumsum(0).tolist()
        found = []
        for row, end in enumerate(starts):
            own = grid[starts[row - 1] if row else 0 : end]
            key = types[row].numpy().tobytes() + mask[row].numpy().tobytes() + own.numpy().tobytes()
            if key not in self._places:
                if len(self._places) > 4096:
                    self._places.clear()
                places, _ = self.plain.model.get_rope_index(
                    input_ids=batch["input_ids"][row, None],
                    mm_token_type_ids=types[row, None],
                    image_grid_thw=own,
                    attention_mask=mask[row, None],
                )
                self._places[key] = places[:, 0]
            found.append(self._places[key])
        return torch.stack(found, dim=1)


def _messages(prompt: str, frames: int) -> list[dict[str, Any]]:
    parts = [p for n in range(frames) for p in ({"type": "text", "text": str(n + 1)}, {"type": "image"})]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]
