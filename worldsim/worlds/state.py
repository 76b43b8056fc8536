"""StateWorld: a learned world on the true state, for planners that know it and for comparison with pixel worlds.

It needs TRUE_STATE at the start, as only simulators give it, and draws nothing.

Shape legend: B batch, K history, E true state, P proprio, A action.
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.core import IMAGE, STATE, TRUE_STATE, Observation, WorldState, WorldStep
from worldsim.errors import InvalidInputError
from worldsim.worlds.latent import LatentState, LatentWorld


class StateWorld(LatentWorld):
    """A latent world whose latent is the true state: as poses where it is that, else as it is."""

    kind = "state_world"

    def present(self, state: WorldState) -> WorldStep:
        """Where the episodes stand now; the step also carries `true_state` [B, E]."""
        step = super().present(state)
        held_BC = self.tokenizer.decode(step.latent[:, :, None])[:, :, 0, 0, 0]
        return dataclasses.replace(step, true_state=held_BC[:, : self.tokenizer.config.size])

    def _read(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """TRUE_STATE and STATE as the latent, and STATE."""
        for name, size in ((TRUE_STATE, self.tokenizer.config.size), (STATE, self.spec.proprio_dim)):
            if name not in observation or observation[name].shape[1:] != (size,):
                found = tuple(observation[name].shape) if name in observation else "nothing"
                raise InvalidInputError(f"A state world starts from {name} [B, {size}]; got {found}.")
        true_state, proprio = (observation[k].to(self.device).float() for k in (TRUE_STATE, STATE))
        return self.tokenizer.encode(columns(true_state, proprio))[:, :, 0], proprio

    def _predict(self, state: LatentState, action_BA: Tensor) -> tuple[LatentState, WorldStep]:
        """One step, which also carries `true_state` [B, E]; what the latent holds of the body is not left to a head."""
        following, step = super()._predict(state, action_BA)
        held_BC = self.tokenizer.decode(step.latent[:, :, None])[:, :, 0, 0, 0]
        true_state, body = held_BC[:, : self.tokenizer.config.size], held_BC[:, self.tokenizer.config.size :]
        proprio = torch.cat([body, step.proprio[:, body.shape[1] :]], dim=1)
        past = torch.cat([following.proprio[:, :-1], proprio[:, None]], dim=1)
        step = dataclasses.replace(step, true_state=true_state, proprio=proprio)
        return dataclasses.replace(following, proprio=past), step

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """A state world has no pixels.

        Raises:
            InvalidInputError: Always; use a latent world or the simulator for policies that read IMAGE.
        """
        raise InvalidInputError(f"A state world cannot draw frames. Policies that need {IMAGE} need a latent world.")


def columns(true_state_BE: Tensor, proprio_BP: Tensor) -> Tensor:
    """What the tokenizers of state worlds encode: true state, then proprioception, as [B, E + P, 1, 1, 1]."""
    return torch.cat([true_state_BE, proprio_BP], dim=1)[:, :, None, None, None]
