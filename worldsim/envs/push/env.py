"""Push-v0: push a T-shaped block to a goal disc with a round pusher, seen from above.

The ground truth that worlds are compared with: MuJoCo physics, 10 Hz, 64x64 pixels, seeded and deterministic.

State vector (float64, see `PushEnv.get_state`): MuJoCo's integration state, then the variation's numbers.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import gymnasium
import mujoco
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
from numpy.typing import NDArray

from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float32s, Float64s
from worldsim.envs.push.scene import (
    BLOCK_RADIUS_M,
    GOAL_RADIUS_M,
    IMAGE_PX,
    MAX_SPEED_M_S,
    PROGRESS_RANGE_M,
    PUSHER_RADIUS_M,
    RATE_HZ,
    REACH_M,
    START_DISTANCE_M,
    SUBSTEPS,
    VARIATION_RANGES,
    VIEW_M,
    Number,
    PushVariation,
    push_xml,
)
from worldsim.envs.render.renderer import RayRenderer
from worldsim.errors import InvalidInputError, unknown_name

PushObservation = dict[str, NDArray[Any]]
ObsType = Literal["pixels_agent_pos", "environment_state_agent_pos", "all"]

OBSERVED: dict[str, tuple[str, ...]] = {
    "pixels_agent_pos": ("pixels", "agent_pos"),
    "environment_state_agent_pos": ("environment_state", "agent_pos"),
    "all": ("pixels", "agent_pos", "environment_state"),
}
"""Observation keys by `obs_type`."""

ACTION_SPEC = ActionSpec(
    names=("vx", "vy"),
    units=("m/s", "m/s"),
    low=(-MAX_SPEED_M_S, -MAX_SPEED_M_S),
    high=(MAX_SPEED_M_S, MAX_SPEED_M_S),
    rate_hz=RATE_HZ,
)
"""Desired velocity of the pusher."""

TASK = "Push the T-shaped block onto the green disc."
_PERIOD_S = 1 / RATE_HZ
_WALL_M = REACH_M - 0.004  # commands stop short of the reach by what the servo may overshoot
_CLEAR_M = 0.01  # gap between block and pusher at a start, at least
_SCENES_KEPT = 8
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


class _Scene(NamedTuple):
    """A compiled scene, its positions, and its renderer."""

    model: mujoco.MjModel
    data: mujoco.MjData
    renderer: RayRenderer


class PushEnv(gymnasium.Env[PushObservation, Float32s]):
    """Planar pushing of a T-block to a disc of 4 cm radius.

    Action: float32 [2], desired pusher velocity in m/s, clipped to +-0.4; see `action_spec`.
    Observation: `pixels` uint8 [64, 64, 3], `agent_pos` float32 [2] (the pusher, m) and, by `obs_type`,
    `environment_state` float32 [4] (block x, y in m, cos yaw, sin yaw).
    Reward: the progress, 1 - distance of block and goal / 0.30 m, never below 0; a function of the present alone.
    Info: `is_success` (the block's centre is within 4 cm of the goal now), `progress`, `environment_state`.
    An episode is 50 steps (the registered `max_episode_steps`), never terminates early, and counts as solved by
    `is_success` at its last step.

    Args:
        obs_type: Which observation keys are given; without `pixels` nothing is drawn.
        variation: Changes to the nominal task by name, see `variations` and
            `worldsim.envs.push.scene.PushVariation`; `reset(options={"variation": {...}})` replaces it.
        render_mode: ``"rgb_array"`` or None.
        render_px: Side of the frame that `render` returns.

    Raises:
        UnknownNameError: An obs_type or variation that does not exist.
        InvalidInputError: A variation out of its range.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium declares it an instance variable
        "render_modes": ["rgb_array"],
        "render_fps": RATE_HZ,
        "success_at": "end",
        "task": TASK,
        "frame_extent_m": (-VIEW_M / 2, VIEW_M / 2, -VIEW_M / 2, VIEW_M / 2),  # of the plane of `agent_pos`
    }
    variations: ClassVar[tuple[str, ...]] = tuple(VARIATION_RANGES)
    action_spec: ClassVar[ActionSpec] = ACTION_SPEC
    task: ClassVar[str] = TASK
    task_description: ClassVar[str] = TASK

    def __init__(
        self,
        obs_type: ObsType = "pixels_agent_pos",
        *,
        variation: Mapping[str, Number] | None = None,
        render_mode: str | None = None,
        render_px: int = 256,
    ) -> None:
        if obs_type not in OBSERVED:
            raise unknown_name("obs_type", obs_type, OBSERVED)
        if render_mode not in (None, "rgb_array"):
            raise unknown_name("render_mode", str(render_mode), ["rgb_array"])
        self.obs_type = obs_type
        self.render_mode = render_mode
        self.render_px = render_px
        self.observation_space = observation_space(obs_type)  # type: ignore[assignment]
        self.action_space = gymnasium.spaces.Box(-MAX_SPEED_M_S, MAX_SPEED_M_S, (2,), np.float32)
        self._large: RayRenderer | None = None
        self._scenes: dict[PushVariation, _Scene] = {}
        self._build(PushVariation.of(variation))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[PushObservation, dict[str, Any]]:
        """Begin an episode: block 8..20 cm from the goal at any yaw, pusher anywhere in reach but not touching.

        Args:
            seed: Restarts the generator; the start is a function of it.
            options: ``{"variation": {...}}`` replaces the variation, ``{}`` in it being nominal.
        """
        super().reset(seed=seed)
        if options and "variation" in options:
            changed = PushVariation.of(options["variation"])
            if changed != self.variation:
                self._build(changed)
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:] = sample_start(self.np_random, size=self.variation.size)
        self._place()
        return self.observe(), self.info()

    def step(self, action: Float32s) -> tuple[PushObservation, float, bool, bool, dict[str, Any]]:
        """Advance 0.1 s.

        Raises:
            InvalidInputError: Wrong shape, or a value that is not finite.
        """
        self.advance(action)
        info = self.info()
        return self.observe(), info["progress"], False, False, info

    def advance(self, action: NDArray[Any]) -> None:
        """Move the physics by one control period without drawing or observing; arguments and errors as `step`."""
        wanted = np.asarray(action, np.float64)
        if wanted.shape != (2,) or not np.isfinite(wanted).all():
            raise InvalidInputError(f"Push takes 2 finite numbers (vx, vy in m/s); got {action!r}.")
        pusher = self._data.qpos[3:]
        wanted = np.clip(wanted.astype(np.float32), -MAX_SPEED_M_S, MAX_SPEED_M_S)
        self._data.ctrl[:] = np.clip(wanted, (-_WALL_M - pusher) / _PERIOD_S, (_WALL_M - pusher) / _PERIOD_S)
        mujoco.mj_step(self._model, self._data, nstep=SUBSTEPS)
        self._place()

    def observe(self) -> PushObservation:
        """The observation of the present state."""
        parts = {"agent_pos": self.agent_pos, "environment_state": self.environment_state}
        return {key: self.pixels() if key == "pixels" else parts[key]() for key in OBSERVED[self.obs_type]}

    def info(self) -> dict[str, Any]:
        """The info of the present state, as `step` returns it."""
        distance = math.hypot(*self._data.qpos[:2])
        return {
            "is_success": distance < GOAL_RADIUS_M,
            "progress": max(0.0, 1.0 - distance / PROGRESS_RANGE_M),
            "environment_state": self.environment_state(),
        }

    def pixels(self) -> Bytes:
        """The camera's frame, uint8 [64, 64, 3]."""
        return self._renderer.render(self._data)

    def agent_pos(self) -> Float32s:
        """Pusher x, y in metres, float32 [2]."""
        position: Float32s = self._data.qpos[3:].astype(np.float32)
        return position

    def environment_state(self) -> Float32s:
        """Block x, y in metres, cos and sin of its yaw, float32 [4]."""
        x, y, yaw = self._data.qpos[:3]
        return np.array([x, y, math.cos(yaw), math.sin(yaw)], np.float32)

    def render(self) -> Bytes | None:  # type: ignore[override]
        """A frame for people, uint8 [render_px, render_px, 3]; None unless `render_mode` is ``"rgb_array"``."""
        if self.render_mode is None:
            return None
        if self._large is None:
            self._large = RayRenderer(self._model, "top", self.render_px, self.render_px)
        return self._large.render(self._data)

    def place(self, *, block: tuple[float, float, float], pusher: tuple[float, float]) -> None:
        """Put the block (x, y in m, yaw in rad) and the pusher (x, y) somewhere, at rest; anywhere is allowed."""
        mujoco.mj_resetData(self._model, self._data)
        self._data.qpos[:] = [*block, *pusher]
        self._place()

    def draw_state(self, environment_state: Float32s, agent_pos: Float32s) -> Bytes:
        """The frame uint8 [64, 64, 3] of what observations call `environment_state` [4] and `agent_pos` [2]; nothing moves."""
        x, y, cosine, sine = environment_state.tolist()
        kept = self.get_state()
        self.place(block=(x, y, math.atan2(sine, cosine)), pusher=(float(agent_pos[0]), float(agent_pos[1])))
        frame = self.pixels()
        self.set_state(kept)
        return frame

    def get_state(self) -> Float64s:
        """Everything needed to resume here bit for bit, float64 [S]; the generator of starts is not part of it."""
        physics = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, physics, _STATE)
        return np.concatenate([physics, self._numbers])

    def set_state(self, state: Float64s) -> None:
        """Resume from `get_state`, variation included.

        Raises:
            InvalidInputError: Wrong length, or a value that is not finite.
        """
        state = np.asarray(state, np.float64)
        split = mujoco.mj_stateSize(self._model, _STATE)
        length = split + len(self._numbers)
        if state.shape != (length,) or not np.isfinite(state).all():
            raise InvalidInputError(f"A Push state is {length} finite numbers; got shape {state.shape}.")
        if not np.array_equal(state[split:], self._numbers):
            self._build(PushVariation.from_numbers(state[split:].tolist()))
        mujoco.mj_setState(self._model, self._data, state[:split], _STATE)
        self._place()

    def _build(self, variation: PushVariation) -> None:
        """Use the scene of `variation`; the last few scenes stay compiled."""
        self.variation = variation
        if variation not in self._scenes:
            model = mujoco.MjModel.from_xml_string(push_xml(variation))
            self._scenes[variation] = _Scene(model, mujoco.MjData(model), RayRenderer(model, "top", IMAGE_PX, IMAGE_PX))
            while len(self._scenes) > _SCENES_KEPT:
                self._scenes.pop(next(iter(self._scenes)))
        self._model, self._data, self._renderer = self._scenes[variation]
        self._numbers = np.array(variation.numbers())
        self._large = None

    def _place(self) -> None:
        """Compute positions from the joints, which is all that drawing needs; physics recomputes its own."""
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)


def observation_space(obs_type: str) -> gymnasium.spaces.Dict:
    """The observation space of one episode for an `obs_type`."""
    boxes: dict[str, gymnasium.Space[Any]] = {
        "pixels": gymnasium.spaces.Box(0, 255, (IMAGE_PX, IMAGE_PX, 3), np.uint8),
        "agent_pos": gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32),
        "environment_state": gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32),
    }
    return gymnasium.spaces.Dict({key: boxes[key] for key in OBSERVED[obs_type]})


def sample_start(generator: np.random.Generator, *, size: float = 1.0) -> Float64s:
    """Draw a start: block x, y, yaw and pusher x, y, float64 [5] in metres and radians.

    Args:
        generator: Source of randomness.
        size: Scale of the block, which keeps the pusher that much farther away.
    """
    low, high = START_DISTANCE_M
    distance, bearing, yaw = (
        generator.uniform(low, high),
        generator.uniform(-np.pi, np.pi),
        generator.uniform(-np.pi, np.pi),
    )
    block = np.array([distance * math.cos(bearing), distance * math.sin(bearing)])
    clear = BLOCK_RADIUS_M * size + PUSHER_RADIUS_M + _CLEAR_M
    while True:
        pusher = generator.uniform(-_WALL_M, _WALL_M, 2)
        if math.hypot(*(pusher - block)) > clear:
            return np.concatenate([block, [yaw], pusher])


class PushVectorEnv(SyncVectorEnv):
    """`num_envs` pushing episodes stepped together; episode i of `reset(seed=s)` is the single one of seed s + i.

    Args:
        num_envs: Episodes side by side.
        obs_type: As for `PushEnv`.
        variation: As for `PushEnv`, the same for all.
        render_mode: As for `PushEnv`.
        render_px: As for `PushEnv`.
        max_episode_steps: Steps after which an episode is truncated.
        autoreset_mode: How the next episode begins; declared in `metadata`. Gymnasium's default, NEXT_STEP, spends one
            step on it; DISABLED leaves it to `reset(options={"reset_mask": ...})`.

    Raises:
        UnknownNameError: An obs_type or variation that does not exist.
        InvalidInputError: A number below 1, or a variation out of its range.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        obs_type: ObsType = "pixels_agent_pos",
        variation: Mapping[str, Number] | None = None,
        render_mode: str | None = None,
        render_px: int = 256,
        max_episode_steps: int = 50,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        if min(num_envs, max_episode_steps) < 1:
            raise InvalidInputError(
                f"num_envs and max_episode_steps must be at least 1; got {num_envs} and {max_episode_steps}."
            )

        def one() -> TimeLimit[PushObservation, Any]:
            env = PushEnv(obs_type, variation=variation, render_mode=render_mode, render_px=render_px)
            return TimeLimit(env, max_episode_steps)

        super().__init__([one] * num_envs, autoreset_mode=autoreset_mode)
