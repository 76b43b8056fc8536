"""Environments used as functions of their state: by restoring it, or by playing the episode's actions again.

`worldsim.data.collect.env_state` says which environments can be restored. Every other one is replayed: its state is the
episode's seed and the actions so far, and as many copies of it are kept as episodes run side by side.

Optional methods spare drawing and are used where a restored environment has them, as `worldsim.envs.push.env.PushEnv`
does: `advance(action)`, `info()`, `agent_pos()`, `pixels()`.

Shape legend: S state, S0 start, P proprio, A action, H W pixels.
"""

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import gymnasium
import numpy as np

from worldsim.arrays import Bytes, Float32s, Float64s
from worldsim.core import IMAGE, IMAGES
from worldsim.data.collect.env_adapter import EnvAdapter, EnvReading, EnvView
from worldsim.data.collect.env_calls import env_call
from worldsim.data.collect.env_state import (
    EnvState,
    StateKind,
    first_difference,
    has_mujoco,
    play_actions,
    pure_wrappers,
    trial_actions,
)
from worldsim.envs.render.renderer import RayRenderer
from worldsim.errors import EnvError, InvalidInputError
from worldsim.spaces import to_env

EnvFactory = Callable[[], gymnasium.Env[Any, Any]]
_FRAME_PX = 64
_COPIES = 64
"""Copies of a replayed environment that are kept: as many episodes as a batch of a triage has."""
_TRIED_STEPS = 8
_TRIED_SEED, _OTHER_SEED = 3, 4


class Simulator(Protocol):
    """An environment as a function of its state.

    Attributes:
        adapter: How it is read.
        cameras: Observation keys of what `draw` draws, the main camera first.
        state_size: S.
        start_size: S0, the width of what is kept of a start.
    """

    adapter: EnvAdapter
    cameras: tuple[str, ...]
    state_size: int
    start_size: int

    def begin(self, seed: int) -> EnvReading:
        """Start the episode of a seed."""

    def start(self) -> Float64s:
        """What the episode that has just begun can be begun from again, float64 [S0]."""

    def first(self, start: Float64s) -> Float64s:
        """The state [S] of an episode that begins from `start` [S0]."""

    def act(self, state: Float64s, action_A: Float32s) -> tuple[Float64s, EnvReading]:
        """Advance from `state` [S] by one control period; where that leads."""

    def draw(self, state: Float64s | None, camera: str) -> Bytes:
        """The frame uint8 [H, W, 3] of a state [S], or of the episode that has just begun."""


class RestoredSimulator:
    """A simulator whose state is set; see `Simulator`.

    Args:
        adapter: The environment. Wrappers that change actions, observations or rewards without memory are applied; those
            that count, limit or film are left out.
        kind: How its state is kept.
        cameras: MuJoCo cameras to draw by ray casting instead of the environment's own frames.

    Raises:
        UnknownNameError: No such camera.
    """

    def __init__(self, adapter: EnvAdapter, kind: StateKind, *, cameras: Sequence[int | str] = ()) -> None:
        self.adapter = adapter
        self._inner = cast(Any, adapter.env.unwrapped)
        wrapped = pure_wrappers(adapter.env)
        assert not isinstance(wrapped, str)
        self._act, self._observe, self._pay = wrapped
        self._keeper = EnvState(adapter.env, kind)
        scene = self._inner.model if cameras else None
        named = [IMAGES + str(c) for c in cameras] if len(cameras) > 1 else [IMAGE]
        self.cameras = tuple(named)
        self._renderers = {k: RayRenderer(scene, c, _FRAME_PX, _FRAME_PX) for k, c in zip(named, cameras, strict=False)}
        adapter.reset(0)
        self.state_size = self.start_size = len(self._keeper.read())

    def begin(self, seed: int) -> EnvReading:
        """See `Simulator.begin`."""
        with self._call("in reset"):
            observation, info = self._inner.reset(seed=seed)
        return self._read(observation, info, math.nan)

    def start(self) -> Float64s:
        """See `Simulator.start`."""
        return self._keeper.read()

    def first(self, start: Float64s) -> Float64s:
        """See `Simulator.first`."""
        return start

    def act(self, state: Float64s, action_A: Float32s) -> tuple[Float64s, EnvReading]:
        """See `Simulator.act`."""
        self._keeper.restore(state)
        with self._call("in step"):
            observation, reward, info = self._advance(to_env(self.adapter.action, action_A))
        return self._keeper.read(), self._read(observation, info, reward)

    def _advance(self, action: Any) -> tuple[Any, float, Mapping[str, Any]]:
        """Act; observation, reward and info as the environment gives them, the first two only where they are needed."""
        for change in self._act:
            action = change(action)
        if callable(getattr(self._inner, "advance", None)) and self.adapter.view.success is None:
            self._inner.advance(action)
            return None, math.nan, self._inner.info()
        observation, reward, _, _, info = self._inner.step(action)
        for change in self._pay:
            reward = change(reward)
        return observation, reward, info

    def _call(self, doing: str) -> AbstractContextManager[None]:
        """A call into the environment: what it raises is named, and it may not hang."""
        return env_call(self.adapter.name, doing, timeout_s=self.adapter.view.timeout_s)

    def draw(self, state: Float64s | None, camera: str) -> Bytes:
        """See `Simulator.draw`.

        Raises:
            InvalidInputError: The environment draws nothing.
        """
        if state is not None:
            self._keeper.restore(state)
        if camera in self._renderers:
            return self._renderers[camera].render(self._inner.data)
        if callable(getattr(self._inner, "pixels", None)):
            return self.adapter.frames({"pixels": self._inner.pixels()})[camera]
        return self.adapter.frames(None)[camera]

    def _read(self, observation: Any, info: Mapping[str, Any], reward: float) -> EnvReading:
        """Read what is known of the present without drawing."""
        if callable(getattr(self._inner, "agent_pos", None)):
            observation = {"agent_pos": self._inner.agent_pos()}
        else:
            for change in self._observe:
                observation = change(observation)
        return self.adapter.numbers(observation, info, reward)


@dataclasses.dataclass(kw_only=True)
class _Run:
    """A copy of the environment and how far its episode is; `over` where the environment has ended it."""

    adapter: EnvAdapter
    observation: Any
    reading: EnvReading
    actions: int = 0
    over: bool = False


class ReplayedSimulator:
    """A simulator whose state is a seed and the actions played since; see `Simulator`.

    A state is float64 [2 + horizon * A]: the seed, how many actions, the actions. An episode that the environment ends
    stays as it ended. All wrappers act.

    Args:
        make: Makes a copy of the environment.
        view: How it is looked at.
        horizon: Actions in an episode.
        first: A copy that is made already.

    Raises:
        EnvError: Two playings of the same actions from the same seed differ.
    """

    def __init__(self, make: EnvFactory | None, view: EnvView, *, horizon: int, first: EnvAdapter) -> None:
        self._make, self._view, self.horizon = make, view, horizon
        self.adapter = first
        self._runs: OrderedDict[bytes, _Run] = OrderedDict()
        self._spare = [first]
        self._made = 1
        self.start_size, self.state_size = 1, 2 + horizon * first.action.dim
        self._check_repeats()
        observation, _ = first.reset(0)
        self.cameras = tuple(first.frames(observation))
        self._begun = self.first(np.zeros(1))

    def begin(self, seed: int) -> EnvReading:
        """See `Simulator.begin`."""
        self._begun = self.first(np.array([seed], np.float64))
        return self._at(self._begun).reading

    def start(self) -> Float64s:
        """See `Simulator.start`."""
        return self._begun[:1].copy()

    def first(self, start: Float64s) -> Float64s:
        """See `Simulator.first`."""
        return np.concatenate([start, np.zeros(self.state_size - 1)])

    def act(self, state: Float64s, action_A: Float32s) -> tuple[Float64s, EnvReading]:
        """See `Simulator.act`.

        Raises:
            InvalidInputError: The episode is over.
        """
        count, dim = int(state[1]), self.adapter.action.dim
        if count >= self.horizon:
            raise InvalidInputError(
                f"An episode of this simulator has {self.horizon} actions; a further one was given."
            )
        following = state.copy()
        following[1] = count + 1
        following[2 + count * dim : 2 + (count + 1) * dim] = action_A
        if _key(following) not in self._runs:
            run = self._at(state)
            del self._runs[_key(state)]
            self._step(run, action_A)
            self._runs[_key(following)] = run
        return following, self._at(following).reading

    def draw(self, state: Float64s | None, camera: str) -> Bytes:
        """See `Simulator.draw`."""
        run = self._at(self._begun if state is None else state)
        return run.adapter.frames(run.observation)[camera]

    def _at(self, state: Float64s) -> _Run:
        """A copy that stands in this state, or one that stood earlier in its episode, or one that is played from the seed."""
        key = _key(state)
        if key not in self._runs:
            earlier = {to: _key(self._shortened(state, to)) for to in reversed(range(int(state[1])))}
            at = next((to for to, place in earlier.items() if place in self._runs), None)
            run = self._reset(state) if at is None else self._runs.pop(earlier[at])
            for action_A in self._actions(state)[at or 0 :]:
                self._step(run, action_A)
            self._runs[key] = run
        self._runs.move_to_end(key)
        return self._runs[key]

    def _free(self) -> EnvAdapter:
        """A copy that can begin another episode: one in use only where all actions of its episode are played, or no more may be made."""
        if self._spare:
            return self._spare.pop()
        ended = next((key for key, run in self._runs.items() if run.actions == self.horizon), None)
        if ended is not None:
            return self._runs.pop(ended).adapter
        if self._make is None or self._made >= _COPIES:
            return self._runs.popitem(last=False)[1].adapter
        self._made += 1
        return EnvAdapter(self._make(), self._view)

    def _reset(self, state: Float64s) -> _Run:
        """A copy at the beginning of an episode; the one used longest ago where no other can be had."""
        adapter = self._free()
        observation, info = adapter.reset(int(state[0]))
        return _Run(adapter=adapter, observation=observation, reading=adapter.numbers(observation, info))

    def _shortened(self, state: Float64s, count: int) -> Float64s:
        """The state after the first `count` of its actions."""
        shorter = self.first(state[:1])
        shorter[1] = count
        shorter[2 : 2 + count * self.adapter.action.dim] = state[2 : 2 + count * self.adapter.action.dim]
        return shorter

    def _actions(self, state: Float64s) -> Float32s:
        """The actions of a state, float32 [count, A]."""
        count, dim = int(state[1]), self.adapter.action.dim
        return state[2 : 2 + count * dim].reshape(count, dim).astype(np.float32)

    @staticmethod
    def _step(run: _Run, action_A: Float32s) -> None:
        """One action more, unless the episode is over; what is not reported stays what it was."""
        run.actions += 1
        if run.over:
            return
        adapter, before = run.adapter, run.reading
        run.observation, reward, run.over, info = adapter.step(to_env(adapter.action, action_A))
        reading = adapter.numbers(run.observation, info, reward)
        reported = {n: getattr(before, n) for n in ("success", "progress") if math.isnan(getattr(reading, n))}
        run.reading = dataclasses.replace(reading, **reported)

    def _check_repeats(self) -> None:
        """Refuse environments in which the same actions from the same seed lead elsewhere the second time."""
        one = self._spare[0]
        other = one if self._make is None else EnvAdapter(self._make(), self._view)
        actions = trial_actions(one, _TRIED_STEPS)
        other.reset(_OTHER_SEED)
        play_actions(other, actions[::-1])
        played = []
        for adapter in (one, other):
            observation, info = adapter.reset(_TRIED_SEED)
            begun = adapter.numbers(observation, info)
            played.append(([begun, *play_actions(adapter, actions)[0]], adapter.frames(observation)))
        different = first_difference(played[0][0], played[1][0])
        if not different and any(not np.array_equal(played[0][1][k], played[1][1][k]) for k in played[0][1]):
            different = "the frames after the seed differ"
        if different:
            raise EnvError(
                f"The environment {one.name} cannot be replayed: two episodes of the same seed and actions are not the same "
                f"({different}). It draws random numbers that reset(seed=...) does not set; seed them, or give it "
                "get_state() and set_state()."
            )
        if other is not one:
            self._spare.append(other)
            self._made += 1


def check_rays(env: gymnasium.Env[Any, Any]) -> None:
    """Refuse MuJoCo cameras of an environment that has no MuJoCo scene.

    Raises:
        InvalidInputError: It has none.
    """
    if not has_mujoco(env):
        raise InvalidInputError(f"{type(env.unwrapped).__name__} has no MuJoCo model and data; leave camera out.")


def _key(state: Float64s) -> bytes:
    return state.tobytes()
