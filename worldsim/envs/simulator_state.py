"""Simulators whose state can be read out and restored.

An environment qualifies if it has `get_state() -> float64 [S]` and `set_state(state)`, or if it keeps its MuJoCo
`model` and `data` as Gymnasium's own MuJoCo environments do; what it remembers outside these is lost.

Optional methods spare drawing and are used where an environment has them, as `worldsim.envs.push.env.PushEnv` does:
`advance(action)`, `info()`, `agent_pos()`, `pixels()`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import mujoco
import numpy as np

from worldsim.arrays import Bytes, Float32s, Float64s
from worldsim.envs.render.renderer import RayRenderer
from worldsim.errors import InvalidInputError
from worldsim.spaces import action_spec_of, to_env, wrappers_of

_FRAME_PX = 64
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_LEFT_OUT = (
    gymnasium.RewardWrapper,
    gymnasium.wrappers.TimeLimit,
    gymnasium.wrappers.OrderEnforcing,
    gymnasium.wrappers.PassiveEnvChecker,
    gymnasium.wrappers.Autoreset,
    gymnasium.wrappers.RecordEpisodeStatistics,
    gymnasium.wrappers.RecordVideo,
    gymnasium.wrappers.RenderCollection,
    gymnasium.wrappers.HumanRendering,
)
"""Wrappers that change neither what an action does nor what is observed."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """What is known of a simulator's present state without drawing."""

    proprio: Float32s  # [P]
    progress: float  # 0..1
    success: bool
    true_state: Float32s | None  # [E]


class Simulator:
    """One environment, used as a function of its state.

    Args:
        env: The environment. Wrappers that change actions (`gymnasium.ActionWrapper`) or observations
            (`gymnasium.ObservationWrapper`) are applied; those that count, limit, film or change rewards are left out.
        cameras: MuJoCo cameras to draw by ray casting instead of the environment's own frames.

    Raises:
        InvalidInputError: Its state can be neither read nor restored, a wrapper does something else in `step`, or there
            is no MuJoCo scene to draw `cameras` of.
        UnknownNameError: No such camera.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, cameras: Sequence[int | str] = ()) -> None:
        self.env: Any = env.unwrapped
        self.action = action_spec_of(env)
        self._act, self._observe = _wrapped(env)
        self._own = callable(getattr(self.env, "get_state", None)) and callable(getattr(self.env, "set_state", None))
        pair = getattr(self.env, "model", None), getattr(self.env, "data", None)
        mujoco_pair = isinstance(pair[0], mujoco.MjModel) and isinstance(pair[1], mujoco.MjData)
        if mujoco_pair:  # Gymnasium's MujocoEnv has a set_state(qpos, qvel) of another meaning
            self._own = callable(getattr(self.env, "get_state", None))
        if not (self._own or mujoco_pair):
            raise InvalidInputError(
                f"{type(self.env).__name__} cannot be restored: it has neither get_state and set_state nor a MuJoCo "
                "model and data. Give it get_state() -> float64 vector and set_state(vector)."
            )

        if cameras and not mujoco_pair:
            raise InvalidInputError(f"{type(self.env).__name__} has no MuJoCo model and data; leave camera out.")
        self._renderers = [RayRenderer(pair[0], camera, _FRAME_PX, _FRAME_PX) for camera in cameras]

    def begin(self, seed: int) -> Reading:
        """Start the episode of a seed."""
        observation, info = self.env.reset(seed=seed)
        return self._read(observation, info)

    def act(self, state: Float64s, action_A: Float32s) -> tuple[Float64s, Reading]:
        """Restore `state` [S], advance one control period, and return where that leads."""
        self.restore(state)
        action = to_env(self.action, action_A)
        for change in self._act:
            action = change(action)
        if callable(getattr(self.env, "advance", None)):
            self.env.advance(action)
            observation: Any = None
            info: Mapping[str, Any] = self.env.info()
        else:
            observation, _, _, _, info = self.env.step(action)
        return self.state(), self._read(observation, info)

    def state(self) -> Float64s:
        """Everything needed to resume, float64 [S]."""
        if self._own:
            return np.asarray(self.env.get_state(), np.float64)
        vector = np.empty(mujoco.mj_stateSize(self.env.model, _STATE))
        mujoco.mj_getState(self.env.model, self.env.data, vector, _STATE)
        return vector

    def restore(self, state: Float64s) -> None:
        """Resume from `state`."""
        if self._own:
            self.env.set_state(state)
            return
        model, data = self.env.model, self.env.data
        mujoco.mj_resetData(model, data)  # what the vector does not hold must not depend on the past either
        mujoco.mj_setState(model, data, state, _STATE)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, _STATE)  # mj_forward moved the solver's warm start

    def draw(self, camera: int = 0) -> Bytes:
        """The present frame, uint8 [H, W, 3], of the camera at a position among those named, or the environment's own.

        Raises:
            InvalidInputError: The environment draws nothing.
        """
        if self._renderers:
            return self._renderers[camera].render(self.env.data)
        try:
            frame = self.env.pixels() if callable(getattr(self.env, "pixels", None)) else self.env.render()
        except NotImplementedError:
            frame = None
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
            raise InvalidInputError(
                f"{type(self.env).__name__} gave no uint8 [H, W, 3] frame. Make it with render_mode='rgb_array', or "
                "name a MuJoCo camera, or give it pixels()."
            )
        return frame

    def _read(self, observation: Any, info: Mapping[str, Any]) -> Reading:
        """Read what is known of the present without drawing."""
        success = bool(info.get("is_success", False))
        true_state = info.get("environment_state")
        return Reading(
            proprio=self._proprio(observation),
            progress=float(np.clip(info.get("progress", success), 0.0, 1.0)),
            success=success,
            true_state=None if true_state is None else np.asarray(true_state, np.float32),
        )

    def _proprio(self, observation: Any) -> Float32s:
        """`agent_pos`, from the environment itself or its observation; a plain vector observation is all of it."""
        if callable(getattr(self.env, "agent_pos", None)):
            return np.asarray(self.env.agent_pos(), np.float32).ravel()
        for change in self._observe:
            observation = change(observation)
        if isinstance(observation, Mapping):
            if "agent_pos" not in observation:
                raise InvalidInputError(
                    f"{type(self.env).__name__} observes {sorted(observation)}; 'agent_pos' is needed."
                )
            observation = observation["agent_pos"]
        return np.asarray(observation, np.float32).ravel()


def _wrapped(env: gymnasium.Env[Any, Any]) -> tuple[list[Callable[[Any], Any]], list[Callable[[Any], Any]]]:
    """What wrappers do to an action on its way in, and to an observation on its way out, in the order of doing.

    Raises:
        InvalidInputError: A wrapper has a `step` of its own that may change either and remember things.
    """
    act: list[Callable[[Any], Any]] = []
    look: list[Callable[[Any], Any]] = []
    for wrapper in wrappers_of(env):
        kind = type(wrapper)
        if isinstance(wrapper, gymnasium.ActionWrapper) and _inherits(kind, gymnasium.ActionWrapper):
            act.append(wrapper.action)
        elif isinstance(wrapper, gymnasium.ObservationWrapper) and _inherits(kind, gymnasium.ObservationWrapper):
            look.insert(0, wrapper.observation)
        elif not issubclass(kind, _LEFT_OUT) and not _inherits(kind, gymnasium.Wrapper):
            raise InvalidInputError(
                f"The wrapper {kind.__name__} has a step or reset of its own and may remember what went before, which is "
                "lost when a simulator's state is restored. Take it off, or make it a gymnasium.ActionWrapper or "
                "ObservationWrapper without memory."
            )
    return act, look


def _inherits(kind: type[Any], base: type[Any]) -> bool:
    """Whether a wrapper leaves `step` and `reset` as its base has them and keeps no statistics: it remembers nothing."""
    counts = issubclass(kind, gymnasium.wrappers.NormalizeObservation)
    return not counts and kind.step is base.step and kind.reset is base.reset
