"""Adapts any Gymnasium environment to datasets: frames by camera, proprioception, success and progress.

What is found where:
- frames: `pixels` of a dict observation, else its entries that are images, else an observation that is itself an image,
  else what `render()` draws (make the environment with `render_mode="rgb_array"`). As in LeRobot, `pixels` that is a dict
  by camera gives ``observation.images.NAME`` each, and a single array ``observation.image``;
- proprioception: `agent_pos`, else `state` or `observation`, else the only flat numbers there are, else one zero;
- true state: `environment_state` of the observation or of info;
- success: `is_success` or `success` of info; progress: `progress` of info; unknown where they are missing.

Everything is copied on receipt, because environments may reuse their buffers.

Shape legend: H W image, P proprio, A action, E true state, S simulator state.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from PIL import Image
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float32s, Float64s
from worldsim.core import IMAGE, IMAGES, camera_name
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.spaces import EnvAction, action_spec_of, fit_spec, from_env, to_env

_PROPRIO = ("agent_pos", "state", "observation")
_TRUE_STATE = "environment_state"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EnvObservation:
    """One observation."""

    frames: dict[str, Bytes]  # by camera key, the main camera first: [H, W, 3]
    proprio: Float32s  # [P]
    true_state: Float32s | None  # [E]
    success: float  # 0 or 1, nan where it is not known
    progress: float  # 0..1, nan where it is not known


class EnvAdapter:
    """An environment and how its observations are read.

    Args:
        env: With actions that a vector of numbers can hold (`worldsim.spaces`) and some way to get pixels.
        cameras: Which cameras, by name or full key, the main one first; None for all, in alphabetical order.
        image_px: Frames are brought to this side length by area averaging; None leaves them as they are.
        action: Meaning of the actions; None to take the environment's own, or make one from its action space.

    Raises:
        InvalidInputError: Actions cannot be held by a vector, have no usable limits, or do not fit `action`.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        cameras: Sequence[str] | None = None,
        image_px: int | None = None,
        action: ActionSpec | None = None,
    ) -> None:
        self.env, self.image_px = env, image_px
        self._cameras = None if cameras is None else tuple(cameras)
        self.action = action_spec_of(env) if action is None else fit_spec(action, env.action_space)

    @property
    def task(self) -> str:
        """One sentence, where the environment has one."""
        inner = self.env.unwrapped
        for name in ("task_description", "task"):
            if isinstance(getattr(inner, name, None), str):
                return str(getattr(inner, name))
        return str((inner.metadata or {}).get("task", ""))

    @property
    def task_id(self) -> str:
        """Its Gymnasium id, or empty."""
        return self.env.spec.id if self.env.spec else ""

    @property
    def success_at(self) -> Literal["end", "any"]:
        """When an episode counts as solved."""
        return "any" if (self.env.unwrapped.metadata or {}).get("success_at") == "any" else "end"

    @property
    def max_steps(self) -> int | None:
        """Its own limit on steps, where there is one."""
        return self.env.spec.max_episode_steps if self.env.spec else None

    def executable(self, action_A: Tensor) -> tuple[EnvAction, Float32s]:
        """An action as the environment takes it, and float32 [A], what that form holds of it: what is to be recorded.

        Args:
            action_A: As `ActionSpec.check` returns it.
        """
        action = to_env(self.action, action_A)
        return action, from_env(self.action, action)

    def simulator_state(self) -> Float64s | None:
        """What `get_state` of the environment gives, float64 [S]; None where there is no such method."""
        get_state = getattr(self.env.unwrapped, "get_state", None)
        return np.array(get_state(), np.float64).ravel() if callable(get_state) else None

    def read(self, observation: Any, info: Mapping[str, Any]) -> EnvObservation:
        """Take an observation apart.

        Raises:
            InvalidInputError: There are no pixels, or they are not RGB pictures.
            UnknownNameError: A camera that was asked for is not there.
        """
        parts = observation if isinstance(observation, Mapping) else {}
        true_state = parts.get(_TRUE_STATE, info.get(_TRUE_STATE))
        success = info.get("is_success", info.get("success"))
        progress = info.get("progress")
        return EnvObservation(
            frames={key: self._resize(frame) for key, frame in self._frames(observation).items()},
            proprio=_proprio(observation, parts),
            true_state=None if true_state is None else np.array(true_state, np.float32).ravel(),
            success=math.nan if success is None else float(bool(success)),
            progress=math.nan if progress is None else float(np.clip(progress, 0, 1)),
        )

    def main_camera(self) -> str:
        """Observation key of the main camera; resets the environment to find out.

        Raises:
            InvalidInputError, UnknownNameError: As `read`.
        """
        observation, info = self.env.reset(seed=0)
        return next(iter(self.read(observation, info).frames))

    def _frames(self, observation: Any) -> dict[str, Bytes]:
        """Pictures by camera key."""
        found = _pictures(observation) or _pictures(self.env.render())
        if not found or not all(_is_image(v) for v in found.values()):
            raise InvalidInputError(
                "The environment gives no RGB pixels: neither its observation nor render() is uint8 [H, W, 3]. Make it "
                'with obs_type="pixels_agent_pos" or render_mode="rgb_array".'
            )
        if self._cameras is None:
            return {key: found[key] for key in sorted(found)}
        keys = {**{key: key for key in found}, **{camera_name(key): key for key in found}}
        for name in self._cameras:
            if name not in keys:
                raise unknown_name("camera", name, sorted(map(camera_name, found)))
        return {keys[name]: found[keys[name]] for name in self._cameras}

    def _resize(self, frame: Bytes) -> Bytes:
        """A copy of the wanted size."""
        if self.image_px is None or frame.shape[:2] == (self.image_px, self.image_px):
            return frame.copy()
        return np.array(Image.fromarray(frame).resize((self.image_px, self.image_px), Image.Resampling.BOX))


def _pictures(value: Any) -> dict[str, Any]:
    """What may be pictures in an observation, by camera key."""
    if not isinstance(value, Mapping):
        return {IMAGE: value} if _is_image(value) else {}
    pixels = value.get("pixels")
    if isinstance(pixels, Mapping):
        return {IMAGES + str(name): frame for name, frame in pixels.items()}
    if pixels is not None:
        return {IMAGE: pixels}
    return {IMAGE if k == camera_name(IMAGE) else IMAGES + str(k): v for k, v in value.items() if _is_image(v)}


def _is_image(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[-1] == 3


def _proprio(observation: Any, parts: Mapping[str, Any]) -> Float32s:
    """Flat numbers that describe the robot, or one zero."""
    flat = {k: v for k, v in parts.items() if np.ndim(v) == 1 and k not in ("pixels", _TRUE_STATE)}
    for name in _PROPRIO:
        if name in flat:
            return np.array(flat[name], np.float32)
    if len(flat) == 1:
        return np.array(next(iter(flat.values())), np.float32)
    if isinstance(observation, np.ndarray) and observation.ndim == 1:
        return observation.astype(np.float32)
    return np.zeros(1, np.float32)
