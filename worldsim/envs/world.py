"""A world as a Gymnasium environment: one episode (`WorldEnv`), or many in one forward pass (`WorldVectorEnv`).

`gymnasium.make("worldsim/World-v0", world=...)` and `gymnasium.make_vec(...)`, where `world` is a World with starts,
its folder, or the name of a shipped one. Observations, reward and info are as those of the simulated tasks: `pixels`,
`agent_pos`, reward = progress, `info["is_success"]`.

Shape legend: B episodes, s frames (and actions) per step, H W pixels.
"""

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from worldsim.actions import ActionSpec
from worldsim.arrays import Bools
from worldsim.core import WorldSpec
from worldsim.envs.episodes import Arrays, Episodes, ObsType, require_startable
from worldsim.errors import InvalidInputError, unknown_name
from worldsim.protocols import Startable
from worldsim.spaces import EnvAction

_SEEDS = 2**31 - 1
_RENDER_MODES = ["rgb_array"]


class WorldEnv(gymnasium.Env[dict[str, Any], EnvAction]):
    """One episode in a world.

    `reset(seed=s)` begins the start numbered s with noise key s, as row i of the vector environment does for its seed;
    without a seed both are drawn from the generator. The first frame is the start's own, the rest are the world's.

    Actions are those of the world's own environment: a Box, Discrete, Dict, ... as its `ActionSpec` describes. Where the
    world has several cameras, `pixels` is a dict by camera name; where a step is s > 1 frames, it takes s actions, and
    `pixels` holds the s frames [s, H, W, 3].

    Info: `is_success` (the world gives success at least even odds), `success` (its probability), `progress`,
    `uncertainty`, and `environment_state` where the world knows it. An episode is truncated after
    `max_episode_steps`; it terminates earlier only in worlds whose task is solved by success at any step.

    Args:
        world: A world with starts. `gymnasium.make` takes a folder or a shipped name too.
        obs_type: ``"pixels_agent_pos"``, ``"environment_state_agent_pos"`` (nothing is decoded) or ``"all"``.
        max_episode_steps: Defaults to the world's own steps. `gymnasium.make` keeps an argument of this name to itself and
            so can only shorten episodes; construct `WorldEnv` itself to lengthen them.
        render_mode: ``"rgb_array"`` or None; `render` returns the latest frame.

    Raises:
        UnknownNameError: No such obs_type or render_mode.
        InvalidInputError: Not a world with starts, or max_episode_steps below 1.
    """

    metadata: dict[str, Any] = {"render_modes": _RENDER_MODES, "render_fps": 10}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self,
        world: Startable,
        *,
        obs_type: ObsType = "pixels_agent_pos",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
    ) -> None:
        self.world = require_startable(world)
        self._episodes = Episodes(self.world, obs_type=obs_type)
        self._max_episode_steps = _steps(self.world.spec, max_episode_steps)
        self.metadata, self.render_mode = _metadata(self._episodes, render_mode), render_mode
        self.action_spec: ActionSpec = self.world.spec.action
        self.task = self.task_description = self.world.spec.task
        self.observation_space, self.action_space = self._episodes.observation_space, self._episodes.action_space
        self._seen: Arrays = {}
        self._elapsed, self._over = 0, False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin the start numbered `seed`, or a drawn one."""
        super().reset(seed=seed)
        number = int(self.np_random.integers(_SEEDS)) if seed is None else seed
        self._seen, info = self._episodes.begin([number])
        self._elapsed, self._over = 0, False
        return self._episodes.nested(self._seen, 0), _row(info, 0)

    def step(self, action: EnvAction) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Advance one step of the world.

        Raises:
            InvalidInputError: Wrong shape, a value that is not finite, or the episode is over.
        """
        if self._over:
            raise InvalidInputError("The episode is over. Call reset.")
        self._seen, info = self._episodes.advance(action, ())
        self._elapsed += 1
        own = _row(info, 0)
        terminated = own["is_success"] and self._episodes.spec.success_at == "any"
        truncated = self._elapsed >= self._max_episode_steps and not terminated
        self._over = terminated or truncated
        return self._episodes.nested(self._seen, 0), own["progress"], terminated, truncated, own

    def render(self) -> NDArray[np.uint8] | None:
        """The latest frame of the main camera, uint8 [H, W, 3]; None unless `render_mode` is ``"rgb_array"``."""
        return None if self.render_mode is None else self._episodes.frames(self._seen)[0]


class WorldVectorEnv(gymnasium.vector.VectorEnv[dict[str, Any], EnvAction, NDArray[Any]]):
    """`num_envs` episodes of one world, stepped and decoded in one pass; arguments otherwise as `WorldEnv`.

    `reset(seed=s)` begins starts s, s + 1, ...; a list gives each its own. `call` and `get_attr` answer as Gymnasium's
    synchronous vector environment does.

    Args:
        autoreset_mode: How the next episode begins; declared in `metadata`. NEXT_STEP (default) spends one step on it,
            SAME_STEP leaves the last observation in `info["final_obs"]` and `info["final_info"]`, DISABLED leaves it to
            `reset(options={"reset_mask": bool [num_envs]})`.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        world: Startable,
        obs_type: ObsType = "pixels_agent_pos",
        max_episode_steps: int | None = None,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        if num_envs < 1:
            raise InvalidInputError(f"num_envs must be at least 1; got {num_envs}.")
        self.world = require_startable(world)
        self._episodes = Episodes(self.world, obs_type=obs_type)
        self._max_episode_steps = _steps(self.world.spec, max_episode_steps)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        self.metadata = {**_metadata(self._episodes, render_mode), "autoreset_mode": self.autoreset_mode}
        self.action_spec: ActionSpec = self.world.spec.action
        self.task = self.task_description = self.world.spec.task
        self.single_observation_space, self.single_action_space = (
            self._episodes.observation_space,
            self._episodes.action_space,
        )
        self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, num_envs)
        self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._elapsed = np.zeros(num_envs, np.int64)
        self._over: Bools = np.zeros(num_envs, bool)
        self._seen: Arrays = {}

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
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
        return self._episodes.nested(self._seen), _vector_info(info, mask)

    def step(self, actions: EnvAction) -> tuple[dict[str, Any], NDArray[Any], Bools, Bools, dict[str, Any]]:
        """Advance every episode by its row of `actions`.

        Raises:
            InvalidInputError: Wrong shape, a value that is not finite, or, with DISABLED, an episode that is over.
        """
        fresh = self._over
        if self.autoreset_mode == AutoresetMode.DISABLED and fresh.any():
            raise InvalidInputError(
                f"Episodes {np.flatnonzero(fresh).tolist()} are over. Call reset with a reset_mask."
            )
        if fresh.all():
            info = _vector_info(self._begin(fresh), fresh)
            self._over = np.zeros(self.num_envs, bool)
            return (
                self._episodes.nested(self._seen),
                np.zeros(self.num_envs),
                self._over.copy(),
                self._over.copy(),
                info,
            )
        self._seen, info = self._episodes.advance(actions, (self.num_envs,))
        self._elapsed += 1
        terminated = info["is_success"] & ~fresh & (self._episodes.spec.success_at == "any")
        truncated = (self._elapsed >= self._max_episode_steps) & ~fresh & ~terminated
        given = _vector_info({k: v[~fresh] for k, v in info.items()}, ~fresh)
        if fresh.any():  # NEXT_STEP: these rows begin instead of advancing
            given = _merge_infos(given, _vector_info(self._begin(fresh), fresh))
        reward = np.where(fresh, 0.0, info["progress"])
        self._over = terminated | truncated
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._over.any():
            given = self._begin_in_place(info)
        return self._episodes.nested(self._seen), reward, terminated, truncated, given

    def frames(self) -> tuple[NDArray[np.uint8], ...]:
        """The latest frame of each episode, uint8 [H, W, 3], of the main camera.

        Raises:
            InvalidInputError: No episode has begun, or obs_type has no pixels.
        """
        return tuple(self._episodes.frames(self._seen))

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """The latest frames; None unless `render_mode` is ``"rgb_array"``."""
        return None if self.render_mode is None else self.frames()

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The attribute, or the result of the method, of every episode; spaces are those of one episode."""
        value = getattr(self, f"single_{name}" if name in ("action_space", "observation_space") else name)
        if name == "render":
            return self.frames() if self.render_mode else (None,) * self.num_envs
        return (value(*args, **kwargs) if callable(value) else value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """The attribute of every episode."""
        return self.call(name)

    def _begin(self, mask: Bools, seeds: Sequence[int | None] | None = None) -> Arrays:
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
        if not every:  # what was given out before stays as it is
            kept = {key: value.copy() for key, value in self._seen.items()}
            for key, value in seen.items():
                kept[key][mask] = value
            seen = kept
        self._seen = seen
        self._elapsed[mask] = 0
        self._over = self._over & ~mask
        return info

    def _begin_in_place(self, last: Arrays) -> dict[str, Any]:
        """SAME_STEP: keep what the finished episodes ended with, and begin their successors."""
        over = self._over.copy()
        final = np.full(self.num_envs, None, dtype=object)
        ended = {key: value.copy() for key, value in self._seen.items()}
        for row in np.flatnonzero(over):
            final[row] = self._episodes.nested(ended, row)
        end = _vector_info({k: v[over] for k, v in last.items()}, over)
        going = _vector_info({k: v[~over] for k, v in last.items()}, ~over)
        info = _merge_infos(going, _vector_info(self._begin(over), over))
        return info | {"final_obs": final, "_final_obs": over, "final_info": end, "_final_info": over}


def _steps(spec: WorldSpec, asked: int | None) -> int:
    """Steps in an episode: those asked for, or the world's own."""
    if asked is not None and asked < 1:
        raise InvalidInputError(f"max_episode_steps must be at least 1; got {asked}.")
    return spec.steps if asked is None else asked


def _metadata(episodes: Episodes, render_mode: str | None) -> dict[str, Any]:
    """What Gymnasium asks an environment for; refuses render modes that there are not."""
    spec = episodes.spec
    if render_mode not in (None, *_RENDER_MODES):
        raise unknown_name("render_mode", str(render_mode), _RENDER_MODES)
    if render_mode is not None and not episodes.cameras:
        raise InvalidInputError(f"render_mode {render_mode!r} needs an obs_type that has pixels.")
    return {
        "render_modes": _RENDER_MODES if episodes.cameras else [],
        "render_fps": max(1, round(spec.action.rate_hz / spec.actions_per_step)),
        "success_at": spec.success_at,
        "task": spec.task,
    }


def _row(info: Arrays, row: int) -> dict[str, Any]:
    """One episode's info; numbers as plain numbers."""
    return {key: value[row] if value.ndim > 1 else value[row].item() for key, value in info.items()}


def _vector_info(info: Arrays, mask: Bools) -> dict[str, Any]:
    """A vector environment's info from the rows of `mask`: each key, zero elsewhere, beside the mask."""
    filled: dict[str, Any] = {}
    for key, value in info.items():
        rows = np.zeros((len(mask), *value.shape[1:]), value.dtype)
        rows[mask] = value
        filled |= {key: rows, f"_{key}": mask.copy()}
    return filled


def _merge_infos(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two infos of different rows as one."""
    merged = dict(one)
    for key, value in other.items():
        if key not in one:
            merged[key] = value
        elif key.startswith("_"):
            merged[key] = one[key] | value
        else:
            merged[key] = np.where(other[f"_{key}"].reshape(-1, *[1] * (value.ndim - 1)), value, one[key])
    return merged
