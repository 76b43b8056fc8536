"""An environment and policies that are not worldsim's: a dot on a field that shall reach the middle."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray


class Dot(gymnasium.Env[Any, Any]):
    """A dark dot of 3 px on light ground, moved by at most 2 px a step; solved within 4 px of the middle."""

    metadata = {"render_fps": 5, "success_at": "end"}  # noqa: RUF012

    def __init__(self) -> None:
        self.observation_space = gymnasium.spaces.Dict(
            {
                "pixels": gymnasium.spaces.Box(0, 255, (32, 32, 3), np.uint8),
                "agent_pos": gymnasium.spaces.Box(-16, 16, (2,), np.float32),
            }
        )
        self.action_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)

    def _seen(self) -> dict[str, NDArray[Any]]:
        grid = np.arange(32) - 15.5
        near = (grid[None, :] - self.at[0]) ** 2 + (grid[:, None] - self.at[1]) ** 2
        cover = np.clip(3.5 - np.sqrt(near), 0, 1)[..., None]
        frame = 220 * (1 - cover) + np.array([40, 60, 160]) * cover
        return {"pixels": frame.round().astype(np.uint8), "agent_pos": self.at.astype(np.float32)}

    def _info(self) -> dict[str, Any]:
        distance = float(np.hypot(*self.at))
        return {"is_success": distance < 4, "progress": max(0.0, 1 - distance / 16)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.at = self.np_random.uniform(-11, 11, 2)
        return self._seen(), self._info()

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.at = np.clip(self.at + np.clip(action, -2, 2), -12, 12)
        info = self._info()
        return self._seen(), info["progress"], False, False, info


def make() -> Dot:
    """Make the environment."""
    return Dot()


def good(observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Go to the middle."""
    return np.clip(-observation["observation.state"], -2, 2).astype(np.float32)


def lazy(observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Stay."""
    return np.zeros((len(observation["observation.state"]), 2), np.float32)


def bad(observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Flee."""
    return np.clip(observation["observation.state"], -2, 2).astype(np.float32)


def broken(observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """Return what no robot can do."""
    return np.full((len(observation["observation.state"]), 2), np.nan, np.float32)
