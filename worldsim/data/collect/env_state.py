"""The state of an environment as one vector, from which an episode can begin again.

Three kinds, the first that an environment offers:
- its own `get_state() -> float64 [S]` and `set_state(state)`;
- MuJoCo's, where it keeps a `model` and `data`, and a trial shows that nothing else matters (a goal kept beside them
  would be lost);
- its seed, float64 [1]: the episode is reset with it and its actions are played again.

The first two hold only while no wrapper remembers anything, and where frames can be drawn of a state that was set: by
`render()`, or by `pixels()` of an environment whose observations hold them.

Shape legend: S state.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import gymnasium
import numpy as np
import torch

from worldsim import noise
from worldsim.arrays import Float32s, Float64s
from worldsim.data.collect.env_adapter import EnvAdapter, EnvReading
from worldsim.spaces import to_env, wrappers_of

StateKind = Literal["own", "mujoco", "seed"]
_LEFT_OUT = (
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
_TRIED_STEPS = 6
_SEEDS = (1, 2)
"""The trial compares an episode of the first seed with its repetition halfway through one of the second."""
_CLOSE = 1e-5
Change = Callable[[Any], Any]


class EnvState:
    """Reads and restores the state of an environment.

    Args:
        env: The environment.
        kind: ``"own"`` or ``"mujoco"``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], kind: StateKind) -> None:
        self.env: Any = env.unwrapped
        self.kind = kind

    def read(self) -> Float64s:
        """Everything needed to resume, as the caller's own float64 [S]."""
        if self.kind == "own":
            return np.array(self.env.get_state(), np.float64)
        import mujoco

        signature = mujoco.mjtState.mjSTATE_INTEGRATION
        vector = np.empty(mujoco.mj_stateSize(self.env.model, signature))
        mujoco.mj_getState(self.env.model, self.env.data, vector, signature)
        return vector

    def restore(self, state: Float64s) -> None:
        """Resume from `state` [S]."""
        if self.kind == "own":
            self.env.set_state(state)
            return
        import mujoco

        model, data, signature = self.env.model, self.env.data, mujoco.mjtState.mjSTATE_INTEGRATION
        mujoco.mj_resetData(model, data)  # what the vector does not hold must not depend on the past either
        mujoco.mj_setState(model, data, state, signature)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, signature)  # mj_forward moved the solver's warm start


def has_mujoco(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether it keeps its MuJoCo model and data as Gymnasium's own environments do."""
    pair = (type(getattr(env.unwrapped, name, None)) for name in ("model", "data"))
    return [(kind.__module__.partition(".")[0], kind.__name__) for kind in pair] == [
        ("mujoco", "MjModel"),
        ("mujoco", "MjData"),
    ]


def has_own_state(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether it has `get_state` and `set_state` of one vector of numbers; the environment has been reset."""
    inner: Any = env.unwrapped
    # Gymnasium's MujocoEnv has a set_state(qpos, qvel) of another meaning, and no get_state
    if not (callable(getattr(inner, "get_state", None)) and callable(getattr(inner, "set_state", None))):
        return False
    try:
        return np.asarray(inner.get_state(), np.float64).ndim == 1
    except (TypeError, ValueError):  # a dictionary or an object of the environment's own
        return False


def pure_wrappers(env: gymnasium.Env[Any, Any]) -> tuple[list[Change], list[Change], list[Change]] | str:
    """What wrappers do to an action, an observation and a reward, in the order of doing.

    Returns:
        Functions of each; or the name of a wrapper that has a `step` or `reset` of its own and may remember what went
        before.
    """
    act: list[Change] = []
    look: list[Change] = []
    pay: list[Change] = []
    for wrapper in wrappers_of(env):
        kind = type(wrapper)
        if isinstance(wrapper, gymnasium.ActionWrapper) and _inherits(kind, gymnasium.ActionWrapper):
            act.append(wrapper.action)
        elif isinstance(wrapper, gymnasium.ObservationWrapper) and _inherits(kind, gymnasium.ObservationWrapper):
            look.insert(0, wrapper.observation)
        elif isinstance(wrapper, gymnasium.RewardWrapper) and _inherits(kind, gymnasium.RewardWrapper):
            pay.insert(0, wrapper.reward)
        elif not issubclass(kind, _LEFT_OUT) and not _inherits(kind, gymnasium.Wrapper):
            return kind.__name__
    return act, look, pay


def state_kind(adapter: EnvAdapter) -> StateKind:
    """How the state of an environment can be kept; resets it, and steps it if it is MuJoCo's.

    Raises:
        WorldsimError: As `EnvAdapter.reset`, `step` and `numbers`.
    """
    if isinstance(pure_wrappers(adapter.env), str):
        return "seed"
    observation, _ = adapter.reset(_SEEDS[0])
    drawn = callable(getattr(adapter.env.unwrapped, "pixels", None)) or not adapter.holds_pictures(observation)
    if not drawn:  # only a step or a reset shows what such a state looks like
        return "seed"
    if has_own_state(adapter.env):
        return "own"
    return "mujoco" if has_mujoco(adapter.env) and _survives_restoring(adapter) else "seed"


def trial_actions(adapter: EnvAdapter, steps: int) -> Sequence[Float32s]:
    """Random actions [A] to try an environment with."""
    key = torch.tensor([0x7214])
    units = noise.uniform(key, 0, (steps, adapter.action.dim))[0] * 2 - 1
    return [adapter.action.check(adapter.action.from_unit(unit)).numpy() for unit in units]


def first_difference(one: Sequence[EnvReading], other: Sequence[EnvReading]) -> str:
    """What differs between two playings of the same episode, and at which observation; empty where nothing does."""
    if len(one) != len(other):
        return f"one ends after {min(len(one), len(other))} steps, the other does not"
    for t, (a, b) in enumerate(zip(one, other, strict=True)):
        for name in ("proprio", "true_state", "success", "progress"):
            left, right = (np.asarray(getattr(r, name), np.float64) for r in (a, b))
            if left.shape != right.shape or not np.allclose(left, right, rtol=_CLOSE, atol=_CLOSE, equal_nan=True):
                return f"{name} differs at step {t}"
    return ""


def _survives_restoring(adapter: EnvAdapter) -> bool:
    """Whether an episode goes on as it would have when MuJoCo's state is restored halfway through another episode."""
    keeper, actions = EnvState(adapter.env, "mujoco"), trial_actions(adapter, _TRIED_STEPS)
    adapter.reset(_SEEDS[0])
    state = keeper.read()
    first, paid = play_actions(adapter, actions)
    adapter.reset(_SEEDS[1])
    play_actions(adapter, actions[::-1])
    keeper.restore(state)
    again, paid_again = play_actions(adapter, actions)
    if first_difference(first, again):
        return False
    return bool(np.allclose(paid, paid_again, rtol=_CLOSE, atol=_CLOSE, equal_nan=True))


def play_actions(adapter: EnvAdapter, actions: Sequence[Float32s]) -> tuple[list[EnvReading], list[float]]:
    """What some actions lead to, without pictures, and what they pay; no further than the episode goes."""
    readings, rewards = [], []
    for action in actions:
        observation, reward, over, info = adapter.step(to_env(adapter.action, action))
        readings.append(adapter.numbers(observation, info, reward))
        rewards.append(reward)
        if over:
            break
    return readings, rewards


def _inherits(kind: type[Any], base: type[Any]) -> bool:
    """Whether a wrapper leaves `step` and `reset` as its base has them and keeps no statistics: it remembers nothing."""
    counts = issubclass(kind, gymnasium.wrappers.NormalizeObservation)
    return not counts and kind.step is base.step and kind.reset is base.reset
