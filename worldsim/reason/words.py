"""A small byte-level tokenizer, made from the texts that will be asked and answered; and the chat template around them.

For models made from scratch only: a loaded folder brings its own. Not for pixels (`worldsim.reason.patches`).
"""

from collections.abc import Iterable
from typing import Any

from worldsim.errors import missing_extra

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


def tokenizer_of(texts: Iterable[str], *, vocab: int) -> Any:
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
