"""Faults of cameras: frames that are missing, pictures that leap, video that is late or early.

Shape legend: T actions, P proprio.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from worldsim.arrays import Float64s
from worldsim.data.faults.fault import Fault
from worldsim.data.faults.gaps import find_gaps
from worldsim.data.faults.lag import Lag, measure_lag
from worldsim.data.faults.signals import Signals, Usual, find_runs

LEAP = 5.0
"""A picture leaps where it changes so many times as much as in 95 % of transitions; contact and lighting stay below."""
SKEW_FRAMES, LATENCY_S = 2, 0.25
"""Delays from which skew is reported. Robots answer up to about a quarter of a second late, which is no fault."""
SKEW_CORRELATION, SKEW_CORRELATION_ONE = 0.35, 0.6
"""Correlation at the best delay that a dataset, and that a single episode, must reach for its delay to be believed."""
SKEW_CONFIDENCE = 0.999
SKEW_CHANCE_ONE = 1e-4
"""Chance of a false alarm that single episodes of a dataset may have together; pauses make signals alike by chance."""
SKEW_LONGEST = 10
"""Largest delay that is looked for, in rows."""


MISSING_FRAMES = (
    "The picture leaps, and runs ahead of the robot from there on: frames of the video are missing.",
    "Cut the episode there; check the recorder's load.",
)


def find_leaps(signals: Sequence[Signals], usual: Usual) -> Iterator[Fault]:
    """Missing rows and frames (`worldsim.data.faults.gaps`), and pictures that leap alone; the value is a ratio to what is usual."""
    for s, gaps in zip(signals, find_gaps(signals, usual), strict=True):
        jumps = [
            (key, first, stop)
            for key, change in s.changes.items()
            for first, stop in (find_runs(change > usual.leap[key] * LEAP) if usual.leap[key] > 0 else ())
            if not any(first <= gap.t < stop for gap in gaps if not gap.camera)
        ]
        for gap in gaps:
            if gap.camera and any(key == gap.camera and first <= gap.t < stop for key, first, stop in jumps):
                continue
            meaning, remedy = MISSING_FRAMES if gap.camera else ("", "")
            yield Fault(
                kind="dropped_frames",
                episode=s.episode,
                frames=(gap.t, gap.t + 1),
                where=gap.camera,
                value=gap.value,
                threshold=gap.threshold,
                meaning=meaning,
                remedy=remedy,
            )
        for key, first, stop in jumps:
            yield Fault(
                kind="picture_jump",
                episode=s.episode,
                frames=(first, stop),
                where=key,
                value=float(s.changes[key][first:stop].max()) / usual.leap[key],
                threshold=LEAP,
            )


def find_skew(signals: Sequence[Signals], usual: Usual) -> Iterator[Fault]:
    """Delay between actions and each camera, of the dataset and of single episodes; the value is in rows.

    Positive: the video is late. A delay of the actions that the robot's own motion does not share with its video is the
    robot's latency.
    """
    kinds: dict[str, list[Float64s]] = {
        "size": [np.linalg.norm((s.action - s.idle) / usual.reach, axis=1) for s in signals],
        "change": [_change(s.action / usual.reach) for s in signals],
    }
    for key in signals[0].changes:
        videos = [s.changes[key] for s in signals]
        lags = {name: _believed(x, videos) for name, x in kinds.items()}
        known = {name: lag for name, lag in lags.items() if lag is not None}
        state = None if usual.by_actions else _believed(usual.motion, videos)
        name = max(known, key=lambda n: known[n].correlation, default="")
        of_all = _skew_of_all(known.get(name), state, rate_hz=signals[0].rate_hz)
        if of_all is not None:
            value, threshold, confidence = of_all
            yield Fault(kind="time_skew", where=key, value=value, threshold=threshold, confidence=confidence)
        elif name or state is not None:
            lag = known.get(name) or state
            activity = kinds[name] if name else usual.motion
            assert lag is not None
            for s, x in zip(signals, activity, strict=True):
                yield from _skew_of_one(s, x, key, expected=lag.frames, tried=len(signals))


def _change(action: Float64s) -> Float64s:
    """How far actions [T, A] are from the ones before, [T]."""
    result: Float64s = np.linalg.norm(np.diff(action, axis=0, prepend=action[:1]), axis=1)
    return result


def _believed(activity: Sequence[Float64s], videos: Sequence[Float64s]) -> Lag | None:
    """The delay of videos behind an activity, where the two have to do with each other."""
    lag = measure_lag(list(zip(activity, videos, strict=True)), most=SKEW_LONGEST)
    return lag if lag is not None and lag.correlation >= SKEW_CORRELATION else None


def _skew_of_all(action: Lag | None, state: Lag | None, *, rate_hz: float) -> tuple[float, float, float] | None:
    """Delay, threshold and confidence of a dataset whose video is not where its actions or its states are."""
    if state is not None and abs(state.frames) >= SKEW_FRAMES and state.confidence >= SKEW_CONFIDENCE:
        lag = state if action is None else action
        return lag.frames, SKEW_FRAMES, state.confidence
    if action is None or action.confidence < SKEW_CONFIDENCE:
        return None
    threshold = -SKEW_FRAMES if action.frames < 0 else max(SKEW_FRAMES, LATENCY_S * rate_hz)
    beyond = action.frames <= threshold if action.frames < 0 else action.frames > threshold
    return (action.frames, abs(threshold), action.confidence) if beyond else None


def _skew_of_one(s: Signals, activity: Float64s, key: str, *, expected: int, tried: int) -> Iterator[Fault]:
    """An episode whose delay is another than that of the dataset."""
    most = min(SKEW_LONGEST, len(activity) // 4)
    if most <= abs(expected):
        return
    own = measure_lag([(activity, s.changes[key])], most=most, expected=expected)
    if own is None or abs(own.frames - expected) < SKEW_FRAMES or own.correlation < SKEW_CORRELATION_ONE:
        return
    if own.confidence >= 1 - SKEW_CHANCE_ONE / tried:
        yield Fault(
            kind="time_skew",
            episode=s.episode,
            where=key,
            value=own.frames,
            threshold=SKEW_FRAMES,
            confidence=own.confidence,
        )
