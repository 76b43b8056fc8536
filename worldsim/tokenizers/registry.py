"""Tokenizers by name."""

from worldsim.registry import Registry
from worldsim.tokenizers.base import Tokenizer
from worldsim.tokenizers.causal.tokenizer import CausalHaarConfig, CausalHaarTokenizer
from worldsim.tokenizers.identity import IdentityConfig, IdentityTokenizer
from worldsim.tokenizers.layers.tokenizer import LayersConfig, LayersTokenizer
from worldsim.tokenizers.pca import HaarPCAConfig, HaarPCATokenizer
from worldsim.tokenizers.poses import PosesConfig, PosesTokenizer

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
