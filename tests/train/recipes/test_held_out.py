"""Held-out episodes end in a world as they ended, or not; each outcome is counted for itself."""

from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.envs.simulator import SimulatorWorld
from worldsim.train.recipes.held_out import _compare_outcomes


class Walk(gymnasium.Env):
    """A place that its actions move; beyond 2 is the goal."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    render_mode = "rgb_array"
    action_space = spaces.Box(-1, 1, (1,), np.float32)
    observation_space = spaces.Box(-1e3, 1e3, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = np.zeros(1, np.float32)
        return self.place.copy(), {}

    def step(self, action):
        self.place = self.place + action
        return self.place.copy(), 0.0, False, False, {"is_success": bool(self.place[0] > 2)}

    def render(self):
        return np.zeros((4, 4, 3), np.uint8)

    def get_state(self):
        return self.place.astype(np.float64)

    def set_state(self, state):
        self.place = state.astype(np.float32)


def episode(actions: list[float]) -> SimpleNamespace:
    places = np.cumsum([0.0, *actions])
    return SimpleNamespace(action=np.array(actions, np.float32)[:, None], success=(places > 2).astype(np.float32))


def test_each_episode_is_judged_at_its_own_end() -> None:
    world = SimulatorWorld(Walk(), horizon=6)
    episodes = [
        episode([1, 1, 1, 0, 0, 0]),
        episode([1, 1, 1]),  # ends early, solved
        episode([1, 1, 1, -1, -1, -1]),  # was solved on its way only
        episode([0, 0, 0, 0]),
    ]
    keys = torch.arange(4)
    figures = _compare_outcomes(world, world.starts(keys), keys, episodes)
    assert figures == {"solved_right": 1, "solved_episodes": 2, "unsolved_right": 1, "unsolved_episodes": 2}
    episodes[1].success[-1] = 0  # what was recorded says otherwise than the world
    figures = _compare_outcomes(world, world.starts(keys), keys, episodes)
    assert figures["unsolved_right"] == pytest.approx(2 / 3) and figures["solved_episodes"] == 1
    episodes[0].success[:] = np.nan  # it is not known
    assert _compare_outcomes(world, world.starts(keys), keys, episodes).keys() == {
        "unsolved_right",
        "unsolved_episodes",
    }
