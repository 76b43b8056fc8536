"""What faults are found from: an episode reduced to a few numbers per step, and what a dataset does most of the time.

Shape legend: T actions, T + 1 observations, H W image, P proprio, A action.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np

from worldsim.arrays import Bools, Bytes, Float64s
from worldsim.data.episode import Episode

STEADY, MOVING = 0.25, 0.5
"""A channel is smooth if 95 % of its steps are below such a part of its range, and it moves in such a part of the steps."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Signals:
    """One episode without its pictures.

    Attributes:
        episode: Its number.
        rate_hz: Observations per second.
        action: float64 [T, A], physical units; may hold NaN.
        idle: float64 [A], the action that does nothing.
        proprio: float64 [T + 1, P], physical units; may hold NaN. One column of zeros stands for none.
        changes: By camera, float64 [T]: mean absolute difference of neighbouring frames, 0..255; see `picture_changes`.
        solved: bool [T], whether the task stands solved before each action, as far as that is known.
        success_known: Whether success is known at its end.
        progress_known: Whether progress is known at its end.
    """

    episode: int
    rate_hz: float
    action: Float64s
    idle: Float64s
    proprio: Float64s
    changes: Mapping[str, Float64s]
    solved: Bools
    success_known: bool = True
    progress_known: bool = True


def picture_changes(frames: Bytes) -> Float64s:
    """How much each frame differs from the next: uint8 [T + 1, H, W, 3] -> float64 [T], mean absolute difference, 0..255."""
    pairs = itertools.pairwise(frames)
    return np.array([np.abs(a.astype(np.int16) - b).mean() for a, b in pairs], np.float64)


def signals_of(index: int, episode: Episode, *, rate_hz: float, idle: Sequence[float]) -> Signals:
    """Reduce an episode to its signals.

    Args:
        index: The episode's number.
        episode: What was recorded.
        rate_hz: Observations per second.
        idle: The action that does nothing, [A].
    """
    return Signals(
        episode=index,
        rate_hz=rate_hz,
        action=episode.action.astype(np.float64),
        idle=np.array(idle, np.float64),
        proprio=episode.proprio.astype(np.float64),
        changes={key: picture_changes(frames) for key, frames in episode.frames.items()},
        solved=episode.success[:-1] > 0.5,
        success_known=bool(np.isfinite(episode.success[-1])),
        progress_known=bool(np.isfinite(episode.progress[-1])),
    )


def fill_gaps(signals: Signals) -> Signals:
    """The same signals with NaN and infinity replaced by the last finite value of their channel."""
    return dataclasses.replace(signals, action=_filled(signals.action), proprio=_filled(signals.proprio))


def _filled(values: Float64s) -> Float64s:
    """Values [N, D] without NaN; zero where a channel has none before."""
    finite = np.isfinite(values)
    if finite.all():
        return values
    rows = np.maximum.accumulate(np.where(finite, np.arange(len(values))[:, None], 0), axis=0)
    result: Float64s = np.nan_to_num(np.take_along_axis(values, rows, axis=0), nan=0.0, posinf=0.0, neginf=0.0)
    return result


def find_runs(flags: Bools) -> list[tuple[int, int]]:
    """First and one past the last position of every run of true values in flags [N]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Usual:
    """What a dataset does most of the time.

    Attributes:
        smooth: bool [P], channels of proprioception that move steadily, as joints and positions do; velocities, grippers and
            pushed things leap by nature.
        scale: [P], range of each channel that varies and is smooth (of all that vary where none is), else infinity.
        reach: [A], range of each channel of the actions that varies, else infinity.
        motion: [T] of each episode: how far the robot moves, in ranges of its channels; by its actions where there is no
            proprioception.
        by_actions: Whether motion is that of actions.
        typical: A usual step of a robot that moves.
        fast: A step that 95 % of the steps of a robot that moves do not exceed.
        change: By camera, how much a picture changes when the robot moves at least as far as typical.
        leap: By camera, the change that 95 % of transitions do not exceed.
    """

    smooth: Bools
    scale: Float64s
    reach: Float64s
    motion: tuple[Float64s, ...]
    by_actions: bool
    typical: float
    fast: float
    change: Mapping[str, float]
    leap: Mapping[str, float]


def measure_usual(signals: Sequence[Signals]) -> Usual:
    """What these episodes do most of the time; each has an action, and no NaN."""
    scale, reach = (_range(np.concatenate([getattr(s, n) for s in signals])) for n in ("proprio", "action"))
    smooth = _steady(signals, scale)
    scale = np.where(smooth, scale, np.inf) if smooth.any() else scale
    by_actions = not np.isfinite(scale).any()
    if by_actions:
        motion = [np.linalg.norm((s.action - s.idle) / reach, axis=1) for s in signals]
    else:
        motion = [np.linalg.norm(np.diff(s.proprio, axis=0) / scale, axis=1) for s in signals]
    every = np.concatenate(motion)
    moving = every[every > 0.05 * np.quantile(every, 0.9)]
    typical, fast = np.quantile(moving, [0.5, 0.95]) if len(moving) else (math.inf, math.inf)
    changes = {key: np.concatenate([s.changes[key] for s in signals]) for key in signals[0].changes}
    seen = {key: c[every >= typical] for key, c in changes.items()}
    return Usual(
        smooth=smooth,
        scale=scale,
        reach=reach,
        motion=tuple(motion),
        by_actions=by_actions,
        typical=float(typical),
        fast=float(fast),
        change={key: float(np.quantile(c, 0.9)) if len(c) else 0.0 for key, c in seen.items()},
        leap={key: float(np.quantile(c, 0.95)) for key, c in changes.items()},
    )


def _range(values: Float64s) -> Float64s:
    """How far each channel of [N, D] reaches, without the outermost values; infinity where it does not vary."""
    low, high = np.quantile(values, [0.02, 0.98], axis=0)
    result: Float64s = np.where(
        high > low, high - low, np.where(np.ptp(values, axis=0) > 0, np.ptp(values, axis=0), np.inf)
    )
    return result


def _steady(signals: Sequence[Signals], scale: Float64s) -> Bools:
    """Which channels of proprioception move in most steps, and by a small part of their range, [P]."""
    steps = np.abs(np.concatenate([np.diff(s.proprio, axis=0) for s in signals]))
    large = np.quantile(steps, 0.95, axis=0) <= STEADY * scale
    result: Bools = np.isfinite(scale) & large & ((steps > 1e-6 * steps.max(axis=0)).mean(axis=0) >= MOVING)
    return result
