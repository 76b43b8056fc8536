"""A vision-language model that is shown items: it replies to them, or weighs their options.

One class for a model of half a million parameters and for a local Cosmos-Reason folder (Qwen2.5-VL, Qwen3-VL,
cosmos3_omni). Frames are shown as images or as video. Not for training (`worldsim.train`) or verdicts.

Shape legend: B items, L tokens, F frames, O options, V vocabulary.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.reason import pretrained
from worldsim.reason.display import Display, Encoded, Shown
from worldsim.reason.drawn import Drawn
from worldsim.reason.item import Item
from worldsim.reason.positions import Positions
from worldsim.reason.tiny import TinyConfig, tiny
from worldsim.reason.tower import hasten
from worldsim.reason.weigh import weigh

UNSAID = -100
"""Label of tokens that carry no loss."""


class VLM:
    """Model and processor.

    Args:
        model: An image-text-to-text model of transformers.
        processor: Its processor, of the Qwen families' interface.
        shown: Whether clips are shown as ``images`` or as ``video``; errors as `worldsim.reason.display.Display`.
    """

    def __init__(self, model: Any, processor: Any, *, shown: Shown = "images") -> None:
        self.model, self.processor = model, processor
        self.display, self._positions = Display(processor, shown=shown), Positions()
        hasten(model)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, dtype: torch.dtype = torch.float32, shown: Shown | None = None
    ) -> Self:
        """Load a folder offline; arguments and errors as `worldsim.reason.pretrained.load`.

        Frames are shown as its manifest says that the model was trained, else as images; `shown` overrules it.
        """
        return cls(*pretrained.load(folder, dtype=dtype), shown=shown or pretrained.shown(folder))

    @classmethod
    def tiny(
        cls, texts: Iterable[str], config: TinyConfig | None = None, *, seed: int = 0, shown: Shown = "images"
    ) -> Self:
        """Make a small model with random weights; arguments and errors as `worldsim.reason.tiny.tiny`."""
        return cls(*tiny(texts, config or TinyConfig(), seed=seed), shown=shown)

    def save_pretrained(self, folder: str | Path, *, manifest: dict[str, Any] | None = None) -> None:
        """Write a folder that `from_pretrained` and transformers read, whole or not at all.

        Raises:
            StorageError: It cannot be written.
        """
        told = {**(manifest or {}), "shown": self.display.shown}
        pretrained.save(Path(folder), self.model, self.processor, manifest=told)

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
        """One turn of a user, as `worldsim.reason.display.Display.messages`."""
        return self.display.messages(item)

    def encode(self, items: Sequence[Item], completions: Sequence[str] | None = None, *, left: bool = False) -> Encoded:
        """Turn items into a batch.

        Args:
            items: B items; frames may differ in number and, at some cost, in size.
            completions: B replies to learn. They end with the end-of-turn token and are the only tokens with labels.
            left: Pad on the left, for generation.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` int64 [B, L] and what `Display.show` says of pixels; with
            completions also `labels` int64 [B, L] and `position_ids` int64 [3, B, L].

        Raises:
            InvalidInputError: No items, another number of completions, or a video of unknown frame rate.
        """
        if not items or (completions is not None and len(completions) != len(items)):
            raise InvalidInputError(
                f"encode needs items, and as many completions; got {len(items)} and {len(completions or [])}."
            )
        prompts, pixels, own = self.display.show(items)
        replies = [[] for _ in items] if completions is None else [self.reply_tokens(text) for text in completions]
        batch = self.padded([p + r for p, r in zip(prompts, replies, strict=True)], left=left) | pixels
        if completions is not None:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, UNSAID)
            for row, prompt in enumerate(prompts):
                labels[row, : len(prompt)] = UNSAID
            batch |= {"labels": labels, "position_ids": self.positions(batch, own)}
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

    def kinds(self, ids_BL: Tensor) -> Tensor:
        """What each token stands for, int64 [B, L]: 0 words, 1 a picture, 2 a video."""
        config = self.model.config
        return (ids_BL == config.image_token_id).long() + 2 * (ids_BL == config.video_token_id).long()

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
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": self.kinds(ids)}

    def positions(self, batch: Encoded, own: Sequence[Encoded]) -> Tensor:
        """The model's own positions, int64 [3, B, L]; arguments as `worldsim.reason.positions.Positions.of`."""
        return self._positions.of(self.plain.model, batch, own)
