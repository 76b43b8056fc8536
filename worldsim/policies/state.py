"""StatePolicy: a small network from the true task state and proprioception to actions, PixelPolicy's cheap sibling.

Only simulators and state worlds give the true state.

Shape legend: M rows, S true state, P proprio, K chunk, A action, E encoded action.
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from worldsim.core import STATE, TRUE_STATE, Observation
from worldsim.errors import InvalidInputError
from worldsim.policies.trained import TrainedPolicy, TrainedPolicyConfig, check_statistics, mlp


@dataclasses.dataclass(frozen=True, kw_only=True)
class StatePolicyConfig(TrainedPolicyConfig):
    """Sizes of a state policy.

    Attributes:
        state_mean: Mean of the true state it was trained on, one number per dimension S.
        state_std: Its spread, positive.
        hidden: Width of the layers.
        depth: Number of hidden layers.

    Raises:
        InvalidInputError: Statistics that do not fit, or a size that is not positive.
    """

    state_mean: tuple[float, ...]
    state_std: tuple[float, ...]
    hidden: int = 128
    depth: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_statistics("state", mean=self.state_mean, std=self.state_std)
        if self.hidden < 1 or self.depth < 1:
            raise InvalidInputError(f"hidden and depth must be at least 1; got {self.hidden} and {self.depth}.")


class StatePolicy(TrainedPolicy):
    """Actions from the true state; see `StatePolicyConfig`.

    Reads TRUE_STATE float32 [n, S] and STATE float32 [n, P].
    """

    kind: ClassVar[str] = "state"
    config_class: ClassVar[type[TrainedPolicyConfig]] = StatePolicyConfig
    config: StatePolicyConfig

    def __init__(self, config: StatePolicyConfig, *, name: str = "") -> None:
        super().__init__(config, name=name)
        self.register_buffer("state_mean", torch.tensor(config.state_mean), persistent=False)
        self.register_buffer("state_std", torch.tensor(config.state_std), persistent=False)
        features = len(config.state_mean) + self.proprio_dim
        self.net = mlp((features, *[config.hidden] * config.depth, config.chunk * config.action.encoded_dim))

    @classmethod
    def reads(cls, cameras: Sequence[str]) -> frozenset[str]:
        """The true state and the proprioception; no camera."""
        return frozenset({TRUE_STATE, STATE})

    def forward(self, observation: Observation) -> Tensor:
        """Predict chunks of actions, [M, K, E], as `ActionSpec.normalize` encodes them (not clipped)."""
        state = (observation[TRUE_STATE].float() - self.get_buffer("state_mean")) / self.get_buffer("state_std")
        proprio = self.normalized_proprio(observation)
        encoded: Tensor = self.net(torch.cat([state.to(proprio.dtype), proprio], dim=1))
        return encoded.reshape(-1, self.config.chunk, self.config.action.encoded_dim)

    def check_observation(self, observation: Observation, n: int) -> None:
        """Check the widths of both inputs.

        Raises:
            PolicyError: Another width than trained on.
        """
        super().check_observation(observation, n)
        self.expect(observation, TRUE_STATE, (n, len(self.config.state_mean)))
