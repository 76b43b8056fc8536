"""A Qwen3-VL of half a million parameters with random weights, which one core can train, and its tokenizer.

The byte-level tokenizer is made from the texts that will be asked and answered; a loaded folder brings its own.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any, Literal

import torch

from worldsim.errors import InvalidInputError, missing_extra, unknown_name

FAMILIES = ("qwen3_vl", "qwen2_5_vl", "cosmos3_omni")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Sizes of a tiny model.

    Attributes:
        size: Side of the frames in pixels, 32 or 64.
        patch: Side of a patch in pixels.
        merge: Side of the square of neighbouring patches that become one token.
        hidden: Width of language model and tower, a multiple of 32.
        layers: Of the language model.
        depth: Of the vision tower.
        tower_width: Width of the vision tower; 0 takes `hidden`.
        heads: Of both.
        vocab: Most tokens.
        init: Standard deviation of the initial weights. The usual 0.02 learns too, but slower at this size.
        mean: Of the pixels of each colour in 0..1, which the processor takes off.
        deviation: By which it divides them. With those of the footage the empty scene becomes nearly zero, and a small tower
            learns several times faster.
        family: Which architecture, as its `model_type` in transformers.
    """

    size: int = 32
    patch: int = 8
    merge: int = 2
    hidden: int = 64
    layers: int = 3
    depth: int = 2
    tower_width: int = 0
    heads: int = 4
    vocab: int = 640
    init: float = 0.1
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    family: Literal["qwen3_vl", "qwen2_5_vl", "cosmos3_omni"] = "qwen3_vl"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise unknown_name("family of models", self.family, FAMILIES)
        if self.size not in (32, 64) or self.size % (self.merge * self.patch):
            raise InvalidInputError(
                f"size must be 32 or 64 and a multiple of merge * patch; got {self.size}, {self.merge}, {self.patch}."
            )
        if self.hidden % self.heads or (self.hidden // self.heads) % 16 or self.vocab < 300:
            raise InvalidInputError(
                f"hidden / heads must be a multiple of 16 and vocab >= 300; got {self.hidden}, {self.heads}, {self.vocab}."
            )


def make_tiny(texts: Iterable[str], config: TinyConfig, *, seed: int = 0) -> tuple[Any, Any]:
    """Make a model and its processor.

    Args:
        texts: What will be asked and answered; the tokenizer learns from them.
        config: Sizes.
        seed: Of the initial weights; the global generator is left as it was.

    Returns:
        Model and processor of transformers.

    Raises:
        MissingExtraError: transformers or torchvision is not installed.
    """
    try:
        import torchvision  # noqa: F401  (its absence would surface deep inside transformers)
        from transformers import AutoConfig, AutoModelForImageTextToText
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "transformers", "reason") from error
    words = train_tokenizer(texts, vocab=config.vocab)
    settings = AutoConfig.for_model(config.family, **_settings(config, words))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(settings, dtype=torch.float32)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    return model.eval(), _processor(config, words)


def _settings(config: TinyConfig, words: Any) -> dict[str, Any]:
    """The dictionaries of transformers' config."""
    ids = words.convert_tokens_to_ids
    return {
        "text_config": _text(config, words),
        "vision_config": _vision(config),
        "tie_word_embeddings": True,
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _text(config: TinyConfig, words: Any) -> dict[str, Any]:
    """The language model."""
    head = config.hidden // config.heads
    quarter = head // 8
    return {
        "vocab_size": -(-len(words) // 64) * 64,
        "hidden_size": config.hidden,
        "intermediate_size": 3 * config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "head_dim": head,
        "max_position_embeddings": 4096,
        "initializer_range": config.init,
        "tie_word_embeddings": True,
        "pad_token_id": words.pad_token_id,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [head // 2 - 2 * quarter, quarter, quarter],
            "mrope_interleaved": config.family != "qwen2_5_vl",
        },
    }


def _vision(config: TinyConfig) -> dict[str, Any]:
    """The vision tower."""
    vision: dict[str, Any] = {
        "depth": config.depth,
        "hidden_size": config.tower_width or config.hidden,
        "num_heads": config.heads,
        "intermediate_size": 3 * (config.tower_width or config.hidden),
        "in_channels": 3,
        "patch_size": config.patch,
        "spatial_merge_size": config.merge,
        "temporal_patch_size": 2,
        "out_hidden_size": config.hidden,
        "initializer_range": config.init,
    }
    if config.family == "qwen2_5_vl":
        vision |= {"window_size": 4 * config.patch, "fullatt_block_indexes": [config.depth - 1]}
    else:
        vision |= {"num_position_embeddings": (config.size // config.patch) ** 2, "deepstack_visual_indexes": [0]}
    return vision


def _processor(config: TinyConfig, words: Any) -> Any:
    """The family's processor; frames of the config's size pass without resizing."""
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    pixels = {
        "patch_size": config.patch,
        "merge_size": config.merge,
        "temporal_patch_size": 2,
        "image_mean": list(config.mean),
        "image_std": list(config.deviation),
        "size": {"shortest_edge": config.size**2, "longest_edge": 64 * config.size**2},
    }
    old = config.family == "qwen2_5_vl"
    make, video = (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor) if old else (Qwen3VLProcessor, Qwen3VLVideoProcessor)
    return make(
        image_processor=Qwen2VLImageProcessor(**pixels),
        tokenizer=words,
        video_processor=video(**pixels),
        chat_template=TEMPLATE,
    )


SPECIAL = (
    "<|pad|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Tokens that never reach a reader. The first pads, the third ends a reply."""
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
"""Tokens of their own, but ordinary text: trainers decode replies without special tokens before they reward them."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
    "{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as the Qwen families write it."""
_PIECES = r" ?\p{L}+| ?\p{N}|[^\s\p{L}\p{N}]|\s+"
"""Words, single digits, single signs, blanks: each digit of a cell can be read off by itself."""


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> Any:
    """Learn byte pairs from texts.

    Args:
        texts: Prompts and replies. Any other text can be written too, with more tokens.
        vocab: Most tokens, the 256 bytes included.

    Returns:
        A `transformers.PreTrainedTokenizerFast`.

    Raises:
        MissingExtraError: transformers is not installed.
    """
    try:
        from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "transformers", "reason") from error
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(TAGS),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    plain = (_without_tags(text) for text in texts)
    words.train_from_iterator(plain, trainer)
    words.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=SPECIAL[0],
        eos_token=SPECIAL[2],
        extra_special_tokens=list(SPECIAL[1:2] + SPECIAL[3:]),
        padding_side="right",
    )
    made.chat_template = TEMPLATE
    return made


def _without_tags(text: str) -> str:
    for tag in TAGS:
        text = text.replace(tag, "\n")
    return text
