"""A vision-language model that answers items: it generates replies, or scores the options of their questions.

One class for a model of half a million parameters and for a local Cosmos-Reason folder (Qwen2.5-VL, Qwen3-VL,
cosmos3_omni). Options are scored in one pass and without generating; questions about the same frames share that pass.

Shape legend: B items or rows, L tokens, F frames, O options, Q questions, V vocabulary, C width.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.noise import uniform
from worldsim.reason.items.item import Item
from worldsim.reason.vlm.attention import use_batched_attention
from worldsim.reason.vlm.encode import Encoded, FrameMode, ItemEncoder, PositionCache
from worldsim.reason.vlm.load import load_model, save_model, trained_shown
from worldsim.reason.vlm.option_tree import OptionTree, build_tree, shared_prefix
from worldsim.reason.vlm.tiny import TinyConfig, make_tiny

IGNORED = -100
"""Label of tokens that carry no loss."""


class VLM:
    """Model and processor.

    Args:
        model: An image-text-to-text model of transformers.
        processor: Its processor, of the Qwen families' interface.
        shown: Whether clips are shown as ``images`` or as ``video``; errors as `worldsim.reason.vlm.encode.ItemEncoder`.
    """

    def __init__(self, model: Any, processor: Any, *, shown: FrameMode = "images") -> None:
        self.model, self.processor = model, processor
        self.encoder, self._positions = ItemEncoder(processor, shown=shown), PositionCache()
        use_batched_attention(model)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        shown: FrameMode | None = None,
    ) -> Self:
        """Load a folder offline; arguments and errors as `worldsim.reason.vlm.load.load_model`.

        The model computes on `device`. Frames are shown as its manifest says that it was trained, else as images; `shown`
        overrules it.
        """
        model, processor = load_model(folder, dtype=dtype)
        return cls(model.to(device), processor, shown=shown or trained_shown(folder))

    @classmethod
    def tiny(
        cls, texts: Iterable[str], config: TinyConfig | None = None, *, seed: int = 0, shown: FrameMode = "images"
    ) -> Self:
        """Make a small model with random weights; arguments and errors as `worldsim.reason.vlm.tiny.make_tiny`."""
        return cls(*make_tiny(texts, config or TinyConfig(), seed=seed), shown=shown)

    def save_pretrained(self, folder: str | Path, *, manifest: dict[str, Any] | None = None) -> None:
        """Write a folder that `from_pretrained` and transformers read, atomically.

        Raises:
            StorageError: It cannot be written.
        """
        facts = {**(manifest or {}), "shown": self.encoder.shown}
        save_model(Path(folder), self.model, self.processor, manifest=facts)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return torch.device(next(self.model.parameters()).device)

    @property
    def base_model(self) -> Any:
        """The model without what an adapter puts around it."""
        return getattr(self.model, "get_base_model", lambda: self.model)()

    @property
    def tokenizer(self) -> Any:
        """The processor's."""
        return self.processor.tokenizer

    def messages(self, item: Item) -> list[dict[str, Any]]:
        """One turn of a user, as `worldsim.reason.vlm.encode.ItemEncoder.messages`."""
        return self.encoder.messages(item)

    def encode(self, items: Sequence[Item], completions: Sequence[str] | None = None, *, left: bool = False) -> Encoded:
        """Turn items into a batch.

        Args:
            items: B items; frames may differ in number and, at some cost, in size.
            completions: B replies to learn. They end with the end-of-turn token and are the only tokens with labels.
            left: Pad on the left, for generation.

        Returns:
            `input_ids`, `attention_mask`, `mm_token_type_ids` int64 [B, L] and what `ItemEncoder.pixels` returns; with
            completions also `labels` int64 [B, L] and `position_ids` int64 [3, B, L].

        Raises:
            InvalidInputError: No items, another number of completions, or a video of unknown frame rate.
        """
        if not items or (completions is not None and len(completions) != len(items)):
            raise InvalidInputError(
                f"encode needs items, and as many completions; got {len(items)} and {len(completions or [])}."
            )
        prompts, pixels, own = self.encoder.encode(items)
        replies = [[] for _ in items] if completions is None else [self.reply_tokens(text) for text in completions]
        batch = self.pad_rows([p + r for p, r in zip(prompts, replies, strict=True)], left=left) | pixels
        if completions is not None:
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED)
            for row, prompt in enumerate(prompts):
                labels[row, : len(prompt)] = IGNORED
            batch |= {"labels": labels, "position_ids": self.position_ids(batch, own)}
        return {k: v.to(self.device) for k, v in batch.items()}

    @torch.no_grad()
    def generate(
        self,
        items: Sequence[Item],
        *,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        keys: Tensor | None = None,
        batch: int = 64,
    ) -> list[str]:
        """Generate replies.

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
        """Log-probability of each option as the answer, float32 [B, O]; as `score_options` with one question a row."""
        return score_options(self, [[i] for i in items], thinks=thinks)[0]

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
            logits_processor=LogitsProcessorList([KeyedSampler(keys, start, temperature)] if temperature else []),
        )
        return list(self.tokenizer.batch_decode(made[:, start:], skip_special_tokens=True))

    @property
    def picture_tokens(self) -> list[int]:
        """Placeholder tokens of pictures, which no reply may contain."""
        config = self.model.config
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return [int(n) for n in (getattr(config, name, None) for name in names) if n is not None]

    def token_types(self, ids_BL: Tensor) -> Tensor:
        """Type of each token, int64 [B, L]: 0 text, 1 a picture, 2 a video."""
        config = self.model.config
        return (ids_BL == config.image_token_id).long() + 2 * (ids_BL == config.video_token_id).long()

    def reply_tokens(self, text: str) -> list[int]:
        """A reply and the end of the turn."""
        return [*self.text_tokens(text), int(self.tokenizer.eos_token_id)]

    def text_tokens(self, text: str) -> list[int]:
        """Tokens of a text, without special ones around it."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def pad_rows(self, rows: Sequence[list[int]], *, left: bool) -> Encoded:
        """Rows of tokens as a batch, int64 [B, L]: ids, mask and which are pictures."""
        length, pad = max(map(len, rows)), int(self.tokenizer.pad_token_id)
        gaps = [[pad] * (length - len(r)) for r in rows]
        ids = torch.tensor([g + r if left else r + g for r, g in zip(rows, gaps, strict=True)])
        ones = [[1] * len(r) for r in rows]
        zeros = [[0] * len(g) for g in gaps]
        mask = torch.tensor([z + o if left else o + z for o, z in zip(ones, zeros, strict=True)])
        return {"input_ids": ids, "attention_mask": mask, "mm_token_type_ids": self.token_types(ids)}

    def position_ids(self, batch: Encoded, own: Sequence[Encoded]) -> Tensor:
        """The model's own positions, int64 [3, B, L]; arguments as `worldsim.reason.vlm.encode.PositionCache.positions`."""
        return self._positions.positions(self.base_model.model, batch, own)


@torch.no_grad()
def score_options(vlm: VLM, rows: Sequence[Sequence[Item]], *, thinks: Sequence[str] | None = None) -> list[Tensor]:
    """Log-probability of each option as the answer.

    Args:
        vlm: The model.
        rows: B rows of Q questions each; those of a row are about the same frames, which are encoded once.
        thinks: Text between the think tags, per row; empty by default, which needs no generation.

    Returns:
        Q tensors float32 [B, O], -inf past an item's own options. Their sum over options is at most 1; the rest is the
        probability of replies in other words.

    Raises:
        InvalidInputError: No rows, rows of different length, frames that differ within a row or are shown otherwise,
            another number of thoughts, or a video of unknown frame rate.
    """
    between = [""] * len(rows) if thinks is None else thinks
    if not rows or not all(rows) or len({len(r) for r in rows}) > 1 or len(between) != len(rows):
        raise InvalidInputError(
            f"Expected rows with the same number of questions each, and a thought for each row; got "
            f"{[len(r) for r in rows][:8]} and {len(between)} thoughts."
        )
    for row in rows:
        if not all(_same_frames(vlm, i, row[0]) for i in row[1:]):
            raise InvalidInputError(
                f"The questions of a row must be about the same frames; item {row[0].number}'s differ."
            )
    pixels, own = vlm.encoder.pixels([r[0] for r in rows])
    trees = [_option_tree(vlm, row, grids, think) for row, grids, think in zip(rows, own, between, strict=True)]
    found = _sum_logprobs(vlm, _hidden_states(vlm, trees, pixels, own), trees)
    counts = [len(i.options) for i in rows[0]]
    if any([len(i.options) for i in row] != counts for row in rows):
        return _split_ragged(found, rows)
    return list(found.split(counts, dim=1))


def _same_frames(vlm: VLM, item: Item, other: Item) -> bool:
    """Whether two items show the same frames in the same way."""
    if item.frames is not other.frames and not torch.equal(item.frames, other.frames):
        return False
    as_video = [vlm.encoder.is_video(i) for i in (item, other)]
    return item.times_s == other.times_s if all(as_video) else not any(as_video)


def _option_tree(vlm: VLM, row: Sequence[Item], own: Encoded, think: str) -> OptionTree:
    """All options of all questions about the same frames; their tokens count from where a question's options differ."""
    replies, given = [], []
    for item in row:
        prompt = vlm.encoder.prompt(item, own)
        options = [vlm.text_tokens(f"<think>{think}</think><answer>{o}</answer>") for o in item.options]
        replies += [(*prompt, *o) for o in options]
        given += [len(prompt) + shared_prefix(options)] * len(options)
    return build_tree(tuple(replies), tuple(given))


def _hidden_states(vlm: VLM, trees: Sequence[OptionTree], pixels: Encoded, own: Sequence[Encoded]) -> Tensor:
    """Last hidden states, [B, L, C]."""
    padded = vlm.pad_rows([[*t.stem, *t.leaves] for t in trees], left=False)
    length, stem = padded["input_ids"].shape[1], vlm.pad_rows([list(t.stem) for t in trees], left=False)
    places = vlm.position_ids(stem, own)
    places = torch.cat([places, places.new_zeros(3, len(trees), length - places.shape[2])], dim=2)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        first, end = len(tree.stem), len(tree.stem) + len(tree.leaves)
        places[:, row, first:end] = places[:, row, first - 1, None] + 1 + torch.tensor(tree.depth, dtype=torch.int64)
        mask[row, :end, :end] = tree.mask
    call = {k: padded[k] for k in ("input_ids", "mm_token_type_ids")} | pixels | {"position_ids": places}
    hidden: Tensor = vlm.base_model.model(
        **{k: v.to(vlm.device) for k, v in call.items()},
        attention_mask=mask[:, None].to(vlm.device),
        use_cache=False,
    ).last_hidden_state
    return hidden


def _sum_logprobs(vlm: VLM, hidden_BLC: Tensor, trees: Sequence[OptionTree]) -> Tensor:
    """Sum each option's tokens, float32 [B, O]."""
    rows, places, tokens, owner = [], [], [], []
    options = max(t.options for t in trees)
    for row, tree in enumerate(trees):
        for place, token, option in tree.steps:
            rows.append(row)
            places.append(len(tree.stem) - 1 + place)
            tokens.append(token)
            owner.append(row * options + option)
    logits = vlm.base_model.get_output_embeddings()(hidden_BLC[rows, places]).float()
    step = logits.log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].cpu()
    total = torch.zeros(len(trees) * options).index_add_(0, torch.tensor(owner), step)
    present = torch.zeros(len(trees) * options, dtype=torch.bool)
    present[owner] = True
    return total.masked_fill(~present, float("-inf")).reshape(len(trees), options)


def _split_ragged(found_BO: Tensor, rows: Sequence[Sequence[Item]]) -> list[Tensor]:
    """Split the options by question where rows have different numbers of them."""
    parts = []
    for question in range(len(rows[0])):
        most = max(len(r[question].options) for r in rows)
        part = torch.full((len(rows), most), float("-inf"))
        for row, items in enumerate(rows):
            first = sum(len(i.options) for i in items[:question])
            own = len(items[question].options)
            part[row, :own] = found_BO[row, first : first + own]
        parts.append(part)
    return parts


class KeyedSampler:
    """Samples tokens by adding Gumbel noise to the logits; what an item draws depends on its key and the step alone.

    Args:
        keys: int64 [B].
        start: Tokens of the prompt.
        temperature: Above 0.
    """

    def __init__(self, keys: Tensor, start: int, temperature: float) -> None:
        self._keys, self._start, self._temperature = keys, start, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy logits, float32 [B, V]."""
        step, shape = input_ids.shape[1] - self._start, (scores.shape[1],)
        even = uniform(self._keys, step, shape).to(scores.device).clamp(1e-12, 1 - 1e-7)
        return scores / self._temperature - (-even.log()).log()
