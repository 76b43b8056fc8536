"""Environments whose actions are choices, whole numbers, matrices or several parts: recorded flat, executed exactly."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.data.collect.random_exploration import Behaviour, Corrupted, Hold, Wander
from worldsim.data.collect.record import RecordingOptions, collect
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError
from worldsim.noise import uniform
from worldsim.spaces import action_spec, from_env


class Drawn(CartPoleEnv):
    """CartPole, drawn with NumPy."""

    def __init__(self) -> None:
        super().__init__(render_mode="rgb_array")
        self.taken: list[Any] = []

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        self.taken.append(action)
        return super().step(action)

    def render(self) -> Any:
        frame = np.full((16, 16, 3), 240, np.uint8)
        assert self.state is not None
        column = int(np.clip(self.state[0] + 2.4, 0, 4.7) / 4.8 * 16)
        frame[12:14, column] = 0
        frame[int(8 + 4 * np.cos(self.state[2])), column] = 100
        return frame


class Board(gymnasium.Env[Any, Any]):
    """Remembers every action and paints the last one; takes whatever space it is given."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    render_mode = "rgb_array"
    observation_space = spaces.Box(0, 255, (8, 8, 3), np.uint8)

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.action_space = space
        self.taken: list[Any] = []
        self.number = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._frame(), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action), action
        self.taken.append(action)
        self.number = int(np.abs(spaces.flatten(self.action_space, action)).sum() * 40)
        self.t += 1
        return self._frame(), 0.0, False, self.t == 5, {}

    def _frame(self) -> Any:
        return np.full((8, 8, 3), self.number % 256, np.uint8)


SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=2),
    "multi-discrete": spaces.MultiDiscrete([3, 5], start=[0, 1]),
    "binary": spaces.MultiBinary(3),
    "whole numbers": spaces.Box(0, 9, (2,), np.int64),
    "matrix": spaces.Box(-1, 1, (2, 3), np.float64),
    "half precision": spaces.Box(-1, 1, (2,), np.float16),
    "dict": spaces.Dict({"arm": spaces.Box(-1, 1, (2,)), "tool": spaces.Discrete(3)}),
    "tuple": spaces.Tuple([spaces.Dict({"wheel": spaces.Box(-2, 0, ())}), spaces.MultiDiscrete([[2], [2]])]),
}


def mixture(spec: ActionSpec) -> tuple[Behaviour, ...]:
    """Everything that explores without knowing the task."""
    return (
        Behaviour(name="wander", policy=Wander(spec)),
        Behaviour(name="hold", policy=Hold(spec)),
        Behaviour(name="corrupted", policy=Corrupted(Hold(spec), spec)),
    )


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_what_is_recorded_is_what_is_executed(space: spaces.Space[Any], tmp_path: Path) -> None:
    env = Board(space)
    spec = action_spec(space, rate_hz=4)
    collect(lambda: env, mixture(spec), episodes=4, out=tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    assert dataset.action_spec == spec
    recorded = np.concatenate([dataset.episode(i).action for i in range(4)])
    executed = np.stack([from_env(spec, action) for action in env.taken[1:]])  # the first is the trial step
    np.testing.assert_array_equal(recorded, executed)
    assert len(np.unique(recorded, axis=0)) > 2


class Leaning:
    """Pushes left or right, as the pole leans, and now and then otherwise."""

    needs = frozenset({"observation.state"})

    def initial(self, n: int) -> None:
        return None

    def act(self, observation: dict[str, Tensor], carry: None, keys: Tensor) -> tuple[Tensor, None]:
        right = observation["observation.state"][:, 2:3] > 0
        return (right ^ (uniform(keys, 0, (1,)) < 0.1)).float(), None


def test_cart_pole_is_recorded(tmp_path: Path) -> None:
    env = Drawn()
    collect(
        lambda: env,
        [Behaviour(name="lean", policy=Leaning())],
        episodes=2,
        out=tmp_path / "d",
        options=RecordingOptions(steps=9),
    )
    dataset = open_dataset(tmp_path / "d")
    recorded = np.concatenate([dataset.episode(i).action for i in range(2)])
    assert recorded.tolist() == [[float(a)] for a in env.taken[1:]]
    assert {0.0, 1.0} == set(recorded.ravel().tolist())
    assert dataset.action_spec.choices == (2,)
    again = Drawn()
    episode = dataset.episode(0)
    again.reset(seed=episode.seed)
    for action, proprio in zip(episode.action, episode.proprio[1:], strict=True):
        state, *_ = again.step(np.int64(action[0]))
        np.testing.assert_array_equal(state, proprio)


def test_an_integer_environment_takes_a_users_names(tmp_path: Path) -> None:
    env = Board(SPACES["whole numbers"])
    own = ActionSpec(names=("x", "y"), units=("px", "px"), low=(0, 0), high=(9, 4), rate_hz=4)
    collect(lambda: env, mixture(own), episodes=1, out=tmp_path / "d", options=RecordingOptions(action=own))
    recorded = open_dataset(tmp_path / "d").episode(0).action
    assert open_dataset(tmp_path / "d").action_spec.names == ("x", "y")
    assert recorded.tolist() == [a.tolist() for a in env.taken[1:]]


def test_limits_that_are_none_are_refused_before_anything_is_recorded(tmp_path: Path) -> None:
    env = Board(spaces.Box(-np.inf, np.inf, (2,)))
    with pytest.raises(InvalidInputError, match="Give the range that the robot really uses"):
        collect(lambda: env, mixture(action_spec(spaces.Box(-1, 1, (2,)), rate_hz=4)), episodes=1, out=tmp_path / "d")
    assert not (tmp_path / "d").exists()
