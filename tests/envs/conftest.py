"""A small world with a known law, for what is about faces and not about physics."""

import dataclasses
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, Camera, Observation, Rollout, WorldSpec, WorldState, WorldStep
from worldsim.envs.simulator import SimulatorWorld
from worldsim.errors import InvalidInputError
from worldsim.noise import normal

SIZE = (8, 6)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DotState(WorldState):
    """Where the dot is."""

    at: Tensor  # [B, 2]


class DotWorld:
    """A dot moved by its action and a little noise; success where x > 0.5. Counts its calls."""

    def __init__(self, *, success_at: str = "end", horizon: int = 6) -> None:
        action = ActionSpec(names=("dx", "dy"), units=("m", "m"), low=(-0.1, -0.1), high=(0.1, 0.1), rate_hz=5)
        self.spec = WorldSpec(
            action=action,
            cameras=(Camera(height=SIZE[0], width=SIZE[1]),),
            latent_shape=(2, 1, 1),
            proprio_dim=2,
            horizon=horizon,
            success_at=success_at,  # type: ignore[arg-type]
            task="Move the dot to the right.",
        )
        self.num_starts = 100
        self.steps = self.decodes = 0

    def starts(self, indices: Tensor) -> Observation:
        at = torch.stack([indices % 100 * 0.01, -(indices % 100) * 0.01], dim=1).float()
        return {IMAGE: self._draw(at), STATE: at}

    def reset(self, starts: Observation, keys: Tensor) -> DotState:
        if STATE not in starts:
            raise InvalidInputError(f"{STATE} is missing.")
        return DotState(key=keys, step=torch.zeros_like(keys), at=starts[STATE].clone())

    def step(self, state: DotState, action: Tensor) -> tuple[DotState, WorldStep]:
        if tuple(action.shape) != (state.batch, 2):
            raise InvalidInputError("wrong width")
        self.steps += 1
        at = state.at + self.spec.action.check(action) + 0.001 * normal(state.key, state.step, (2,))
        success = (at[:, 0] > 0.5).float()
        step = WorldStep(
            latent=at[:, :, None, None],
            proprio=at,
            progress=at[:, 0].clamp(0, 1),
            success=success,
            uncertainty=0 * success,
        )
        return dataclasses.replace(state, step=state.step + 1, at=at), step

    def rollout(self, state: DotState, actions: Tensor) -> tuple[DotState, Rollout]:
        steps = []
        for t in range(actions.shape[1]):
            state, step = self.step(state, actions[:, t])
            steps.append(step)
        return state, Rollout.stack(steps, actions)

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        self.decodes += 1
        return self._draw(latent[..., 0, 0])

    @staticmethod
    def _draw(at: Tensor) -> Tensor:
        level = (at[..., 0].clamp(0, 1) * 255).to(torch.uint8)
        return level[..., None, None, None].expand(*level.shape, *SIZE, 3).clone()


@pytest.fixture
def dots() -> DotWorld:
    return DotWorld()


@pytest.fixture(scope="module")
def push_world() -> Iterator[SimulatorWorld]:
    yield SimulatorWorld("worldsim/Push-v0")
