"""Faults of numbers: NaN, channels that never change or leap, angles that wrap, pauses, lengths, missing labels.

Shape legend: T actions, P proprio, A action.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from worldsim.arrays import Bools, Float64s
from worldsim.data.faults.fault import Fault
from worldsim.data.faults.signals import Signals, Usual, find_runs, tail_limit

JUMP = 4.0
"""A joint jumps where it moves so many times as far as in 95 % of the steps in which it moves; robots reach about twice."""
ALONE = 0.5
"""Share of a leap that the steps around it must not exceed."""
OFTEN = 0.2
"""What a channel does in more than this share of episodes is how it moves (a gripper), not a fault."""
IDLE_SHARE = 0.5
"""Share of an episode's steps in which nothing moves and nothing is asked for."""
IDLE_MOTION, IDLE_ACTION, IDLE_PICTURE = 0.02, 0.02, 0.05
"""What counts as nothing: shares of a fast step, of the actions' range, and of a camera's usual change."""
SHORT_SHARE = 0.2
"""Share of the median length below which an episode is short..."""
SHORT_SPREAD = 1.5
"""... if it also is so many quartile distances below the lower quartile (Tukey's fence)."""
_LONG = 20
"""Steps from which a channel that stands still in one episode says something."""


def find_lengths(lengths: Mapping[int, int]) -> Iterator[Fault]:
    """Episodes of one observation, and much shorter ones than the others; `lengths` is in observations, by episode."""
    longer = [n for n in lengths.values() if n > 1]
    low, middle, high = np.quantile(longer, [0.25, 0.5, 0.75]) if longer else (0.0, 0.0, 0.0)
    limit = float(min(SHORT_SHARE * middle, low - SHORT_SPREAD * (high - low)))
    for episode, length in lengths.items():
        if length <= 1:
            yield Fault(kind="one_frame", episode=episode, value=length, threshold=2)
        elif length < limit:
            yield Fault(kind="short_episode", episode=episode, value=length, threshold=limit)


def find_missing_labels(signals: Sequence[Signals]) -> Iterator[Fault]:
    """Episodes without success and progress, or without one that others have; the value is their share."""
    for name, other in (("success", "progress"), ("progress", "success")):
        missing = [not getattr(s, f"{name}_known") for s in signals]
        neither = not any(getattr(s, f"{other}_known") for s in signals)
        if any(missing) and (not all(missing) or (neither and name == "success")):
            where = "success and progress" if all(missing) else name
            yield Fault(kind="missing_labels", where=where, value=float(np.mean(missing)), threshold=0.0)


def find_not_finite(
    signals: Sequence[Signals], *, action_names: Sequence[str] = (), proprio_names: Sequence[str] = ()
) -> Iterator[Fault]:
    """Channels with NaN or infinity; the value is the number of such rows."""
    for s in signals:
        for kind, values, names in (("action", s.action, action_names), ("state", s.proprio, proprio_names)):
            bad = ~np.isfinite(values)
            for channel in np.flatnonzero(bad.any(axis=0)):
                rows = np.flatnonzero(bad[:, channel])
                yield Fault(
                    kind="not_finite",
                    episode=s.episode,
                    frames=(int(rows[0]), int(rows[-1])),
                    where=_channel(kind, names, int(channel)),
                    value=len(rows),
                    threshold=1,
                )


def _channel(kind: str, names: Sequence[str], index: int) -> str:
    """What people call a channel."""
    return f"{kind} {names[index] if index < len(names) else index}"


def find_constant(
    signals: Sequence[Signals], *, action_names: Sequence[str] = (), proprio_names: Sequence[str] = ()
) -> Iterator[Fault]:
    """Channels and cameras that never change, in the dataset or in one episode of several; the value is the constant."""
    actions, proprios = [s.action for s in signals], [s.proprio for s in signals]
    for kind, values, names in (("action", actions, action_names), ("state", proprios, proprio_names)):
        pooled = np.concatenate(values)
        absent = kind == "state" and pooled.shape[1] == 1 and not pooled.any()  # one zero stands for no proprioception
        for channel in np.flatnonzero(np.ptp(pooled, axis=0) == 0) if not absent and len(pooled) > 2 else ():
            where = _channel(kind, names, int(channel))
            yield Fault(kind="constant", where=where, value=float(pooled[0, channel]), threshold=0.0)
    if len(signals) > 2:
        yield from _dead_in_one(signals, proprio_names)
    for key in signals[0].changes:
        changes = np.concatenate([s.changes[key] for s in signals])
        if len(changes) > 2 and not changes.any():
            yield Fault(kind="constant", where=key, value=0.0, threshold=0.0)


def _dead_in_one(signals: Sequence[Signals], names: Sequence[str]) -> Iterator[Fault]:
    """Channels that stand still in a single episode, in which half of the others move at least. Actions may well do so: a closed gripper."""
    still = np.array([np.ptp(s.proprio, axis=0) == 0 for s in signals])  # [episodes, channels]
    for channel in np.flatnonzero(still.sum(axis=0) == 1):
        s = signals[int(still[:, channel].argmax())]
        if len(s.action) >= _LONG and still[still[:, channel], :].mean() <= 0.5:
            value = float(s.proprio[0, channel])
            where = _channel("state", names, int(channel))
            yield Fault(kind="constant", episode=s.episode, where=where, value=value, threshold=0.0)


def find_joint_jumps(signals: Sequence[Signals], usual: Usual, *, proprio_names: Sequence[str] = ()) -> Iterator[Fault]:
    """Channels of proprioception that leap, and angles that wrap; the value is how far, in units of the channel.

    A wrapping angle is reported once, where it wraps first. Only smooth channels are looked at for leaps.
    """
    for channel in range(signals[0].proprio.shape[1]):
        where = _channel("state", proprio_names, channel)
        steps = [np.abs(np.diff(s.proprio[:, channel])) for s in signals]
        every = np.concatenate(steps)
        moving = every[every > 1e-6 * float(every.max())]
        limit = tail_limit(moving, JUMP) if usual.smooth[channel] else math.inf
        span = float(np.ptp(np.concatenate([s.proprio[:, channel] for s in signals])))
        wraps = [(s.episode, r, _largest(x, r)) for s, x in zip(signals, steps, strict=True) for r in _turns(x, span)]
        if wraps:
            episode, (first, stop), value = wraps[0]
            yield Fault(
                kind="angle_wrap", episode=episode, frames=(first, stop), where=where, value=value, threshold=math.tau
            )
            continue
        jumps = [
            (s.episode, r, _largest(x, r))
            for s, x in zip(signals, steps, strict=True)
            for r in find_runs(x > limit)
            if _is_alone(x, *r)
        ]
        common = len({episode for episode, _, _ in jumps}) > max(1, OFTEN * len(signals))
        for episode, (first, stop), value in jumps:
            if stop - first > 1 or not common:  # there and back, or rare
                yield Fault(
                    kind="joint_jump", episode=episode, frames=(first, stop), where=where, value=value, threshold=limit
                )


def _largest(steps: Float64s, run: tuple[int, int]) -> float:
    return float(steps[run[0] : run[1]].max())


def _is_alone(steps: Float64s, first: int, stop: int) -> bool:
    """Whether steps are a leap, there or there and back, and not the fastest part of a fast motion or its beginning."""
    around = np.concatenate([steps[max(0, first - 1) : first], steps[stop : stop + 1]])
    return stop - first <= 2 and not (around > ALONE * steps[first:stop].max()).any()


def _turns(steps: Float64s, span: float) -> list[tuple[int, int]]:
    """Steps by a full turn, in radians or degrees, of a channel that else moves little and spans no more than that turn."""
    found: Bools = np.zeros(len(steps), bool)
    for turn in (math.tau, 360.0):
        if len(steps) and span <= 1.02 * turn and np.median(steps) < 0.05 * turn:
            found |= steps >= 0.9 * turn
    return find_runs(found)


def idle_steps(s: Signals, motion: Float64s, usual: Usual) -> Bools:
    """Steps [T] in which nothing moves and nothing is asked for.

    Args:
        s: The episode.
        motion: How far the robot moves, [T], as `Usual.motion` has it.
        usual: What the dataset does most of the time.
    """
    away = np.abs(s.action - s.idle) / usual.reach
    again = (
        np.abs(np.diff(s.action, axis=0, prepend=s.action[:1])) / usual.reach
    )  # targets that are held ask for nothing
    quiet: Bools = (np.minimum(away.max(axis=1), again.max(axis=1)) < IDLE_ACTION) & (motion < IDLE_MOTION * usual.fast)
    for key, change in usual.change.items():
        quiet &= s.changes[key] <= IDLE_PICTURE * change
    return quiet


def find_idle(signals: Sequence[Signals], usual: Usual) -> Iterator[Fault]:
    """Episodes in which mostly nothing happens though nothing is solved; the value is the share of such steps."""
    for s, motion in zip(signals, usual.motion, strict=True):
        share = float((idle_steps(s, motion, usual) & ~s.solved).mean())
        if share >= IDLE_SHARE:
            yield Fault(kind="idle", episode=s.episode, value=share, threshold=IDLE_SHARE)
