"""Tokenizers of state worlds: poses where the true state holds planar ones, else the true state as it is.

Planar poses are the latent of `worldsim.tokenizers.layers.tokenizer`, exactly. The true state is a row of blocks, each (x, y,
cos yaw, sin yaw); proprioception begins with the position of the round body that pushes them, in the same units. Only the
origin and the unit are changed, so that the rigid predictor sees what it sees of pictures. States of another kind (joint
angles, quaternions) pass through.

Shape legend: N rows, B batch, T time, L layers (blocks, then the body), E true state (4 (L - 1) where it is poses), P proprio.
"""

import dataclasses

import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.base import LatentFamily
from worldsim.tokenizers.layers.tokenizer import POSE

_CIRCLE = 1e-3
"""How far cos^2 + sin^2 may be from 1."""
_RATIO = 3.0
"""Blocks and body share a unit when neither roams this many times farther than the other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosesConfig:
    """Layout of the poses.

    Attributes:
        orders: 1 for every block, then 0 for the round body, as in `LayersConfig`.
    """

    orders: tuple[int, ...] = (1, 0)

    def __post_init__(self) -> None:
        if len(self.orders) < 2 or any(o != 1 for o in self.orders[:-1]) or self.orders[-1] != 0:
            raise InvalidInputError(f"orders must be 1 for each block, then 0 for the body; got {self.orders}.")

    @property
    def size(self) -> int:
        """E, the width of the true state."""
        return POSE * (len(self.orders) - 1)


class PosesTokenizer(nn.Module):
    """Encode true state and proprioception [B, E + P, T, 1, 1] as poses [B, 4 L, T, 1, 1], and decode what they hold."""

    family: LatentFamily = "layers"
    temporal_stride = 1

    center_2: Tensor
    half_width: Tensor

    def __init__(self, config: PosesConfig) -> None:
        """Make a tokenizer of unit scale; `fit` or loaded weights set it."""
        super().__init__()
        self.config = config
        self.register_buffer("center_2", torch.zeros(2))
        self.register_buffer("half_width", torch.ones(()))

    @property
    def orders(self) -> tuple[int, ...]:
        """Rotational symmetry of each layer."""
        return self.config.orders

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(4 L, 1, 1)."""
        return (POSE * len(self.config.orders), 1, 1)

    @classmethod
    def fit(cls, true_state_NE: Tensor, proprio_NP: Tensor) -> "PosesTokenizer":
        """Recognise planar poses and measure where they roam: positions come to lie in about [-1, 1].

        Raises:
            InvalidInputError: These are no planar poses; the message says why.
        """
        width = true_state_NE.shape[1]
        if not width or width % POSE or proprio_NP.shape[1] < 2:
            raise InvalidInputError(
                f"Planar poses are (x, y, cos, sin) per block and a body position (x, y, ...); got true states of width "
                f"{width} and proprioception of width {proprio_NP.shape[1]}. Use tokenizer.name=identity."
            )
        block_NLP = true_state_NE.unflatten(1, (-1, POSE))
        off = float((block_NLP[..., 2:].square().sum(-1) - 1).abs().max())
        if not off < _CIRCLE:
            raise InvalidInputError(
                f"Columns 3 and 4 of every four must be cos and sin; their squares add up to 1 only within {off:.3g}. "
                "Use tokenizer.name=identity."
            )
        block_N2, body_N2 = block_NLP[..., :2].flatten(0, 1), proprio_NP[:, :2]
        roam = [float((xy.amax(0) - xy.amin(0)).max()) for xy in (block_N2, body_N2)]
        if not 0 < max(roam) < _RATIO * min(roam):
            raise InvalidInputError(
                f"Blocks roam over {roam[0]:.3g} and the body over {roam[1]:.3g}: these are not positions in one unit. "
                "Use tokenizer.name=identity."
            )
        low, high = (f(torch.cat([block_N2, body_N2]), 0) for f in (torch.amin, torch.amax))
        tokenizer = cls(PosesConfig(orders=(1,) * block_NLP.shape[1] + (0,)))
        tokenizer.center_2.copy_((low + high) / 2)
        tokenizer.half_width.copy_((high - low).max() / 2)
        return tokenizer

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """True state, then proprioception [B, E + P, T, 1, 1] -> poses [B, 4 L, T, 1, 1]."""
        x_BTC = x_BCTHW[..., 0, 0].transpose(1, 2)
        body = x_BTC[..., self.config.size : self.config.size + 2]
        upright = torch.tensor([1.0, 0.0]).to(body).expand_as(body)
        z_BTLP = torch.cat([x_BTC[..., : self.config.size], body, upright], dim=-1).unflatten(-1, (-1, POSE))
        z_BTLP = torch.cat([(z_BTLP[..., :2] - self.center_2) / self.half_width, z_BTLP[..., 2:]], dim=-1)
        return z_BTLP.flatten(2).transpose(1, 2)[..., None, None]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Poses [B, 4 L, T, 1, 1] -> true state, then the body's position [B, E + 2, T, 1, 1]."""
        z_BTLP = z_BCTHW[..., 0, 0].transpose(1, 2).unflatten(-1, (-1, POSE))
        x_BTLP = torch.cat([z_BTLP[..., :2] * self.half_width + self.center_2, z_BTLP[..., 2:]], dim=-1)
        return x_BTLP.flatten(2)[..., :-2].transpose(1, 2)[..., None, None]

    def loss(self, x_BCTHW: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Nothing to learn: zero."""
        return x_BCTHW.sum() * 0, {}


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
