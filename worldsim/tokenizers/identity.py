"""The tokenizer of state worlds whose states are no planar poses: the latent is the true state, [E, 1, 1], as it is."""

import dataclasses

from torch import Tensor, nn

from worldsim.tokenizers.base import LatentFamily


@dataclasses.dataclass(frozen=True, kw_only=True)
class IdentityConfig:
    """Width of the state.

    Attributes:
        size: E.
    """

    size: int


class IdentityTokenizer(nn.Module):
    """Passes states [B, E, T, 1, 1] through both ways; columns behind them (proprioception) are not encoded."""

    family: LatentFamily = "vector"
    temporal_stride = 1

    def __init__(self, config: IdentityConfig) -> None:
        """Nothing to make."""
        super().__init__()
        self.config = config

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(E, 1, 1)."""
        return (self.config.size, 1, 1)

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Return the state: the first E columns."""
        return x_BCTHW[:, : self.config.size]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Return the state."""
        return z_BCTHW

    def loss(self, x_BCTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Nothing to learn: zero."""
        return x_BCTHW.sum() * 0, {}
