"""Tokenizers by name."""

from worldsim.registry import Registry
from worldsim.tokenizers.base import Tokenizer
from worldsim.tokenizers.layers import LayersConfig, LayersTokenizer

TOKENIZERS: Registry[Tokenizer] = Registry("tokenizer", {"layers": (LayersConfig, LayersTokenizer)})
