"""Gymnasium faces of a world: one episode (`WorldEnv`) or many in one forward pass (`WorldVectorEnv`).

`gymnasium.make("worldsim/World-v0", world=...)` and `gymnasium.make_vec(...)`, where `world` is a World with starts,
its folder, or the name of a shipped one. Observations, reward and info are as those of the simulated tasks: `pixels`,
`agent_pos`, reward = progress, `info["is_success"]`. Not for planners or triage, which use the world itself.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldsim.actions import ActionSpec
from worldsim.envs.episodes import Arrays, Episodes, ObsType, load
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.protocols import World

_SEEDS = 2**31 - 1
_RENDER_MODES = ["rgb_array"]


class WorldEnv(gymnasium.Env[Arrays, NDArray[np.float32]]):
    """One episode in a world.

    `reset(seed=s)` begins the start numbered s with noise key s, as row i of the vector environment does for its seed;
    without a seed both are drawn from the generator. The first frame is the start's own, the rest are the world's.

    Info: `is_success` (the world gives success at least even odds), `success` (its probability), `progress`,
    `uncertainty`, and `environment_state` where the world knows it. An episode is truncated after
    `max_episode_steps`; it terminates earlier only in worlds whose task is solved by succeeding at any step.

    Args:
        world: A world, its folder, or a shipped name.
        obs_type: ``"pixels_agent_pos"``, ``"environment_state_agent_pos"`` (nothing is decoded) or ``"all"``.
        max_episode_steps: Defaults to the world's horizon. `gymnasium.make` keeps an argument of this name to itself and
            so can only shorten episodes; construct `WorldEnv` itself to lengthen them.
        render_mode: ``"rgb_array"`` or None; `render` returns the latest frame.

    Raises:
        UnknownNameError: No such world, obs_type or render_mode.
        InvalidInputError: Not a world with starts, or max_episode_steps below 1.
    """

    metadata: dict[str, Any] = {"render_modes": _RENDER_MODES, "render_fps": 10}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self,
        world: World | str | Path,
        *,
        obs_type: ObsType = "pixels_agent_pos",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self._vector = WorldVectorEnv(
            1,
            world=world,
            obs_type=obs_type,
            max_episode_steps=max_episode_steps,
            render_mode=render_mode,
            autoreset_mode=AutoresetMode.DISABLED,
        )
        self.metadata = {k: v for k, v in self._vector.metadata.items() if k != "autoreset_mode"}
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.render_mode = render_mode
        self.action_spec, self.task, self.task_description = (
            self._vector.action_spec,
            self._vector.task,
            self._vector.task_description,
        )

    @property
    def world(self) -> World:
        """The world that is played."""
        return self._vector.world

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Begin the start numbered `seed`, or a drawn one."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(_SEEDS)) if seed is None else seed
        observation, info = self._vector.reset(seed=[number])
        return _first(observation), _first(info)

    def step(self, action: NDArray[np.float32]) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """Advance one control period.

        Raises:
            InvalidInputError: Wrong shape, a value that is not finite, or the episode is over.
        """
        observation, reward, terminated, truncated, info = self._vector.step(np.asarray(action)[None])
        return _first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _first(info)

    def render(self) -> NDArray[np.uint8] | None:
        """The latest frame, uint8 [H, W, 3]; None unless `render_mode` is ``"rgb_array"``."""
        return None if self.render_mode is None else self._vector.frames()[0]


class WorldVectorEnv(gymnasium.vector.VectorEnv[Arrays, NDArray[np.float32], NDArray[Any]]):
    """`num_envs` episodes of one world, stepped and decoded in one pass; arguments otherwise as `WorldEnv`.

    `reset(seed=s)` begins starts s, s + 1, ...; a list gives each its own. `call` and `get_attr` answer as Gymnasium's
    synchronous vector environment does.

    Args:
        autoreset_mode: Who begins the next episode; declared in `metadata`. NEXT_STEP (default) spends one step on it,
            SAME_STEP leaves the last observation in `info["final_obs"]` and `info["final_info"]`, DISABLED leaves it to
            `reset(options={"reset_mask": bool [num_envs]})`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: World | str | Path,
        obs_type: ObsType = "pixels_agent_pos",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.world = load(world)
        spec = self.world.spec
        steps = spec.horizon if max_episode_steps is None else max_episode_steps
        if min(num_envs, steps) < 1:
            raise InvalidInputError(f"num_envs and max_episode_steps must be at least 1; got {num_envs} and {steps}.")
        if render_mode not in (None, *_RENDER_MODES):
            raise unknown_name("render_mode", str(render_mode), _RENDER_MODES)
        self.num_envs, self.render_mode, self._max_episode_steps = num_envs, render_mode, steps
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {
            "render_modes": _RENDER_MODES,
            "render_fps": round(spec.action.rate_hz),
            "success_at": spec.success_at,
            "task": spec.task,
            "autoreset_mode": self.autoreset_mode,
        }
        self.action_spec: ActionSpec = spec.action
        self.task = self.task_description = spec.task
        self._episodes = Episodes(self.world, obs_type=obs_type)
        self.single_observation_space, self.single_action_space = (
            self._episodes.observation_space,
            self._episodes.action_space,
        )
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over = np.zeros(num_envs, bool)
        self._seen: Arrays = {}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Arrays, dict[str, Any]]:
        """Begin all episodes, or those of `options["reset_mask"]`.

        Raises:
            InvalidInputError: A list of seeds or a mask of the wrong length.
        """
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int | np.integer) else seed
        seeds = [None] * self.num_envs if seeds is None else list(seeds)
        mask = np.asarray((options or {}).get("reset_mask", np.ones(self.num_envs, bool)))
        if len(seeds) != self.num_envs or mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise InvalidInputError(
                f"reset takes {self.num_envs} seeds and a bool reset_mask as long, not all False; got {seeds}, {mask}."
            )
        info = self._begin(mask, seeds)
        return dict(self._seen), _told(info, mask)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Arrays, NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Advance every episode by actions [num_envs, A].

        Raises:
            InvalidInputError: Wrong shape, a value that is not finite, or, with DISABLED, an episode that is over.
        """
        fresh = self._over.copy()
        if self.autoreset_mode == AutoresetMode.DISABLED and fresh.any():
            raise InvalidInputError(
                f"Episodes {np.flatnonzero(fresh).tolist()} are over. Call reset with a reset_mask."
            )
        if np.shape(actions) != self.action_space.shape:
            raise InvalidInputError(f"Actions {self.action_space.shape} expected; got {np.shape(actions)}.")
        none = np.zeros(self.num_envs, bool)
        if fresh.all():
            info = self._begin(fresh)
            return dict(self._seen), np.zeros(self.num_envs), none, none.copy(), _told(info, fresh)
        self._seen, info = self._episodes.advance(actions)
        self._elapsed += 1
        terminated = info["is_success"] & ~fresh & (self.world.spec.success_at == "any")
        truncated = (self._elapsed >= self._max_episode_steps) & ~fresh & ~terminated
        told = _told({k: v[~fresh] for k, v in info.items()}, ~fresh)
        if fresh.any():  # NEXT_STEP: these rows begin instead of advancing
            told = _joined(told, _told(self._begin(fresh), fresh))
        self._over = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            told = self._begin_in_place(info)
        return dict(self._seen), np.where(fresh, 0.0, info["progress"]), terminated, truncated, told

    def frames(self) -> tuple[NDArray[np.uint8], ...]:
        """The latest frame of each episode, uint8 [H, W, 3].

        Raises:
            InvalidInputError: No episode has begun, or obs_type has no pixels.
        """
        if "pixels" not in self._seen:
            raise InvalidInputError("There is no frame: reset first, with an obs_type that has pixels.")
        return tuple(self._seen["pixels"])

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """The latest frames; None unless `render_mode` is ``"rgb_array"``."""
        return None if self.render_mode is None else self.frames()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute, or the result of the method, of every episode."""
        value = getattr(self, name)
        if name == "render":
            return self.frames() if self.render_mode else (None,) * self.num_envs
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute of every episode."""
        return self.call(name)

    def _begin(self, mask: NDArray[np.bool_], seeds: Sequence[int | None] | None = None) -> Arrays:
        """Begin the episodes of `mask`; returns their info, one row each."""
        rows = np.flatnonzero(mask)
        chosen: list[int] = []
        for row in rows.tolist():
            given = None if seeds is None else seeds[row]
            if given is not None:
                self._generators[row] = np.random.default_rng(given)
            chosen.append(int(self._generators[row].integers(_SEEDS)) if given is None else int(given))
        every = bool(mask.all())
        seen, info = self._episodes.begin(chosen, None if every else rows)
        if not every:
            whole = {k: v.copy() for k, v in self._seen.items()}
            for key, value in seen.items():
                whole[key][mask] = value
            seen = whole
        self._seen = seen
        self._elapsed[mask] = 0
        self._over[mask] = False
        return info

    def _begin_in_place(self, last: Arrays) -> dict[str, Any]:
        """SAME_STEP: keep what the finished episodes ended with, and begin their successors."""
        over = self._over.copy()
        final = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(over):
            final[row] = {k: v[row].copy() for k, v in self._seen.items()}
        ended = _told({k: v[over] for k, v in last.items()}, over)
        going = _told({k: v[~over] for k, v in last.items()}, ~over)
        told = _joined(going, _told(self._begin(over), over))
        return told | {"final_obs": final, "_final_obs": over, "final_info": ended, "_final_info": over}


def _told(info: Arrays, mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A vector environment's info from the rows of `mask`: each key, zero elsewhere, beside the mask."""
    told: dict[str, Any] = {}
    for key, value in info.items():
        whole = np.zeros((len(mask), *value.shape[1:]), value.dtype)
        whole[mask] = value
        told |= {key: whole, f"_{key}": mask.copy()}
    return told


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two infos of different rows as one."""
    joined = dict(one)
    for key, value in other.items():
        if key not in one:
            joined[key] = value
        elif key.startswith("_"):
            joined[key] = one[key] | value
        else:
            joined[key] = np.where(other[f"_{key}"].reshape(-1, *[1] * (value.ndim - 1)), value, one[key])
    return joined


def _first(batch: dict[str, Any]) -> dict[str, Any]:
    """Row 0 of every entry, without the vector masks; numbers as plain numbers."""
    rows = {k: v[0] for k, v in batch.items() if not k.startswith("_")}
    return {k: v.item() if isinstance(v, np.generic) else v for k, v in rows.items()}
