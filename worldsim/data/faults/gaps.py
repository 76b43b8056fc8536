"""Finds missing rows and missing frames: steps that no action explains, and videos that run ahead of the robot from some row on.

Shape legend: T actions, P proprio (channels that vary and are smooth), F features, N steps of all episodes.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from worldsim.arrays import Bools, Float64s
from worldsim.data.faults.signals import Signals, Usual, expect_changes, moving_quantiles, tail_limit

DROPPED = 2.5
"""Where actions do not explain motion, rows are missing where a step is so many times as long as those before and after..."""
BEYOND, FAR_BEYOND = 1.5, 2.5
"""... and so many times as long as 95 % of all steps: a robot may speed up, but not beyond what it can do. The first is
enough where the step goes the same way as those around it."""
CHANNELS = 0.2
"""Rows are missing where a second channel leaps at least by this share of what the first does."""
EXPLAINED = 0.6
"""Share of motion that actions must explain (R squared) for steps that go beyond it to say something."""
SURE, LEAST = 3.0, 0.6
"""Rows are missing where a step goes beyond what its action explains by so many times what 95 % of steps do, and by so
much of a usual step."""
SEEN = 0.6
"""Share of the picture's change that belongs to such a step that must be seen: else the channel leapt, not the robot."""
FRAMES_LONGEST, FRAMES_AFTER = 4, 8
"""Frames that are looked for in one gap of a video, at most, and steps that must follow it."""
FRAMES_CORRELATION = 0.6
"""Of how far the robot moves with how much the picture changes, both in logarithms, from which gaps of a video are looked for."""
FRAMES_SURE, OVER_CHANCE = 14.0, 1.3
"""Logarithm of the likelihood ratio from which a gap of a video is believed, at least so many times what the same episodes reach
when they are read backwards, in which no gap begins."""
FRAMES_BETTER = 0.75
"""Share of the misfit after a gap of a video that may be left when the video is taken to run ahead."""
_RIDGE, _ROWS_PER_FEATURE, _WORST = 1e-8, 8, 0.05
_CLIP = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gap:
    """Something missing between observations `t` and `t + 1`; `camera` is empty where entire rows are missing."""

    t: int
    value: float
    threshold: float
    camera: str = ""


def find_gaps(signals: Sequence[Signals], usual: Usual) -> list[list[Gap]]:
    """Gaps of each episode, in order; those of a camera only where no row is missing."""
    rows = _row_gaps(signals, usual) if usual.smooth.any() else [[] for _ in signals]
    videos = _video_gaps(signals, usual)
    return [
        [*own, *(g for g in video if all(abs(g.t - o.t) > 1 for o in own))]
        for own, video in zip(rows, videos, strict=True)
    ]


def _row_gaps(signals: Sequence[Signals], usual: Usual) -> list[list[Gap]]:
    """Missing rows, by what actions explain where they explain enough, else by the steps around."""
    steps = [np.diff(s.proprio, axis=0) / usual.scale for s in signals]
    bends = [np.linalg.norm(x[1:-1] - (x[:-2] + x[2:]) / 2, axis=1) for x in steps]
    bend = tail_limit(np.concatenate(bends), SURE) if sum(map(len, bends)) else np.inf
    found = [_lone_steps(s, x, m, usual, bend) for s, x, m in zip(signals, steps, usual.motion, strict=True)]
    beyond = _beyond_actions(signals, usual)
    for number, own in enumerate(_unexplained(signals, usual, beyond) if beyond is not None else ()):
        near = {t + d for t in found[number] for d in (-1, 0, 1)}
        found[number] |= {t: v for t, v in own.items() if t not in near}
    return [[Gap(t=t, value=v, threshold=1.0) for t, v in sorted(own.items())] for own in found]


def _unexplained(signals: Sequence[Signals], usual: Usual, beyond: Sequence[Float64s]) -> list[dict[int, float]]:
    """Steps that go beyond what their action explains and that pictures show; how many times as far as by chance.

    Args:
        signals: Of the episodes.
        usual: What they do most of the time.
        beyond: How far each step goes beyond what its action explains, [T] of each episode.
    """
    limit = max(tail_limit(np.concatenate(beyond), SURE), LEAST * usual.typical)
    expected = {
        key: _change_of_motion(usual.motion, [s.changes[key] for s in signals], usual.typical)
        for key in signals[0].changes
    }
    found, varies = [], np.isfinite(usual.scale)
    for s, motion, b in zip(signals, usual.motion, beyond, strict=True):
        steps = np.diff(s.proprio, axis=0) / usual.scale
        found.append(
            {
                t: float(b[t]) / limit
                for t in np.flatnonzero(_peaks(b) & (b > limit)).tolist()
                if t
                and _is_seen(
                    s, motion, t, expected, alone=_is_one_channel(steps[t], varies), asked=float(motion[t] - b[t])
                )
            }
        )
    return found


def _beyond_actions(signals: Sequence[Signals], usual: Usual) -> list[Float64s] | None:
    """How far each step goes beyond what its action explains, [T] of each episode; None where actions explain too little.

    A step that falls short of what was asked for (a blocked robot) goes beyond nothing.
    """
    x_NF, y_NP = (np.concatenate(rows) for rows in zip(*(_regression(s, usual) for s in signals), strict=True))
    if usual.by_actions or len(x_NF) < _ROWS_PER_FEATURE * x_NF.shape[1]:
        return None
    kept = np.ones(len(x_NF), bool)
    for _ in range(2):  # again without the worst rows, which are what is looked for
        gram = x_NF[kept].T @ x_NF[kept]
        weights = np.linalg.solve(
            gram + _RIDGE * np.trace(gram) / len(gram) * np.eye(len(gram)), x_NF[kept].T @ y_NP[kept]
        )
        miss_N = np.linalg.norm(y_NP - x_NF @ weights, axis=1)
        kept = miss_N <= np.quantile(miss_N, 1 - _WORST)
    spread = float(np.square(y_NP[kept] - y_NP[kept].mean(axis=0)).sum())
    if 1 - float(np.square(miss_N[kept]).sum()) / max(spread, 1e-12) < EXPLAINED:
        return None
    asked_NP = x_NF @ weights
    over_NP = y_NP - np.clip(y_NP, np.minimum(asked_NP, 0), np.maximum(asked_NP, 0))
    ends = np.cumsum([len(s.action) for s in signals])[:-1]
    return list(np.split(np.linalg.norm(over_NP, axis=1), ends))


def _regression(s: Signals, usual: Usual) -> tuple[Float64s, Float64s]:
    """What may explain the steps of an episode, [T, F], and the steps, [T, P], both in usual ranges."""
    varies = np.isfinite(usual.scale)
    place = s.proprio[:, varies] / usual.scale[varies]
    asked = (s.action / usual.reach)[:, np.isfinite(usual.reach)]
    before = np.concatenate([asked[:1], asked[:-1]])
    return np.concatenate([asked, before, place[:-1], np.ones((len(asked), 1))], axis=1), np.diff(place, axis=0)


def _peaks(values: Float64s) -> Bools:
    """Which values are no less than the one before and the one after."""
    padded = np.concatenate([[-np.inf], values, [-np.inf]])
    result: Bools = (values >= padded[:-2]) & (values >= padded[2:])
    return result


def _is_one_channel(step_P: Float64s, varies: Bools) -> bool:
    """Whether one channel leaps and the others go on: a fault of the channel, not of the rows."""
    largest = np.sort(np.abs(step_P[varies]))[::-1]
    return len(largest) > 1 and bool(largest[1] < CHANNELS * largest[0])


def _is_seen(
    s: Signals,
    motion: Float64s,
    t: int,
    lines: Mapping[str, tuple[float, float, float]],
    *,
    alone: bool,
    asked: float,
) -> bool:
    """Whether pictures say that the robot went all the way of step t, so that it is no fault of a channel.

    Args:
        s: The episode.
        motion: How far the robot moves, [T].
        t: The step.
        lines: As `_change_of_motion` finds them, by camera.
        alone: One channel leaps and the others go on. A picture must then change more as in a step so long than as in what
            was asked for; else it is enough that it changes at all.
        asked: How far the action says that the robot goes.
    """
    if not alone:
        least = {key: SEEN * float(np.median(c)) for key, c in s.changes.items()}
        return not s.changes or any(c[t] >= least[key] for key, c in s.changes.items())
    for key, (a, b, correlation) in lines.items():
        middle = a + b * (np.log(motion[t] + 1e-9) + np.log(max(asked, 0.1 * motion[t]) + 1e-9)) / 2
        if correlation >= FRAMES_CORRELATION and s.changes[key][t] > np.exp(middle):
            return True
    return False


def _lone_steps(s: Signals, steps: Float64s, motion: Float64s, usual: Usual, bend: float) -> dict[int, float]:
    """Steps that are too long for a robot or for the steps around them, in several channels; how many times as long, of `DROPPED`.

    Args:
        s: The episode.
        steps: Of its proprioception, [T, P], in usual ranges.
        motion: Their length, [T].
        usual: What the dataset does most of the time.
        bend: By how much steps differ from the middle of those around them at most.
    """
    found, varies = {}, np.isfinite(usual.scale)
    full = {key: expect_changes(s, usual, key) for key in s.changes}
    for t in range(1, len(steps) - 1):
        around = motion[[t - 1, t + 1]]
        ratio = motion[t] / max(float(around.mean()), 1e-12)
        if ratio < DROPPED or _is_one_channel(steps[t], varies):
            continue
        same_way = min(float(steps[t] @ steps[n]) / max(motion[t] * motion[n], 1e-12) for n in (t - 1, t + 1)) > 0.5
        along = same_way and around.min() > 0.3 * usual.typical
        bent = float(np.linalg.norm(steps[t] - (steps[t - 1] + steps[t + 1]) / 2)) > bend
        long = motion[t] >= BEYOND * usual.fast or bent
        seen = any(c[t] ** 2 >= (c[t - 1] + c[t + 1]) / 2 * full[key][t] for key, c in s.changes.items())
        if (seen or not s.changes) and ((along and long) or motion[t] > FAR_BEYOND * usual.fast):
            found[t] = float(ratio) / DROPPED
    return found


def _change_of_motion(
    motion: Sequence[Float64s], changes: Sequence[Float64s], typical: float
) -> tuple[float, float, float]:
    """How much a picture changes when the robot moves so far, log change = a + b log motion: a, b and their correlation.

    Args:
        motion: How far it moves, [T] of each episode.
        changes: How much the picture changes, [T] of each.
        typical: A usual step; a tenth of it is none.
    """
    x, y = (np.log(np.concatenate(rows) + 1e-9) for rows in (motion, changes))
    seen = (np.exp(x) > 0.1 * typical) & (np.exp(y) > 1e-3)
    if seen.sum() < 2 * _ROWS_PER_FEATURE or x[seen].std() < 1e-6 or y[seen].std() < 1e-6:
        return 0.0, 0.0, 0.0
    b, a = np.polyfit(x[seen], y[seen], 1)
    return float(a), float(b), float(np.corrcoef(x[seen], y[seen])[0, 1])


def _video_gaps(signals: Sequence[Signals], usual: Usual) -> list[list[Gap]]:
    """Missing frames of each camera: from some row on the video runs ahead of the robot, and it leaps there."""
    found: list[list[Gap]] = [[] for _ in signals]
    for key in signals[0].changes if not usual.by_actions else ():
        sizes = [expect_changes(s, usual, key) for s in signals]
        [typical] = moving_quantiles(np.concatenate(sizes), [0.5])
        a, b, correlation = _change_of_motion(sizes, [s.changes[key] for s in signals], typical)
        if correlation < FRAMES_CORRELATION:
            continue
        floor = float(np.log(0.1 * typical + 1e-9))
        lowest = a + b * floor
        shown = [np.maximum(np.log(np.maximum(s.changes[key], 1e-3)), lowest) for s in signals]
        moved = [a + b * np.maximum(np.log(m + 1e-9), floor) for m in sizes]
        misses = np.concatenate([(y - x)[(y > lowest) | (x > lowest)] for y, x in zip(shown, moved, strict=True)])
        spread = max(1.4826 * float(np.median(np.abs(misses - np.median(misses)))), 0.05)
        leaps = [
            [
                a + b * np.maximum(np.log(expect_changes(s, usual, key, rows=k) + 1e-9), floor)
                for k in range(2, FRAMES_LONGEST + 2)
            ]
            for s in signals
        ]
        rows = list(zip(shown, moved, leaps, strict=True))
        best = [_best_gap(y, x, far, spread) for y, x, far in rows]
        chance = [_best_gap(y[::-1], x[::-1], [f[::-1] for f in far], spread)[1] for y, x, far in rows]
        limit = max(FRAMES_SURE, OVER_CHANCE * max(chance))
        sure = [(i, t, v) for i, (t, v) in enumerate(best) if v > limit]
        if len(sure) > max(1, 0.3 * len(signals)):  # that many episodes: something else moves in the picture
            continue
        for i, t, value in sure:
            found[i].append(Gap(t=t, value=value, threshold=limit, camera=key))
    return found


def _best_gap(shown_T: Float64s, moved_T: Float64s, leaps: Sequence[Float64s], spread: float) -> tuple[int, float]:
    """The most likely gap of a video, and the logarithm of its likelihood ratio: where, and 0 where there is none.

    Args:
        shown_T: Logarithm of how much the picture changes.
        moved_T: The same as it belongs to the robot's motion.
        leaps: The same as it belongs to its motion over two rows, over three and so on, which a leaping picture skips.
        spread: Of shown less moved, in steps without a gap.
    """
    plain = np.clip((shown_T - moved_T) / spread, -_CLIP, _CLIP)
    best = (0, 0.0)
    for k, leap in enumerate(leaps, start=1):
        count = len(shown_T) - k  # steps that are still shown
        if count <= FRAMES_AFTER:
            break
        ahead = np.clip((shown_T[:count] - moved_T[k:]) / spread, -_CLIP, _CLIP)
        leapt = np.clip((shown_T[: len(leap)] - leap) / spread, -_CLIP, _CLIP)
        at_leap = np.square(plain[: len(leap)]) - np.square(leapt)
        before = _misfit_after(plain[:count])[: len(leap)]
        after = _misfit_after(ahead, mean=False)[: len(leap)]
        total = np.where(at_leap > 0, before - after + at_leap, 0.0) / 2
        t = int(total[: count - FRAMES_AFTER].argmax())
        if total[t] > best[1] and shown_T[t] >= moved_T[t] and after[t] <= FRAMES_BETTER * before[t]:
            best = (t, float(total[t]))
    return best


def _misfit_after(misses_T: Float64s, *, mean: bool = True) -> Float64s:
    """Sum of squares of the misses after each step about their own mean, [T]: a picture may change more all the time in one place."""
    count = np.arange(len(misses_T) - 1, -1, -1)
    total, squares = (np.concatenate([np.cumsum(x[::-1])[::-1][1:], [0.0]]) for x in (misses_T, np.square(misses_T)))
    result: Float64s = squares - mean * np.square(total) / np.maximum(count, 1)
    return result
