"""Simulators whose state can be read out and put back, seen through one narrow door.

An environment qualifies if it has `get_state() -> float64 [S]` and `set_state(state)`, or if it keeps its MuJoCo
`model` and `data` as Gymnasium's own MuJoCo environments do. Not for environments with memory outside these.

Optional methods spare drawing and are used where an environment has them, as `worldsim.envs.push.env.PushEnv` does:
`advance(action)`, `info()`, `agent_pos()`, `pixels()`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from worldsim.envs.render.renderer import RayRenderer
from worldsim.errors import InvalidInputError

Floats = NDArray[np.float64]
_FRAME_PX = 64
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


@dataclasses.dataclass(frozen=True, kw_only=True)
class Glance:
    """What a simulator tells without drawing."""

    proprio: NDArray[np.float32]  # [P]
    progress: float  # 0..1
    success: bool
    true_state: NDArray[np.float32] | None  # [E]


class Simulator:
    """One environment, used as a function of its state.

    Args:
        env: The environment; its wrappers (time limits) are left out.
        camera: MuJoCo camera to draw by ray casting instead of the environment's own frames.

    Raises:
        InvalidInputError: Its state can be neither read nor restored, or it has no MuJoCo scene to draw `camera` of.
        UnknownNameError: No such camera.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], *, camera: int | str | None = None) -> None:
        self.env: Any = env.unwrapped
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

        self._renderer: RayRenderer | None = None
        if camera is not None:
            if not mujoco_pair:
                raise InvalidInputError(f"{type(self.env).__name__} has no MuJoCo model and data; leave camera out.")
            self._renderer = RayRenderer(pair[0], camera, _FRAME_PX, _FRAME_PX)

    def begin(self, seed: int) -> Glance:
        """Start the episode of a seed."""
        observation, info = self.env.reset(seed=seed)
        return self._glance(observation, info)

    def act(self, state: Floats, action: NDArray[np.float32]) -> tuple[Floats, Glance]:
        """Restore `state`, advance one control period, and return where that leads."""
        self.restore(state)
        if callable(getattr(self.env, "advance", None)):
            self.env.advance(action)
            observation: Any = None
            info: Mapping[str, Any] = self.env.info()
        else:
            observation, _, _, _, info = self.env.step(action)
        return self.state(), self._glance(observation, info)

    def state(self) -> Floats:
        """Everything needed to resume, float64 [S]."""
        if self._own:
            return np.asarray(self.env.get_state(), np.float64)
        vector = np.empty(mujoco.mj_stateSize(self.env.model, _STATE))
        mujoco.mj_getState(self.env.model, self.env.data, vector, _STATE)
        return vector

    def restore(self, state: Floats) -> None:
        """Resume from `state`."""
        if self._own:
            self.env.set_state(state)
            return
        model, data = self.env.model, self.env.data
        mujoco.mj_resetData(model, data)  # what the vector does not hold must not depend on the past either
        mujoco.mj_setState(model, data, state, _STATE)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, _STATE)  # mj_forward moved the solver's warm start

    def draw(self) -> NDArray[np.uint8]:
        """The present frame, uint8 [H, W, 3].

        Raises:
            InvalidInputError: The environment draws nothing.
        """
        if self._renderer is not None:
            return self._renderer.render(self.env.data)
        try:
            frame = self.env.pixels() if callable(getattr(self.env, "pixels", None)) else self.env.render()
        except NotImplementedError:
            frame = None
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3:
            raise InvalidInputError(
                f"{type(self.env).__name__} gave no uint8 [H, W, 3] frame. Make it with render_mode='rgb_array', or "
                "name a MuJoCo camera, or give it pixels()."
            )
        return frame

    def _glance(self, observation: Any, info: Mapping[str, Any]) -> Glance:
        """Read what is known of the present without drawing."""
        success = bool(info.get("is_success", False))
        true_state = info.get("environment_state")
        return Glance(
            proprio=self._proprio(observation),
            progress=float(np.clip(info.get("progress", success), 0.0, 1.0)),
            success=success,
            true_state=None if true_state is None else np.asarray(true_state, np.float32),
        )

    def _proprio(self, observation: Any) -> NDArray[np.float32]:
        """`agent_pos`, from the environment itself or its observation; a plain vector observation is all of it."""
        if callable(getattr(self.env, "agent_pos", None)):
            return np.asarray(self.env.agent_pos(), np.float32)
        if isinstance(observation, Mapping):
            if "agent_pos" not in observation:
                raise InvalidInputError(
                    f"{type(self.env).__name__} observes {sorted(observation)}; 'agent_pos' is needed."
                )
            observation = observation["agent_pos"]
        return np.asarray(observation, np.float32).ravel()
