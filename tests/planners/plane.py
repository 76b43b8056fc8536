"""A world of a mass in the plane that is seen by its place alone; its speed is known only from what was seen before."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import STATE, Observation, Rollout, WorldSpec, WorldState, WorldStep
from worldsim.errors import InvalidInputError

SPEC = WorldSpec(
    action=ActionSpec(names=("x", "y"), units=("m/s2", "m/s2"), low=(-1, -0.5), high=(1, 1), rate_hz=10),
    observes=(STATE,),
    latent_shape=(2, 1, 1),
    proprio_dim=2,
    horizon=20,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mass(WorldState):
    at: Tensor  # [B, 2]
    speed: Tensor  # [B, 2]


class Plane:
    """Progress is 1 at the origin and falls with the distance from it."""

    spec = SPEC

    def starts(self, indices: Tensor) -> Observation:
        angle = indices.float()
        return {STATE: torch.stack([angle.cos(), angle.sin()], dim=1)}

    def reset(self, starts: Observation, keys: Tensor) -> Mass:
        if STATE not in starts:
            raise InvalidInputError(f"{STATE} is missing.")
        return Mass(key=keys, step=torch.zeros_like(keys), at=starts[STATE], speed=torch.zeros_like(starts[STATE]))

    def see(self, state: WorldState, observation: Observation, action: Tensor) -> Mass:
        assert isinstance(state, Mass)
        at = observation[STATE]
        return dataclasses.replace(state, step=state.step + 1, at=at, speed=at - state.at)

    def step(self, state: WorldState, action: Tensor) -> tuple[Mass, WorldStep]:
        assert isinstance(state, Mass)
        speed = state.speed + 0.1 * self.spec.action.check(action)
        after = dataclasses.replace(state, step=state.step + 1, at=state.at + speed, speed=speed)
        return after, self.present(after)

    def present(self, state: WorldState) -> WorldStep:
        assert isinstance(state, Mass)
        away = state.at[:, 0].square() + state.at[:, 1].square()
        progress = 1 / (1 + away)
        return WorldStep(
            latent=state.at[:, :, None, None],
            proprio=state.at,
            progress=progress,
            success=progress.square(),
            uncertainty=away * 0,
        )

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[Mass, Rollout]:
        assert isinstance(state, Mass)
        steps = []
        for t in range(actions.shape[1]):
            state, step = self.step(state, actions[:, t])
            steps.append(step)
        return state, Rollout.stack(steps, actions)

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        return torch.zeros(*latent.shape[:-3], 4, 4, 3, dtype=torch.uint8)


class ChunkedPlane(Plane):
    """The same world in steps of two actions; it says where things stand after the second."""

    spec = dataclasses.replace(SPEC, actions_per_step=2)

    def see(self, state: WorldState, observation: Observation, action: Tensor) -> Mass:
        assert isinstance(state, Mass) and action.shape[1:] == (2, 2)
        at = observation[STATE]
        between = 0.05 * self.spec.action.check(action[:, 1])
        return dataclasses.replace(state, step=state.step + 1, at=at, speed=(at - state.at) / 2 + between)

    def step(self, state: WorldState, action: Tensor) -> tuple[Mass, WorldStep]:
        one = Plane()
        after, _ = one.step(state, action[:, 0])
        after, step = one.step(after, action[:, 1])
        return dataclasses.replace(after, step=state.step + 1), step


class Plant:
    """What is really there: the same mass, with its true speed.

    Args:
        n: Episodes.
    """

    def __init__(self, n: int) -> None:
        self._world = Plane()
        self._state = self._world.reset(self._world.starts(torch.arange(n)), torch.arange(n))

    def seen(self) -> Observation:
        return {STATE: self._state.at}

    def act(self, action: Tensor) -> Observation:
        self._state, _ = self._world.step(self._state, action)
        return self.seen()

    def away(self) -> Tensor:
        return self._state.at.norm(dim=1)


def drive(policy: Any, steps: int, n: int = 3, *, carry: Any = None) -> tuple[Tensor, Any, Plant]:
    """Let a policy act in the plant; its actions [n, T, 2], its carry and the plant afterwards."""
    plant, actions = Plant(n), []
    carry = policy.initial(n) if carry is None else carry
    for t in range(steps):
        action, carry = policy.act(plant.seen(), carry, torch.arange(n) + 100 * t)
        plant.act(action)
        actions.append(action)
    return torch.stack(actions, dim=1), carry, plant
