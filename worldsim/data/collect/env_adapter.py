"""Adapts any Gymnasium environment to datasets: frames by camera, proprioception, success and progress.

What is found where:
- frames: `pixels` of a dict observation, else its entries that are pictures (`worldsim.data.collect.pictures`), else an
  observation that is itself a picture, else what `render()` draws (make the environment with
  `render_mode="rgb_array"`), of a list the last. As in LeRobot, `pixels` that is a dict by camera gives
  ``observation.images.NAME`` each, and a single array ``observation.image``;
- proprioception: `agent_pos` alone where there is one; else all numbers of the observation joined, `state` and
  `observation` first and the rest by name (so a goal dictionary gives observation, achieved_goal, desired_goal); one zero
  where there are none; texts are left out;
- true state: `environment_state` of the observation or of info;
- success: what the rule says (`worldsim.data.collect.success`), else `is_success` or `success` of info; progress:
  `progress` of info; unknown where they are missing.

Everything is copied on receipt, because environments may reuse their buffers. Shapes stay what they were at first: an
environment that changes them is stopped, as is one that raises or hangs, and the error says in which step.

Shape legend: H W image, P proprio, A action, E true state.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float32s
from worldsim.core import IMAGE, IMAGES, camera_name
from worldsim.data.collect.env_calls import env_call, place_camera
from worldsim.data.collect.pictures import Fit, ImageSize, looks_like_picture, rgb
from worldsim.data.collect.success import SuccessRule, entry_names, one_number, reported_success
from worldsim.errors import EnvError, InvalidInputError, unknown_name
from worldsim.spaces import EnvAction, action_spec_of, fit_spec, from_env, to_env

_AGENT_POS, _TRUE_STATE, _PIXELS = "agent_pos", "environment_state", "pixels"
_FIRST = ("state", "observation")
_LARGEST_MATRIX = 1024
"""Arrays of several axes with more numbers than this are neither pictures nor proprioception."""
_SLACK = 1e-3
"""Progress may leave 0..1 by this much, by rounding; it is clipped."""
Path = tuple[str | int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EnvReading:
    """What an observation and its info say in numbers."""

    proprio: Float32s  # [P]
    true_state: Float32s | None  # [E]
    success: float  # 0 or 1, nan where it is not known
    progress: float  # 0..1, nan where it is not known


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class EnvObservation(EnvReading):
    """One observation."""

    frames: dict[str, Bytes]  # by camera key, the main camera first: [H, W, 3]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnvView:
    """How an environment is looked at.

    Attributes:
        cameras: Which cameras, by name or full key, the main one first; None for all, in alphabetical order.
        image_px: Frames are scaled into this size, aspect kept, and padded with black; None leaves them as they are.
        action: Meaning of the actions; None to take the environment's own, or make one from its action space.
        success: When the task is solved; None for what info says.
        timeout_s: How long a call into the environment may take; None for ever.
    """

    cameras: tuple[str, ...] | None = None
    image_px: ImageSize | None = None
    action: ActionSpec | None = None
    success: SuccessRule | None = None
    timeout_s: float | None = None


class EnvAdapter:
    """An environment and how its observations are read.

    Args:
        env: With actions that a vector of numbers can hold (`worldsim.spaces`) and some way to get pixels.
        view: How it is looked at.

    Attributes:
        episode: Which episode runs, for errors; set by the caller.
        fits: How the frames of each camera are brought to their size, as last done.

    Raises:
        InvalidInputError: Actions cannot be held by a vector, have no usable limits, or do not fit `view.action`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], view: EnvView | None = None) -> None:
        if isinstance(env, gymnasium.vector.VectorEnv):
            raise InvalidInputError(
                f"{type(env).__name__} plays {env.num_envs} episodes at once: give one of its environments."
            )
        self.env, self.view = env, view or EnvView()
        self.action = action_spec_of(env) if self.view.action is None else fit_spec(self.view.action, env.action_space)
        self.episode = ""
        self._last: tuple[Any, Mapping[str, Any]] = ({}, {})
        self.fits: dict[str, Fit] = {}
        self._step = 0
        self._camera_placed = False
        self._layout: tuple[tuple[str, tuple[int, ...]], ...] | None = None

    @property
    def name(self) -> str:
        """Its id, or the name of its class."""
        return self.task_id or type(self.env.unwrapped).__name__

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

    def reset(self, seed: int) -> tuple[Any, Mapping[str, Any]]:
        """Begin an episode; observation and info as the environment gives them.

        Raises:
            EnvError, MissingExtraError, InvalidInputError: As `env_call`; or it returned something else.
        """
        self._step = 0
        if not self._camera_placed:
            place_camera(self.env, self.name, timeout_s=self.view.timeout_s)
            self._camera_placed = True
        with self._call("in reset"):
            made = self.env.reset(seed=seed)
        if not isinstance(made, tuple) or len(made) != 2 or not isinstance(made[1], Mapping):
            raise self._broken("reset", "observation and info", made)
        return made[0], made[1]

    def step(self, action: EnvAction) -> tuple[Any, float, bool, Mapping[str, Any]]:
        """Advance; observation, reward (nan where it gives None), whether the episode is over, and info.

        Raises:
            EnvError, MissingExtraError, InvalidInputError: As `reset`.
        """
        self._step += 1
        with self._call("in step"):
            made = self.env.step(action)
        if not isinstance(made, tuple) or len(made) != 5 or not isinstance(made[4], Mapping):
            raise self._broken("step", "observation, reward, terminated, truncated and info", made)
        over = any(one_number(made[i], name=name) == 1 for i, name in ((2, "terminated"), (3, "truncated")))
        return made[0], one_number(made[1], name="reward"), over, made[4]

    def read(self, observation: Any, info: Mapping[str, Any], reward: float = math.nan) -> EnvObservation:
        """Take an observation apart.

        Raises:
            InvalidInputError, EnvError: As `numbers` and `frames`.
            UnknownNameError: A camera that was asked for is not there.
        """
        reading = self.numbers(observation, info, reward)
        return EnvObservation(**vars(reading), frames=self.frames(observation))

    def numbers(self, observation: Any, info: Mapping[str, Any], reward: float = math.nan) -> EnvReading:
        """What an observation says without its pictures; nothing is drawn.

        Args:
            observation: As the environment gave it.
            info: Likewise.
            reward: What the last step paid; nan before the first.

        Raises:
            InvalidInputError: A value is not what it should be; it is named.
            EnvError: Numbers came or went since the first observation.
        """
        leaves = dict(_leaves(observation, self.env.observation_space))
        self._last = observation, info
        true_state = info.get(_TRUE_STATE)
        if isinstance(observation, Mapping) and _TRUE_STATE in observation:
            true_state = observation[_TRUE_STATE]
        rule = self.view.success
        return EnvReading(
            proprio=self._proprio(leaves),
            true_state=None if true_state is None else self._vector(_TRUE_STATE, true_state),
            success=reported_success(info) if rule is None else rule(observation, info, reward),
            progress=self._progress(info.get("progress")),
        )

    def frames(self, observation: Any) -> dict[str, Bytes]:
        """Its pictures by camera key, the main camera first, in the size that is wanted; drawn where it holds none.

        Raises:
            InvalidInputError: There are none, or they cannot be read.
            UnknownNameError: A camera that was asked for is not there.
            EnvError, MissingExtraError: `render` failed.
        """
        found = {_camera_key(path): value for path, value in _pictures(observation, self.env.observation_space)}
        if not found:
            with self._call("in render"):
                drawn = self.env.render()
            if isinstance(drawn, list) and drawn:
                drawn = drawn[-1]
            if drawn is None or isinstance(drawn, list | tuple | str):
                raise InvalidInputError(
                    f"The environment {self.name} gives no RGB pixels: neither its observation nor render() holds any. Make "
                    'it with obs_type="pixels_agent_pos" or render_mode="rgb_array".'
                )
            found = {IMAGE: (drawn, None)}
        return {key: self._fitted(key, *found[key]) for key in self._chosen(found)}

    def holds_pictures(self, observation: Any) -> bool:
        """Whether an observation brings its pictures along, so that nothing is drawn by `render`."""
        return bool(_pictures(observation, self.env.observation_space))

    def main_camera(self) -> str:
        """Observation key of the main camera; resets the environment to find out.

        Raises:
            WorldsimError: As `reset` and `read`.
        """
        return next(iter(self.frames(self.reset(0)[0])))

    @property
    def names(self) -> list[str]:
        """What success rules can name, as the last observation and info had it."""
        observation, info = self._last
        return [*entry_names(observation, "observation"), *entry_names(info, "info"), "reward"]

    def describe(self) -> str:
        """What the last observation was read as, for people."""
        parts = [f"{name}{list(shape)}" for name, shape in self._layout or ()]
        cameras = [f"{camera_name(key)} {fit}" for key, fit in self.fits.items()]
        return f"cameras: {', '.join(cameras)}; proprioception: {' + '.join(parts) or 'none'}"

    def place(self, doing: str) -> str:
        """Where the environment stands, for errors: ``in step 12 of episode 7``."""
        at = f" {self._step}" if doing == "in step" else f" after step {self._step}" if self._step else ""
        return f"{doing}{at}{f' of {self.episode}' if self.episode else ''}"

    @property
    def where(self) -> str:
        """Where the last observation was given, for errors."""
        return self.place("in step" if self._step else "in reset")

    def _call(self, doing: str) -> Any:
        return env_call(self.name, self.place(doing), timeout_s=self.view.timeout_s)

    def _broken(self, call: str, expected: str, got: Any) -> EnvError:
        size = f" of {len(got)}" if isinstance(got, tuple) else ""
        return EnvError(
            f"{call} of the environment {self.name} must return {expected}; got a {type(got).__name__}{size} "
            f"{self.place(f'in {call}')}."
        )

    def _chosen(self, found: Mapping[str, Any]) -> list[str]:
        """Keys of the cameras that are wanted, in order."""
        if self.view.cameras is None:
            return sorted(found)
        keys = {**{key: key for key in found}, **{camera_name(key): key for key in found}}
        for name in self.view.cameras:
            if name not in keys:
                raise unknown_name("camera", name, sorted(map(camera_name, found)))
        return [keys[name] for name in self.view.cameras]

    def _fitted(self, key: str, value: Any, space: spaces.Space[Any] | None) -> Bytes:
        """A copy of a picture in the size that is wanted."""
        frame = rgb(value, name=camera_name(key), space=space)
        fit = self.fits.get(key)
        if fit is None:
            fit = self.fits[key] = Fit.of((frame.shape[0], frame.shape[1]), self.view.image_px)
        if fit.source != frame.shape[:2]:
            before, now = (f"{h}x{w}" for h, w in (fit.source, frame.shape[:2]))
            raise EnvError(
                f"Camera {camera_name(key)!r} of the environment {self.name} gives {now} {self.where}; before it was {before}."
            )
        return fit(frame)

    def _proprio(self, leaves: Mapping[Path, tuple[Any, Any]]) -> Float32s:
        """Numbers that describe the robot [P], or one zero."""
        own = {
            path: value
            for path, (value, space) in leaves.items()
            if path[:1] not in ((_PIXELS,), (_TRUE_STATE,))
            and not _is_text(value)
            and not looks_like_picture(value, space)
        }
        if (_AGENT_POS,) in own:
            own = {(_AGENT_POS,): own[_AGENT_POS,]}
        parts = [("/".join(map(str, path)) or "observation", own[path]) for path in sorted(own, key=_rank)]
        vectors = [self._vector(name, value) for name, value in parts]
        layout = tuple((name, np.shape(value)) for name, value in parts)
        if self._layout is None:
            self._layout = layout
        if layout != self._layout:
            raise EnvError(
                f"The environment {self.name} observes {_shown(layout)} {self.where}; before it was {_shown(self._layout)}."
            )
        return np.concatenate(vectors) if vectors else np.zeros(1, np.float32)

    def _vector(self, name: str, value: Any) -> Float32s:
        """Numbers of any shape as the caller's own float32 [P]."""
        try:
            array = np.asarray(value)
        except ValueError:  # ragged
            array = np.asarray(None)
        if array.dtype.kind not in "fiub" or (array.ndim > 1 and array.size > _LARGEST_MATRIX):
            kind = f"{array.dtype} {array.shape}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"
            raise InvalidInputError(
                f"The observation {name!r} is {kind}, which is read neither as a picture nor as "
                "proprioception. Leave it out (gymnasium.wrappers.FilterObservation) or turn it into numbers."
            )
        vector = array.astype(np.float32).ravel()
        if not np.isfinite(vector).all():
            raise InvalidInputError(
                f"The observation {name!r} of the environment {self.name} holds NaN or infinity {self.where}. Find out which "
                "sensor gave it, or leave it out (gymnasium.wrappers.FilterObservation)."
            )
        return vector

    def _progress(self, value: Any) -> float:
        """Progress as a number in 0..1, or nan."""
        progress = one_number(value, name="info.progress")
        if not math.isnan(progress) and not -_SLACK <= progress <= 1 + _SLACK:
            raise InvalidInputError(
                f"info.progress of the environment {self.name} is {progress:g}; progress lies in 0..1, where 1 is solved. "
                "Scale it, or take it out of info, in a gymnasium.Wrapper."
            )
        return min(max(progress, 0.0), 1.0) if not math.isnan(progress) else progress


def _leaves(value: Any, space: Any, path: Path = ()) -> Iterator[tuple[Path, tuple[Any, spaces.Space[Any] | None]]]:
    """The values within an observation, where they are, and their spaces where those are known."""
    if isinstance(value, Mapping):
        entries: Sequence[tuple[Any, Any]] = list(value.items())
    elif isinstance(value, tuple):
        entries = list(enumerate(value))
    else:
        value = value.numpy(force=True) if isinstance(value, Tensor) else value
        yield path, (value, space if isinstance(space, spaces.Space) else None)
        return
    inner = space.spaces if isinstance(space, spaces.Dict | spaces.Tuple) else {}
    for key, item in entries:
        known = key in inner if isinstance(inner, Mapping) else key < len(inner)
        yield from _leaves(item, inner[key] if known else None, (*path, key))


def _pictures(observation: Any, space: Any) -> list[tuple[Path, tuple[Any, spaces.Space[Any] | None]]]:
    """What is to be read as pictures: what is called pixels, else what looks like pictures."""
    leaves = list(_leaves(observation, space))
    named = [leaf for leaf in leaves if leaf[0][:1] == (_PIXELS,)]
    return named or [(p, v) for p, v in leaves if p[:1] != (_TRUE_STATE,) and looks_like_picture(*v)]


def _camera_key(path: Path) -> str:
    """Observation key of the camera whose pictures are at a path."""
    names = [str(p) for p in (path[1:] if path[:1] == (_PIXELS,) else path)]
    only = names in ([], [camera_name(IMAGE)]) and path != (_PIXELS, "image")
    return IMAGE if only else IMAGES + "_".join(names).replace("/", "_")


def _rank(path: Path) -> tuple[int, tuple[str, ...]]:
    """Sorts proprioception: `state`, `observation`, then by name; positions keep their order."""
    first = _FIRST.index(path[0]) if path and path[0] in _FIRST else len(_FIRST)
    return first, tuple(f"{p:09d}" if isinstance(p, int) else p for p in path)


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes) or (isinstance(value, np.ndarray) and value.dtype.kind in "US")


def _shown(layout: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    return ", ".join(f"{name} {list(shape)}" for name, shape in layout) or "no numbers"
