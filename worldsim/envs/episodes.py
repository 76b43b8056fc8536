"""Episodes inside a world, driven by seeds and NumPy actions: what both Gymnasium faces of a world share.

Not a Gymnasium environment: `worldsim.envs.world` holds those. Not a loader beyond one function: a world named by a
folder is fetched from its room at run time, so that this room does not import the one beside it.

Shape legend: B batch, H W pixels, P proprio, E true state, A action.
"""

import dataclasses
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.core import IMAGE, STATE, TRUE_STATE, Observation, WorldState, WorldStep
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.protocols import Startable, World, observe

ObsType = Literal["pixels_agent_pos", "environment_state_agent_pos", "all"]
Arrays = dict[str, NDArray[Any]]

OBSERVED: dict[str, tuple[tuple[str, str], ...]] = {
    "pixels_agent_pos": (("pixels", IMAGE), ("agent_pos", STATE)),
    "environment_state_agent_pos": (("environment_state", TRUE_STATE), ("agent_pos", STATE)),
    "all": (("pixels", IMAGE), ("agent_pos", STATE), ("environment_state", TRUE_STATE)),
}
"""Gymnasium observation key and world observation key, by `obs_type`."""
_BOUND = 1e6  # worlds promise no limits of proprioception; infinite bounds would make spaces impossible to sample


def load(world: World | str | Path) -> World:
    """The world itself, or the one in a folder or shipped under a name.

    Folders are read by `worldsim.worlds.load_world`, which is looked up here and only here: that room is beside this
    one, and nothing of it is needed unless a name is given.

    Raises:
        UnknownNameError: No such folder or name.
        StorageError: The folder is corrupt.
        InvalidInputError: What was given is no world, or has no `starts`.
    """
    if isinstance(world, str | Path):
        world = importlib.import_module("worldsim.worlds").load_world(world)
    if not isinstance(world, Startable):
        raise InvalidInputError(
            f"A world, a folder or a name is expected; got a {type(world).__name__}. A world has spec, reset, step, "
            "rollout, decode, and here also starts(seeds); check it with worldsim.testing.check_world."
        )
    return world


class Episodes:
    """B episodes of one world, each begun by a seed; the seed is both the number of its start and its noise key.

    Args:
        world: A world with `starts`.
        obs_type: Which observations are made; without pixels nothing is decoded.

    Raises:
        UnknownNameError: No such obs_type.
        InvalidInputError: The world's starts lack what obs_type asks for.
    """

    def __init__(self, world: World, *, obs_type: ObsType) -> None:
        if obs_type not in OBSERVED:
            raise unknown_name("obs_type", obs_type, OBSERVED)
        self.world = world
        self._pairs = OBSERVED[obs_type]
        self._needs = frozenset(key for _, key in self._pairs)
        self._state: WorldState | None = None
        first = self._starts([0])
        missing = sorted(self._needs - first.keys())
        if missing:
            raise InvalidInputError(f"This world's starts lack {', '.join(missing)}; choose another obs_type.")
        low_high = {
            IMAGE: (0, 255, np.uint8),
            STATE: (-_BOUND, _BOUND, np.float32),
            TRUE_STATE: (-_BOUND, _BOUND, np.float32),
        }
        boxes: dict[str, gymnasium.Space[Any]] = {}
        for name, key in self._pairs:
            low, high, dtype = low_high[key]
            boxes[name] = gymnasium.spaces.Box(low, high, tuple(first[key].shape[1:]), dtype)  # type: ignore[arg-type]
        self.observation_space = gymnasium.spaces.Dict(boxes)
        spec = world.spec.action
        self.action_space = gymnasium.spaces.Box(np.asarray(spec.low, np.float32), np.asarray(spec.high, np.float32))

    def begin(self, seeds: Sequence[int], rows: NDArray[np.intp] | None = None) -> tuple[Arrays, Arrays]:
        """Begin episodes: all of them, or those numbered `rows`.

        Args:
            seeds: One per episode begun.
            rows: Which of the B episodes begin anew; None begins B = len(seeds) episodes.

        Returns:
            Observation and info of the episodes begun, in the order of `seeds`; a world judges steps, not starts, so
            progress and the like are not among it.
        """
        starts = self._starts(seeds)
        state = self.world.reset(starts, torch.tensor(list(seeds), dtype=torch.int64))
        if rows is None or self._state is None:
            self._state = state
        else:
            self._state = put(self._state, torch.from_numpy(np.asarray(rows, np.int64)), state)
        info: Arrays = {"is_success": np.zeros(len(seeds), bool)}
        if TRUE_STATE in starts:
            info["environment_state"] = _numpy(starts[TRUE_STATE])
        return {name: array.copy() for name, array in self._observation(starts).items()}, info

    def advance(self, action_ba: NDArray[Any]) -> tuple[Arrays, Arrays]:
        """Step all episodes by actions [B, A] in one pass; observation and info, each with leading B.

        Raises:
            InvalidInputError: Wrong shape, a value that is not finite, or no episode has begun.
        """
        if self._state is None:
            raise InvalidInputError("step was called before the first reset. Call reset.")
        action = torch.from_numpy(np.array(action_ba, np.float32))
        self._state, step = self.world.step(self._state, action)
        return self._observation(observe(self.world, step, self._needs)), _info(step)

    def _starts(self, seeds: Sequence[int]) -> Observation:
        starts: Observation = self.world.starts(torch.tensor(list(seeds), dtype=torch.int64))  # type: ignore[attr-defined]
        return starts

    def _observation(self, seen: Mapping[str, Tensor]) -> Arrays:
        return {name: _numpy(seen[key]) for name, key in self._pairs}


def put(state: WorldState, rows: Tensor, part: WorldState) -> WorldState:
    """The state with the rows numbered `rows` int64 [N] taken from `part`, which has N; nothing is mutated."""
    changed: dict[str, Tensor] = {}
    for field in dataclasses.fields(state):
        value, new = getattr(state, field.name), getattr(part, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = value.clone().index_copy_(0, rows.to(value.device), new.to(value.dtype))
    return dataclasses.replace(state, **changed)


def _info(step: WorldStep) -> Arrays:
    """What a step tells besides the observation."""
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
