"""A hub cache of one tiny language model, and LeRobot checkpoints that name it."""

import json
import warnings
from pathlib import Path

import torch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WORDS = ["[UNK]", "[PAD]", "push", "pull", "the", "block", "left", "right"]


def cached_model(cache, name, fill):
    """Let `fill` write a model into the cache under a name of the hub."""
    repository = Path(cache) / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    fill(snapshot)
    return snapshot


def tiny_tokenizer(folder):
    """A tokenizer of eight words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=raw, unk_token=WORDS[0], pad_token=WORDS[1]).save_pretrained(folder)


def tiny_clip(folder):
    """A CLIP of some ten thousand weights, and the tokenizer."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(1)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **size,
            "vocab_size": len(WORDS),
            "max_position_embeddings": 8,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**size, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    with warnings.catch_warnings(action="ignore"):
        CLIPModel(config).save_pretrained(folder)
        tiny_tokenizer(folder)


def tiny_smolvlm(folder):
    """The vision-language model inside a SmolVLA, with two layers of 32 numbers; only its configs and processor."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        SmolVLMConfig,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    special = {
        "fake_image_token": "<fake_token_around_image>",
        "image_token": "<image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    words = [*WORDS, *special.values()]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=WORDS[0]))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token=WORDS[0], pad_token=WORDS[1], extra_special_tokens=special
    )
    text = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "vocab_size": 64,
        "pad_token_id": 1,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    SmolVLMConfig(
        text_config=text,
        vision_config={**vision, "image_size": 64, "patch_size": 16},
        scale_factor=2,
        image_token_id=words.index("<image>"),
        pad_token_id=1,
    ).save_pretrained(folder)
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor()).save_pretrained(folder)


def shrink_pi(module, monkeypatch):
    """Let pi0 or pi0.5 be built with two layers of 32 numbers; LeRobot knows sizes of billions only."""
    size = module.GemmaConfig(width=32, depth=2, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=16)
    full, expert = module.PaliGemmaForConditionalGenerationWithPiGemma, module.PiGemmaForCausalLM

    def small(config):
        config.text_config.vocab_size, vision = 64, config.vision_config
        vision.hidden_size = vision.intermediate_size = 16
        vision.num_hidden_layers, vision.num_attention_heads, vision.projection_dim = 1, 2, 32
        return full(config=config)

    def small_expert(config):
        config.vocab_size = 64
        return expert(config=config)

    monkeypatch.setattr(module, "get_gemma_config", lambda variant: size)
    monkeypatch.setattr(module, "PaliGemmaForConditionalGenerationWithPiGemma", small)
    monkeypatch.setattr(module, "PiGemmaForCausalLM", small_expert)


def edit(file, change):
    """Rewrite a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
