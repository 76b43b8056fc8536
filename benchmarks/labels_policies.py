"""Policies of the third-party task of `benchmarks.labels`: they push gym-pusht's block towards its goal, with more or less noise.

    worldsim collect --env gym_pusht:gym_pusht/PushT-v0 --policies benchmarks.labels_policies:noise_20 ...

Shape legend: n episodes.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from worldsim.core import STATE
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.policies.function import FunctionPolicy
from worldsim.protocols import Policy
from worldsim.spaces import action_spec

LEVELS = {f"noise_{percent}": Degradation(random=percent / 100) for percent in (0, 20, 40, 70)}
"""Share of random actions."""
_GOAL, _GOAL_ANGLE, _MIDDLE_PX = np.array([256.0, 256.0]), np.pi / 4, 45.0
"""Pose of the goal, and how far the middle of a T lies from its origin; the field has 512 px."""

Floats = NDArray[np.float64]


def push(state_n5: Floats) -> Floats:
    """Where the pusher shall go, [n, 2] px, from pusher, block and the block's angle [n, 5]: behind the block, then through it."""
    pusher, middle = state_n5[:, :2], _middle(state_n5[:, 2:4], state_n5[:, 4])
    ahead = _middle(_GOAL, np.array(_GOAL_ANGLE)) - middle
    far = np.linalg.norm(ahead, axis=1, keepdims=True)
    ahead = ahead / np.maximum(far, 1e-6)
    along = ((pusher - middle) * ahead).sum(1, keepdims=True)
    aside = pusher - middle - along * ahead
    off = np.linalg.norm(aside, axis=1, keepdims=True)
    out = np.where(off > 1, aside / np.maximum(off, 1e-6), np.stack([-ahead[:, 1], ahead[:, 0]], 1))
    around = middle + 130 * out - np.where(off < 110, np.where(off > 90, 60, 0), 130) * ahead
    behind = np.where(off < 25, middle + np.minimum(far, 30) * ahead, middle - 110 * ahead)
    return np.where(far < 8, pusher, np.where(along < -40, behind, around)).clip(0, 512)


def _middle(origin: Floats, angle: Floats) -> Floats:
    return origin + _MIDDLE_PX * np.stack([-np.sin(angle), np.cos(angle)], -1)


def graded(level: str) -> Policy:
    """The pusher with a share of its actions replaced."""

    def act(observation: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        return push(observation[STATE].astype(np.float64)).astype(np.float32)

    policy = FunctionPolicy(act, name=level, needs=(STATE,))
    space = spaces.Box(0, 512, (2,), np.float32)
    return DegradedPolicy(policy, action=action_spec(space, rate_hz=10), how=LEVELS[level])


def __getattr__(name: str) -> Callable[[], Policy]:
    """The factory of a level."""
    if name in LEVELS:
        return functools.partial(graded, name)
    raise AttributeError(name)
