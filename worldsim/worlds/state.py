"""StateWorld: a small network on the true state, the baseline that every pixel world is compared with.

It needs TRUE_STATE at the start, as only simulators give it, and draws nothing.

Shape legend: B batch, K history, E true state, P proprio, A action.
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.types import IMAGE, STATE, TRUE_STATE, Observation, WorldState, WorldStep
from worldsim.worlds.latent import LatentState, LatentWorld


class StateWorld(LatentWorld):
    """A latent world whose latent [E, 1, 1] is the true state itself."""

    kind = "state_world"

    @torch.inference_mode()
    def reset(self, starts: Observation, keys: Tensor) -> LatentState:
        """Begin B episodes from TRUE_STATE and STATE.

        Raises:
            InvalidInputError: TRUE_STATE is missing or of another width.
        """
        width = self.spec.latent_shape[0]
        for name, size in ((TRUE_STATE, width), (STATE, self.spec.proprio_dim)):
            if name not in starts or starts[name].shape[1:] != (size,):
                found = tuple(starts[name].shape) if name in starts else "nothing"
                raise InvalidInputError(f"A state world starts from {name} [B, {size}]; got {found}.")
        z_BCTHW = self.tokenizer.encode(starts[TRUE_STATE].to(self.device).float()[:, :, None, None, None])
        return self._remember(z_BCTHW[:, :, 0], starts[STATE], keys)

    @torch.inference_mode()
    def step(self, state: WorldState, action: Tensor) -> tuple[LatentState, WorldStep]:
        """Advance; the step also carries `true_state` [B, E]."""
        following, step = super().step(state, action)
        true_state = self.tokenizer.decode(step.latent[:, :, None])[:, :, 0, 0, 0]
        return following, dataclasses.replace(step, true_state=true_state)

    def decode(self, latent: Tensor) -> Tensor:
        """A state world has no pixels.

        Raises:
            InvalidInputError: Always; use a latent world or the simulator for policies that read IMAGE.
        """
        raise InvalidInputError(f"A state world cannot draw frames. Policies that need {IMAGE} need a latent world.")
