"""StateWorld: a learned world on the true state, for planners that know it and for comparison with pixel worlds.

It needs TRUE_STATE at the start, as only simulators give it, and has no camera.

Shape legend: B batch, E true state, P proprio, A action, C latent channels.
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.core import STATE, TRUE_STATE, Observation, WorldState, WorldStep
from worldsim.errors import InvalidInputError
from worldsim.tokenizers.cameras import camera_tokenizer, encode_frame
from worldsim.worlds.latent import LearnedWorld
from worldsim.worlds.latent_state import LatentState


class StateWorld(LearnedWorld):
    """A learned world whose latent is the true state: as poses where it is that, else as it is."""

    kind = "state_world"

    def present(self, state: WorldState) -> WorldStep:
        """Where the episodes stand now; the step also carries `true_state` [B, E]."""
        step = super().present(state)
        return dataclasses.replace(step, true_state=self._held(step.latent)[:, : self.tokenizer.config.size])

    def _read(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """TRUE_STATE and STATE as the latent, and STATE."""
        for name, size in ((TRUE_STATE, self.tokenizer.config.size), (STATE, self.spec.proprio_dim)):
            if name not in observation or observation[name].shape[1:] != (size,):
                found = tuple(observation[name].shape) if name in observation else "nothing"
                raise InvalidInputError(f"A state world starts from {name} [B, {size}]; got {found}.")
        true_state, proprio = (observation[k].to(self.device, self.dtype) for k in (TRUE_STATE, STATE))
        return encode_frame(self.tokenizer, columns(true_state, proprio))[:, :, 0], proprio

    def _predict(self, state: LatentState, action_BE: Tensor) -> tuple[LatentState, WorldStep]:
        """One step, which also carries `true_state` [B, E]; the part of proprioception the latent holds is read from it."""
        following, step = super()._predict(state, action_BE)
        held_BC = self._held(step.latent)
        true_state, body = held_BC[:, : self.tokenizer.config.size], held_BC[:, self.tokenizer.config.size :]
        proprio = torch.cat([body, step.proprio[:, body.shape[1] :]], dim=1)
        step = dataclasses.replace(step, true_state=true_state, proprio=proprio)
        return dataclasses.replace(following, proprio=proprio), step

    def _held(self, latent: Tensor) -> Tensor:
        """True state, and what the latent holds of the proprioception, [B, E + ...]."""
        return camera_tokenizer(self.tokenizer, TRUE_STATE).decode(latent[:, :, None])[:, :, 0, 0, 0]


def columns(true_state_BE: Tensor, proprio_BP: Tensor) -> Tensor:
    """What the tokenizers of state worlds encode: true state, then proprioception, as [B, E + P, 1, 1, 1]."""
    return torch.cat([true_state_BE, proprio_BP], dim=1)[:, :, None, None, None]
