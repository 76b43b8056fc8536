"""worldsim's environments as LeRobot makes them: `--env.type=worldsim --env.task=worldsim/Push-v0`."""

from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.utils.constants import ACTION

from worldsim.core import IMAGE, STATE, TRUE_STATE
from worldsim.errors import InvalidInputError

_KINDS = {
    "pixels": (FeatureType.VISUAL, IMAGE),
    "agent_pos": (FeatureType.STATE, STATE),
    "environment_state": (FeatureType.ENV, TRUE_STATE),
}
_DEFAULTS = {
    "worldsim/Push-v0": {"obs_type": "all"},
    "worldsim/World-v0": {"obs_type": "pixels_agent_pos", "world": "push"},
}


@EnvConfig.register_subclass("worldsim")
@dataclass
class WorldsimEnv(EnvConfig):  # type: ignore[misc]
    """A simulated task or a world as LeRobot's environment; all episodes of a batch are stepped in this process.

    Where a task counts as solved by how it ends, `is_success` is given at the end of an episode alone: LeRobot takes an
    episode for a success as soon as it was given once.

    Attributes:
        task: A registered Gymnasium id.
        world: For ``worldsim/World-v0``: a shipped world or a folder, by default ``push``. LeRobot films what it
            evaluates, and state worlds draw nothing.
        obs_type: What is observed; by default ``all`` of a simulated task, ``pixels_agent_pos`` of a world.
        episode_length: Control steps after which an episode ends; by default the task's own.
        options: Other arguments of the environment, ``--env.options='{"variation": {"friction": 0.1}}'``.
        fps: Control steps per second; taken from the environment, as are `features` and `features_map`.

    Raises:
        InvalidInputError: Not a registered id, an argument that it does not take, or observations under other keys than
            worldsim's.
    """

    task: str | None = "worldsim/Push-v0"
    world: str | None = None
    obs_type: str | None = None
    episode_length: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.gym_id not in gymnasium.registry:
            raise InvalidInputError(
                f"{self.gym_id!r} is no registered Gymnasium id. Known here: {', '.join(_DEFAULTS)}."
            )
        env = self._make(1)
        self.fps = int(env.metadata["render_fps"])
        self._describe(env)
        env.close()

    @property
    def gym_id(self) -> str:
        """The task, which is an id in full."""
        return str(self.task)

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Arguments of the environment."""
        named = {"world": self.world, "obs_type": self.obs_type, "max_episode_steps": self.episode_length}
        given = {key: value for key, value in named.items() if value is not None}
        return {"render_mode": "rgb_array"} | _DEFAULTS.get(self.gym_id, {}) | given | self.options

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv[Any, Any, Any]]]:
        """One suite with one task.

        Args:
            n_envs: Episodes side by side.
            use_async_envs: Not heeded: the physics takes less time than a message to another process, and a world steps
                all episodes in one pass.
        """
        return {self.type: {0: self._make(n_envs)}}

    def _make(self, n_envs: int) -> "EndOfEpisode":
        reset: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}
        if self.gym_id not in _DEFAULTS:
            reset = {"vectorization_mode": "sync", "vector_kwargs": reset}
        try:
            return EndOfEpisode(gymnasium.make_vec(self.gym_id, num_envs=n_envs, **reset, **self.gym_kwargs))
        except TypeError as error:
            raise InvalidInputError(f"{self.gym_id} does not take {self.gym_kwargs}: {error}.") from error

    def _describe(self, env: "EndOfEpisode") -> None:
        """Take features and their names from the spaces."""
        seen = env.single_observation_space
        if not isinstance(seen, gymnasium.spaces.Dict) or not set(seen) <= _KINDS.keys():
            raise InvalidInputError(f"{self.gym_id} must observe {', '.join(_KINDS)} or some of them; got {seen}.")
        self.features = {key: PolicyFeature(type=_KINDS[key][0], shape=space.shape) for key, space in seen.items()}
        self.features[ACTION] = PolicyFeature(type=FeatureType.ACTION, shape=env.single_action_space.shape)
        self.features_map = {key: _KINDS[key][1] for key in seen} | {ACTION: ACTION}


class EndOfEpisode(VectorWrapper[Any, Any, Any, Any, Any]):
    """Tells `is_success` at the end of an episode alone, in environments whose task is solved by how it ends.

    Args:
        env: Any vector environment that resets within the last step; `call` and `get_attr` must be there.
    """

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """As the environment's own step; what an episode ended with is in `info["final_info"]`."""
        seen, reward, terminated, truncated, info = self.env.step(actions)
        if self.metadata.get("success_at") == "end" and "is_success" in info:
            info = info | {"is_success": info["is_success"] & False}
        return seen, reward, terminated, truncated, info

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute, or the result of the method, of every episode."""
        values: tuple[Any, ...] = self.env.call(name, *args, **kwargs)  # type: ignore[attr-defined]
        return values

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute of every episode."""
        return self.call(name)
