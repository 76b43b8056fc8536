"""Episodes inside a world, driven by seeds and Gymnasium actions: what both Gymnasium environments of a world share.

Shape legend: B batch, s frames (and actions) per step, H W pixels, P proprio, E true state, A action.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from worldsim.arrays import Bytes
from worldsim.core import STATE, TRUE_STATE, Observation, WorldState, WorldStep, is_image
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.protocols import Startable, require_drawable
from worldsim.spaces import EnvAction, action_space, from_env

ObsType = Literal["pixels_agent_pos", "environment_state_agent_pos", "all"]
Arrays = dict[str, NDArray[Any]]

OBSERVED: dict[str, tuple[str, ...]] = {
    "pixels_agent_pos": ("pixels", "agent_pos"),
    "environment_state_agent_pos": ("environment_state", "agent_pos"),
    "all": ("pixels", "agent_pos", "environment_state"),
}
"""Gymnasium observation keys by `obs_type`."""
_VECTORS = {"agent_pos": STATE, "environment_state": TRUE_STATE}
_BOUND = 1e6  # worlds promise no limits of proprioception; infinite bounds would make spaces impossible to sample


def require_startable(world: object) -> Startable:
    """The world, if it is one that brings starts along.

    Raises:
        InvalidInputError: It is not.
    """
    if not isinstance(world, Startable):
        raise InvalidInputError(
            f"A world is expected; got a {type(world).__name__}. A world has spec, reset, step and rollout, and here also "
            "num_starts and starts(indices); check it with worldsim.testing.check_world. For a folder or a shipped name "
            "use gymnasium.make('worldsim/World-v0', world=NAME) or worldsim.load_world(NAME)."
        )
    return world


class Episodes:
    """B episodes of one world, each begun by a seed; the seed is both the number of its start and its noise key.

    Observations are flat here, by the world's observation key; `nested` gives them the form of `observation_space`.

    Args:
        world: A world with `starts`.
        obs_type: Which observations are made; without pixels nothing is decoded.

    Attributes:
        observation_space: Of one episode: `pixels` uint8 [H, W, 3] (a Dict of them by camera name where the world has
            several cameras; with a leading s where a step is s > 1 frames), `agent_pos` [P], `environment_state` [E].
        action_space: Of one episode: the space that the world's `ActionSpec` describes, s times where s > 1.

    Raises:
        UnknownNameError: No such obs_type.
        InvalidInputError: The world's starts lack what obs_type asks for.
    """

    def __init__(self, world: Startable, *, obs_type: ObsType) -> None:
        if obs_type not in OBSERVED:
            raise unknown_name("obs_type", obs_type, OBSERVED)
        self.world, self.spec = world, world.spec
        self._names = OBSERVED[obs_type]
        self.cameras = self.spec.cameras if "pixels" in self._names else ()
        self._keys = [c.key for c in self.cameras] + [key for name, key in _VECTORS.items() if name in self._names]
        self._several = (self.spec.actions_per_step,) if self.spec.actions_per_step > 1 else ()
        self._state: WorldState | None = None
        first = self._starts([0])
        missing = sorted(set(self._keys) - first.keys())
        if missing or ("pixels" in self._names and not self.cameras):
            raise InvalidInputError(
                f"This world's starts lack {', '.join(missing) or 'pixels'}; choose another obs_type."
            )
        if self.cameras:
            self._decode = require_drawable(world).decode
        boxes = {key: self._box(key, tuple(first[key].shape[1:])) for key in self._keys}
        self.observation_space = spaces.Dict(self._nested(boxes, spaces.Dict))
        one = action_space(self.spec.action)
        self.action_space = gymnasium.vector.utils.batch_space(one, *self._several) if self._several else one

    def begin(self, seeds: Sequence[int], rows: NDArray[np.intp] | None = None) -> tuple[Arrays, Arrays]:
        """Begin episodes: all of them, or those numbered `rows`.

        Args:
            seeds: One per episode begun.
            rows: Which of the B episodes begin; None begins B = len(seeds) episodes.

        Returns:
            Observation and info of the episodes begun, in the order of `seeds`; a world judges steps, not starts, so
            progress and the like are not among it.
        """
        starts = self._starts(seeds)
        state = self.world.reset(starts, torch.tensor(list(seeds), dtype=torch.int64))
        keep = rows is not None and self._state is not None
        self._state = self._state.put(torch.as_tensor(rows), state) if keep and self._state is not None else state
        info: Arrays = {"is_success": np.zeros(len(seeds), bool)}
        if TRUE_STATE in starts:
            info["environment_state"] = _numpy(starts[TRUE_STATE])
        return {key: self._first(key, starts[key]) for key in self._keys}, info

    def advance(self, action: EnvAction, lead: tuple[int, ...]) -> tuple[Arrays, Arrays]:
        """Step all B episodes in one pass.

        Args:
            action: In the form of `action_space`, with leading axes `lead`.
            lead: (B,), or () for the action of a single episode.

        Returns:
            Observation and info, each with leading B.

        Raises:
            InvalidInputError: Wrong shape, a value that is not finite, or no episode has begun.
        """
        if self._state is None:
            raise InvalidInputError("step was called before the first reset. Call reset.")
        flat = from_env(self.spec.action, action, (*lead, *self._several))
        action_BA = torch.from_numpy(flat.reshape(-1, *flat.shape[len(lead) :]))
        self.spec.action.check_finite(action_BA)  # a world on an accelerator does not look
        self._state, step = self.world.step(self._state, action_BA)
        return self._observation(step), _info(step)

    def nested(self, seen: Arrays, row: int | None = None) -> dict[str, Any]:
        """Observations in the form of the space; of all episodes, or of one `row`."""
        return self._nested(seen if row is None else {key: value[row] for key, value in seen.items()}, dict)

    def frames(self, seen: Arrays) -> Bytes:
        """The latest frame of the main camera, uint8 [B, H, W, 3].

        Raises:
            InvalidInputError: No episode has begun, or obs_type has no pixels.
        """
        if not self.cameras or not seen:
            raise InvalidInputError("There is no frame: reset first, with an obs_type that has pixels.")
        frames: Bytes = seen[self.cameras[0].key]
        return frames[:, -1] if self._several else frames

    def _nested(self, values: Mapping[str, Any], as_dict: Any) -> dict[str, Any]:
        """Values by observation key as Gymnasium orders them: pixels by camera, the rest by name."""
        nested: dict[str, Any] = {}
        for name in self._names:
            if name != "pixels":
                nested[name] = values[_VECTORS[name]]
            elif len(self.cameras) == 1:
                nested[name] = values[self.cameras[0].key]
            else:
                nested[name] = as_dict({camera.name: values[camera.key] for camera in self.cameras})
        return nested

    def _box(self, key: str, shape: tuple[int, ...]) -> spaces.Box:
        if is_image(key):
            return spaces.Box(0, 255, (*self._several, *shape), np.uint8)
        return spaces.Box(-_BOUND, _BOUND, shape, np.float32)

    def _starts(self, seeds: Sequence[int]) -> Observation:
        return self.world.starts(torch.tensor(list(seeds), dtype=torch.int64))

    def _first(self, key: str, value: Tensor) -> NDArray[Any]:
        """An observation that an episode begins with, as the caller's own array; s times the first frame."""
        array = _numpy(value).copy()
        return np.repeat(array[:, None], self._several[0], axis=1) if self._several and is_image(key) else array

    def _observation(self, step: WorldStep) -> Arrays:
        seen: Arrays = {}
        for camera in self.cameras:
            seen[camera.key] = _numpy(self._decode(step.latent, camera.key))
        if STATE in self._keys:
            seen[STATE] = _numpy(step.proprio)
        if TRUE_STATE in self._keys and step.true_state is not None:
            seen[TRUE_STATE] = _numpy(step.true_state)
        return seen


def _info(step: WorldStep) -> Arrays:
    """What a step says besides the observation."""
    success = _numpy(step.success).astype(np.float64)
    info: Arrays = {
        "is_success": success >= 0.5,
        "success": success,
        "progress": _numpy(step.progress).astype(np.float64),
        "uncertainty": _numpy(step.uncertainty).astype(np.float64),
    }
    if step.true_state is not None:
        info["environment_state"] = _numpy(step.true_state)
    return info


def _numpy(value: Tensor) -> NDArray[Any]:
    """The values as an array of their own type, uint8 or float32."""
    array: NDArray[Any] = value.detach().cpu().numpy()
    return array if array.dtype == np.uint8 else array.astype(np.float32)
