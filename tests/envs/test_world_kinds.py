"""Worlds with several cameras, several frames per step, and actions that are choices or parts."""

import dataclasses
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as gymnasium_check
from torch import Tensor

from tests.envs.conftest import DotState, DotWorld
from worldsim.core import STATE, Camera, Observation, WorldStep
from worldsim.envs.world import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInputError
from worldsim.spaces import action_spec
from worldsim.testing import check_env, check_world

TOP, SIDE = (
    Camera(key="observation.images.top", height=8, width=6),
    Camera(key="observation.images.side", height=4, width=9),
)


class TwoCameraWorld(DotWorld):
    """The dot, seen from the top (x) and from the side (y)."""

    def __init__(self) -> None:
        super().__init__()
        self.spec = dataclasses.replace(self.spec, cameras=(TOP, SIDE), observes=(STATE,))

    def starts(self, indices: Tensor) -> Observation:
        at = super().starts(indices)[STATE]
        return {
            STATE: at,
            TOP.key: self.decode(at[:, :, None, None]),
            SIDE.key: self.decode(at[:, :, None, None], SIDE.key),
        }

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        own = self.spec.camera(camera)
        level = latent[..., 0, 0, 0] if own == TOP else -latent[..., 1, 0, 0]
        shade = (level.clamp(0, 1) * 255).to(torch.uint8)
        return shade[..., None, None, None].expand(*shade.shape, *own.size, 3).clone()


class FourFrameWorld(DotWorld):
    """The dot, four actions and four frames a step."""

    def __init__(self) -> None:
        super().__init__(horizon=12)
        self.spec = dataclasses.replace(self.spec, actions_per_step=4, latent_shape=(2, 4, 1))

    def step(self, state: DotState, action: Tensor) -> tuple[DotState, WorldStep]:
        if tuple(action.shape) != (state.batch, 4, 2):
            raise InvalidInputError(f"wrong shape {tuple(action.shape)}")
        at = state.at[:, None] + self.spec.action.check(action).cumsum(1)
        step = WorldStep(
            latent=at.movedim(1, 2)[..., None],
            proprio=at[:, -1],
            progress=at[:, -1, 0].clamp(0, 1),
            success=(at[:, -1, 0] > 0.5).float(),
            uncertainty=torch.zeros(state.batch),
        )
        return dataclasses.replace(state, step=state.step + 1, at=at[:, -1]), step

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        return self._draw(latent[..., 0].movedim(-2, -1))


class ChoiceWorld(DotWorld):
    """The dot, moved by whatever space: by the sum of the numbers of an action."""

    def __init__(self, space: spaces.Space[Any], *, actions_per_step: int = 1) -> None:
        super().__init__(horizon=12)
        action = action_spec(space, rate_hz=5)
        self.spec = dataclasses.replace(self.spec, action=action, actions_per_step=actions_per_step)
        self.seen: list[Tensor] = []

    def step(self, state: DotState, action: Tensor) -> tuple[DotState, WorldStep]:
        action = self.spec.action.check(action)
        self.seen.append(action)
        moved = action.flatten(1).sum(1, keepdim=True) / 100
        at = state.at + moved
        step = WorldStep(
            latent=at[:, :, None, None],
            proprio=at,
            progress=at[:, 0].clamp(0, 1),
            success=(at[:, 0] > 0.5).float(),
            uncertainty=torch.zeros(state.batch),
        )
        return dataclasses.replace(state, step=state.step + 1, at=at), step

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        frames = super().decode(latent)
        s = self.spec.actions_per_step
        return frames if s == 1 else frames.unsqueeze(-4).repeat_interleave(s, dim=-4)


def test_several_cameras_are_a_dict_by_name() -> None:
    world = TwoCameraWorld()
    check_world(world)
    env = gymnasium.make("worldsim/World-v0", world=world, render_mode="rgb_array")
    check_env(env)
    gymnasium_check(env.unwrapped)
    seen, _ = env.reset(seed=40)
    assert {name: frame.shape for name, frame in seen["pixels"].items()} == {"top": (8, 6, 3), "side": (4, 9, 3)}
    seen, *_ = env.step(np.array([0.1, -0.1], np.float32))
    assert seen["pixels"]["top"][0, 0, 0] == pytest.approx(0.5 * 255, abs=2)
    assert seen["pixels"]["side"][0, 0, 0] == pytest.approx(0.5 * 255, abs=2)
    assert env.render().shape == (8, 6, 3)  # the main camera


def test_several_cameras_in_a_vector_environment() -> None:
    envs = WorldVectorEnv(3, world=TwoCameraWorld(), max_episode_steps=2, autoreset_mode="SameStep")
    alone = WorldEnv(TwoCameraWorld())
    seen, _ = envs.reset(seed=[10, 20, 30])
    first, _ = alone.reset(seed=20)
    assert envs.observation_space.contains(seen)
    np.testing.assert_array_equal(seen["pixels"]["side"][1], first["pixels"]["side"])
    for _ in range(2):
        seen, *_, info = envs.step(np.zeros((3, 2), np.float32))
        own, *_ = alone.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(info["final_obs"][1]["pixels"]["side"], own["pixels"]["side"])


def test_a_step_of_four_frames_takes_four_actions() -> None:
    world = FourFrameWorld()
    check_world(world)
    env = gymnasium.make("worldsim/World-v0", world=world, render_mode="rgb_array")
    check_env(env)
    gymnasium_check(env.unwrapped)
    assert env.action_space == spaces.Box(-0.1, 0.1, (4, 2))
    seen, _ = env.reset(seed=10)
    assert (seen["pixels"] == seen["pixels"][:1]).all()
    for step in range(3):
        seen, _, _, truncated, _ = env.step(np.full((4, 2), [0.02, 0], np.float32))
        expected = 0.1 + 0.02 * (4 * step + np.arange(1, 5))
        np.testing.assert_allclose(seen["pixels"][:, 0, 0, 0] / 255, expected, atol=0.01)
        np.testing.assert_array_equal(env.render(), seen["pixels"][-1])
        assert truncated == (step == 2)  # 12 actions
    assert env.metadata["render_fps"] == 1
    env.reset(seed=0)
    with pytest.raises(InvalidInputError, match=r"expected \(4, 2\)"):
        env.unwrapped.step(np.zeros((1, 2), np.float32))
    envs = WorldVectorEnv(2, world=world)
    seen, _ = envs.reset(seed=[10, 50])
    assert seen["pixels"].shape == (2, 4, 8, 6, 3)
    seen, *_ = envs.step(np.full((2, 4, 2), [0.02, 0], np.float32))
    np.testing.assert_allclose(seen["agent_pos"][:, 0], [0.18, 0.58], atol=1e-5)


SPACES = {
    "discrete": spaces.Discrete(5, start=3),
    "multi-discrete": spaces.MultiDiscrete([3, 4]),
    "matrix": spaces.Box(-1, 1, (2, 2)),
    "dict": spaces.Dict({"arm": spaces.Box(-1, 1, (2,)), "tool": spaces.Discrete(3)}),
    "tuple": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(2)]),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("count", [1, 3])
def test_actions_are_those_of_the_original_environment(space: spaces.Space[Any], count: int) -> None:
    world = ChoiceWorld(space, actions_per_step=count)
    env = gymnasium.make("worldsim/World-v0", world=world)
    check_env(env)
    gymnasium_check(env.unwrapped, skip_render_check=True)
    if count == 1:
        assert env.action_space == space
    env.action_space.seed(1)
    actions = [env.action_space.sample() for _ in range(3)]
    env.reset(seed=0)
    for action in actions:
        assert env.action_space.contains(action)
        env.step(action)
    alone = torch.cat(world.seen[-3:])
    envs = WorldVectorEnv(3, world=world)
    envs.reset(seed=0)
    batch = gymnasium.vector.utils.concatenate(
        env.action_space, actions, gymnasium.vector.utils.create_empty_array(env.action_space, 3)
    )
    envs.step(batch)
    assert torch.equal(world.seen[-1], alone)


def test_a_choice_that_there_is_not_is_refused() -> None:
    env = WorldEnv(ChoiceWorld(spaces.Discrete(5, start=3)))
    env.reset(seed=0)
    for bad in (2, 8, 3.5, None):
        with pytest.raises(InvalidInputError, match="none of the choices|whole numbers"):
            env.step(bad)
