"""What a latent world remembers of its episodes, and the config of its folder.

Shape legend: B batch, C H W latent of one frame, P proprio.
"""

import dataclasses
from typing import Any

from torch import Tensor

from worldsim.conditions import Conditions
from worldsim.core import Rows, WorldSpec, WorldState
from worldsim.worlds.expected_error import ErrorModelConfig, OpenLoop
from worldsim.worlds.heads import HeadsConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentState(WorldState):
    """What a latent world remembers of B episodes."""

    carry: Rows  # [B, ...], the predictor's own
    z: Tensor  # [B, C, H, W], the newest latent frame
    proprio: Tensor  # [B, P], physical units, now
    start: Tensor  # [B, C, H, W], the episode's first latent frame
    conditions: Conditions
    done: OpenLoop | None = None  # since the last observation; only where the world has an error model


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentWorldConfig:
    """Everything that rebuilds a latent world but its weights.

    Attributes:
        spec: What the world promises.
        tokenizer: Registered name of the tokenizer; `tokenizer_config` its config as JSON values.
        predictor: Registered name of the predictor; `predictor_config` its config as JSON values.
        heads: Config of the heads.
        errors: Config of the error model; None for a world whose uncertainty is its predictor's own.
    """

    spec: WorldSpec
    tokenizer: str
    tokenizer_config: dict[str, Any]
    predictor: str
    predictor_config: dict[str, Any]
    heads: HeadsConfig
    errors: ErrorModelConfig | None = None
