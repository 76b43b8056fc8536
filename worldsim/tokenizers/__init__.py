"""Tokenizers: frames or true states to latents and back; here by name."""

from collections.abc import Mapping
from typing import Any

from worldsim.registry import Registry
from worldsim.storage import from_json, to_json
from worldsim.tokenizers.base import LatentSpace, Tokenizer
from worldsim.tokenizers.cameras import CamerasConfig, CamerasTokenizer
from worldsim.tokenizers.causal.tokenizer import CausalHaarConfig, CausalHaarTokenizer
from worldsim.tokenizers.layers.tokenizer import LayersConfig, LayersTokenizer
from worldsim.tokenizers.pca import HaarPCAConfig, HaarPCATokenizer
from worldsim.tokenizers.state import IdentityConfig, IdentityTokenizer, PosesConfig, PosesTokenizer
from worldsim.tokenizers.structured.tokenizer import StructuredConfig, StructuredTokenizer

TOKENIZERS: Registry[Tokenizer] = Registry(
    "tokenizer",
    {
        "causal_haar": (CausalHaarConfig, CausalHaarTokenizer),
        "haar_pca": (HaarPCAConfig, HaarPCATokenizer),
        "identity": (IdentityConfig, IdentityTokenizer),
        "layers": (LayersConfig, LayersTokenizer),
        "poses": (PosesConfig, PosesTokenizer),
    },
)

CAMERAS = "cameras"
"""Name of several tokenizers joined, one for each camera."""
STRUCTURED = "structured"
"""Name of the tokenizer that reads proprioception too."""


def build_tokenizer(name: str, values: Mapping[str, Any]) -> LatentSpace:
    """Build an untrained tokenizer, of one camera or several, from its name and config as JSON gives it.

    Raises:
        UnknownNameError: No such tokenizer.
        InvalidInputError: The config does not fit.
    """
    if name == STRUCTURED:
        return StructuredTokenizer(from_json(StructuredConfig, values))
    if name != CAMERAS:
        return TOKENIZERS.build(name, values)
    config = from_json(CamerasConfig, values)
    return CamerasTokenizer(config, [build_tokenizer(n, c) for n, c in zip(config.names, config.configs, strict=True)])


def tokenizer_name(tokenizer: LatentSpace) -> str:
    """The name that `build_tokenizer` takes."""
    if isinstance(tokenizer, StructuredTokenizer):
        return STRUCTURED
    return CAMERAS if isinstance(tokenizer, CamerasTokenizer) else TOKENIZERS.name_of(tokenizer)


def join_cameras(parts: Mapping[str, LatentSpace]) -> LatentSpace:
    """One tokenizer of trained tokenizers by camera key; that of a single camera stays as it is."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    names = tuple(tokenizer_name(part) for part in parts.values())
    configs = tuple(to_json(part.config) for part in parts.values())
    return CamerasTokenizer(CamerasConfig(keys=tuple(parts), names=names, configs=configs), list(parts.values()))
