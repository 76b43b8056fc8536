"""What faults are found from: an episode reduced to a few numbers per step, and what a dataset does most of the time.

Shape legend: T actions, T + 1 observations, H W image, P proprio, A action.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import nnls

from worldsim.arrays import Bools, Bytes, Float64s
from worldsim.data.episode import Episode

STEADY, MOVING = 0.25, 0.5
"""A channel is smooth if 95 % of its steps are below such a part of its range, and it moves in such a part of the steps."""

AT_REST = 1e-3
"""Part of its range below which a channel's step is none: things at rest drift in simulators, and sensors flicker."""
RATE = 0.9
"""Correlation of a channel's size with the steps of others from which it is taken for their velocity."""
_RATE_ROWS = 4000


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
        rates: bool [P], channels of proprioception that are velocities of others.
        smooth: bool [P], channels of proprioception that move steadily, as joints and positions do; velocities, grippers and
            pushed things leap by nature.
        scale: [P], range of each channel that varies and is smooth (of all that vary where none is), else infinity.
        reach: [A], range of each channel of the actions that varies, else infinity.
        motion: [T] of each episode: how far the robot moves, in ranges of its channels; by its actions where there is no
            proprioception.
        by_actions: Whether motion is that of actions.
        typical: A usual step of a robot that moves.
        fast: A step that 95 % of the steps of a robot that moves do not exceed.
        weight: By camera, [P]: how much a picture changes by each channel's motion, per unit; 0 for velocities.
        largest: [P], step of each channel that 99 % do not exceed; what goes beyond (angles that wrap) changes no more.
        change: By camera, how much a picture changes when the robot moves at least as far as typical.
        leap: By camera, the change that 95 % of transitions do not exceed.
    """

    rates: Bools
    smooth: Bools
    scale: Float64s
    reach: Float64s
    motion: tuple[Float64s, ...]
    by_actions: bool
    typical: float
    fast: float
    weight: Mapping[str, Float64s]
    largest: Float64s
    change: Mapping[str, float]
    leap: Mapping[str, float]


def measure_usual(signals: Sequence[Signals]) -> Usual:
    """What these episodes do most of the time; each has an action, and no NaN."""
    scale, reach = (_range(np.concatenate([getattr(s, n) for s in signals])) for n in ("proprio", "action"))
    rates, largest = _rates(signals, scale), _largest(signals)
    smooth = _steady(signals, scale) & ~rates
    scale = np.where(smooth, scale, np.inf) if smooth.any() else scale
    by_actions = not np.isfinite(scale).any()
    if by_actions:
        motion = [np.linalg.norm((s.action - s.idle) / reach, axis=1) for s in signals]
    else:
        motion = [np.linalg.norm(np.diff(s.proprio, axis=0) / scale, axis=1) for s in signals]
    every = np.concatenate(motion)
    typical, fast = moving_quantiles(every, [0.5, 0.95])
    changes = {key: np.concatenate([s.changes[key] for s in signals]) for key in signals[0].changes}
    seen = {key: c[every >= typical] for key, c in changes.items()}
    return Usual(
        rates=rates,
        smooth=smooth,
        scale=scale,
        reach=reach,
        motion=tuple(motion),
        by_actions=by_actions,
        typical=typical,
        fast=fast,
        weight={key: _weights(signals, rates, largest, key) for key in signals[0].changes},
        largest=largest,
        change={key: float(np.quantile(c, 0.9)) if len(c) else 0.0 for key, c in seen.items()},
        leap={key: float(np.quantile(c, 0.95)) for key, c in changes.items()},
    )


def moving_quantiles(sizes: Float64s, shares: Sequence[float]) -> list[float]:
    """Quantiles of the steps [N] that are no standing still; infinity where there are none."""
    moving = sizes[sizes > 0.05 * np.quantile(sizes, 0.9)]
    return [float(x) for x in np.quantile(moving, shares)] if len(moving) else [math.inf] * len(shares)


def tail_limit(steps: Float64s, times: float) -> float:
    """What no step of [N] exceeds by itself: so many times what 95 % do not, or more where large steps are common.

    The second is what once in three times as many steps is exceeded, if large steps become as rarer as between 95 and 98 % of them:
    hits and falls make steps that no multiple of usual ones bounds. Faults that are rarer than 2 % hardly move it.
    """
    usual, large = np.quantile(steps, [0.95, 0.98])
    rarer = math.log(max(1.0, 0.02 * 3 * len(steps))) / math.log(0.05 / 0.02)
    return float(max(times * usual, large + (large - usual) * rarer))


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
    result: Bools = np.isfinite(scale) & large & ((steps > AT_REST * scale).mean(axis=0) >= MOVING)
    return result


def _largest(signals: Sequence[Signals]) -> Float64s:
    """Step of each channel of proprioception that 99 % do not exceed, [P]; the largest one where that is 0."""
    steps_NP = np.abs(np.concatenate([np.diff(s.proprio, axis=0) for s in signals]))
    limit_P = np.quantile(steps_NP, 0.99, axis=0)
    return np.where(limit_P > 0, limit_P, np.maximum(steps_NP.max(axis=0), 1e-12))


def _weights(signals: Sequence[Signals], rates: Bools, largest: Float64s, key: str) -> Float64s:
    """How much the picture of a camera changes by the motion of each channel, per unit, [P]: least squares, at least 0."""
    steps_NP = np.concatenate([np.abs(np.diff(s.proprio, axis=0)) for s in signals])
    change_N = np.concatenate([s.changes[key] for s in signals])
    change_N = np.minimum(change_N, np.quantile(change_N, 0.99))  # cuts
    result: Float64s = np.zeros(len(rates))
    result[~rates] = nnls(np.minimum(steps_NP / largest, 1)[:, ~rates], change_N)[0] / largest[~rates]
    return result


def expect_changes(s: Signals, usual: Usual, key: str, *, rows: int = 1) -> Float64s:
    """How much the picture of a camera should change over some rows, by how far every channel moves, [T + 1 - rows], 0..255."""
    steps = np.abs(s.proprio[rows:] - s.proprio[:-rows])
    result: Float64s = np.minimum(steps, rows * usual.largest) @ usual.weight[key]
    return result


def _rates(signals: Sequence[Signals], scale: Float64s) -> Bools:
    """Which channels of proprioception are velocities, [P]: as large as others move from row to row, in a weighted sum of at least 0.

    An acceleration may be like a position (a pendulum's is like its sine), and a position like the steps of another (on a circle):
    of two channels that explain each other only one that is explained twice as well is meant.
    """
    result: Bools = np.zeros(len(scale), bool)
    varies = np.flatnonzero(np.isfinite(scale))
    moved_NP = np.concatenate([np.abs(np.diff(s.proprio[:, varies], axis=0)) for s in signals])
    size_NP = np.concatenate([np.abs(s.proprio[1:, varies] + s.proprio[:-1, varies]) / 2 for s in signals])
    few = slice(None, None, 1 + len(moved_NP) // _RATE_ROWS)
    moved_NP = np.minimum(moved_NP, np.quantile(moved_NP, 0.99, axis=0))[few]  # angles that wrap
    spread_P, count = np.maximum(moved_NP.std(axis=0), 1e-12), len(varies)
    miss, by = np.ones(count), np.zeros((count, count))  # by: [which, of whose steps]
    for j in range(count):
        others = np.arange(count) != j
        y = size_NP[few, j]
        if y.std() < 1e-9 or not moved_NP[:, others].any():
            continue
        weights = nnls(moved_NP[:, others] / spread_P[others], y)[0]
        x = moved_NP[:, others] / spread_P[others] @ weights
        miss[j] = 1 - float(np.corrcoef(x, y)[0, 1]) if x.std() > 1e-9 else 1.0
        by[j, others] = weights >= 0.2 * weights.max()
    likely = miss <= 1 - RATE
    rivals = (by > 0) & (by.T > 0) & likely[:, None] & likely & (miss[:, None] > miss / 2)
    result[varies] = likely & ~rivals.any(axis=1)
    return result
