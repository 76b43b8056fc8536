"""Frozen and repeated frames: pictures that stand still while a motion that this camera shows goes on.

How much a picture should change is learned from the same dataset, by camera: a weight for each channel of proprioception, 0 for
those that it does not show (velocities, temperatures, motion in depth). Motion that is too small for its pictures is no fault.

Shape legend: T actions, P proprio, N steps of all episodes.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from worldsim.arrays import Bools, Float64s
from worldsim.data.faults.fault import Fault, FaultKind
from worldsim.data.faults.signals import Signals, Usual, expect_changes, find_runs, moving_quantiles

STILL, SHORT = 0.05, 0.2
"""A picture counts as unchanged below such a share of its camera's usual change, which is what encoders make of equal frames, and below
such a share of the change that is expected of the step. In ten simulated tasks no run of three steps fell below the second."""
VISIBLE, VISIBLE_RUN, TYPICAL = 0.25, 0.15, 2 / 3
"""Share of a camera's usual change that a single step, and one in a longer run, must be expected to make to say something; a single one
also such a part of the middle one of those that move: rendering in entire pixels leaves single pictures as they are."""
FROZEN_RUN = 3
"""Unchanged transitions in a row, while something visible moves, from which a camera is called frozen; fewer are repeats."""
FROZEN_RUN_BY_ACTIONS = 8
"""The same where only actions say that the robot moves: a blocked robot does not move though it is asked to."""
REPEATED_SHARE = 0.25
"""Share of repeats among visible transitions from which they are one fault: every fourth frame is no chance."""
BEYOND_OTHERS = 1.5
"""A still picture is reported where the step is expected to change it so many times as much as the largest such step of the middle
episode at least: motion of less than a pixel, or in a corner out of view, leaves a picture as it is, and does so in all episodes..."""
SLOW_CAMERA = 0.5
"""... unless pictures stand still in the fastest quarter of the visible steps at least so many times as often as in all: where motion is
slow they do not, where the camera is slow they do."""
UNCLEAR = 0.1
"""Share of visible steps that must be beyond others; if fewer are, stills are reported as unclear."""


def find_still_pictures(signals: Sequence[Signals], usual: Usual) -> Iterator[Fault]:
    """Frozen and repeated frames of every camera; the value is the number of repeats, or their share among visible steps.

    An episode has frozen or repeated frames of a camera, not both. Where still pictures of slow motion cannot be distinguished from those of a
    slow camera, that is reported once, of the dataset and as doubtful (`unclear_stills`); the value is then their share among visible steps.
    """
    least = FROZEN_RUN_BY_ACTIONS if usual.by_actions else FROZEN_RUN
    for key, change in usual.change.items():
        if change <= 0:
            continue
        expected = usual.motion if usual.by_actions else [expect_changes(s, usual, key) for s in signals]
        short = np.inf if usual.by_actions else SHORT
        still = [
            s.changes[key] <= np.minimum(STILL * change, short * e) for s, e in zip(signals, expected, strict=True)
        ]
        [single] = moving_quantiles(np.concatenate(expected), [0.5])
        single, in_runs = (
            (single, single) if usual.by_actions else (max(VISIBLE * change, TYPICAL * single), VISIBLE_RUN * change)
        )
        single, in_runs, share = _beyond_others(still, expected, single, in_runs)
        if share:
            yield Fault(kind="unclear_stills", where=key, value=share, threshold=0, confidence=0.5)
        for s, stands, e in zip(signals, still, expected, strict=True):
            runs = [r for r in find_runs(stands) if _is_visible(e, *r, least=least, single=single, in_runs=in_runs)]
            frozen = [r for r in runs if r[1] - r[0] >= least]
            for first, stop in frozen:
                yield _still(s.episode, key, first, stop, least=least)
            if not frozen and not usual.by_actions:
                yield from _repeats(s.episode, key, runs, moving=int((e >= single).sum()))


def _beyond_others(
    still: Sequence[Bools], expected: Sequence[Float64s], single: float, in_runs: float
) -> tuple[float, float, float]:
    """What a single step, and one in a longer run, must be expected to make, raised to what other episodes do not show either.

    Args:
        still: Whether pictures stand still, [T] of each episode.
        expected: How much they should change, [T] of each.
        single: What a step must be expected to make in any case.
        in_runs: The same for one in a longer run.

    Returns:
        Both, and the share of still pictures among visible steps where hardly a step is beyond others, else 0.
    """
    size, stands = np.concatenate(expected), np.concatenate(still)
    visible = size >= single
    if not visible.any():
        return single, in_runs, 0.0
    fastest = visible & (size >= np.quantile(size[visible], 0.75))
    share = float(stands[visible].mean())
    if stands[fastest].mean() >= SLOW_CAMERA * share > 0:
        return single, in_runs, 0.0
    others = BEYOND_OTHERS * float(np.median([e[s].max(initial=0.0) for s, e in zip(still, expected, strict=True)]))
    unclear = (size[visible] >= others).mean() < UNCLEAR
    return max(single, others), max(in_runs, others), share if unclear else 0.0


def _is_visible(expected_T: Float64s, first: int, stop: int, *, least: int, single: float, in_runs: float) -> bool:
    """Whether so many steps between two rows are visible ones that their picture must change.

    Args:
        expected_T: How much the picture should change.
        first: Row before the first step.
        stop: Row after the last.
        least: Steps of a longer run.
        single: What a single step must be expected to make.
        in_runs: What a step of a longer run must be expected to make.
    """
    needed = max(min(stop - first, least), (stop - first) / 2)  # many steps that are too small to be seen are no motion
    limit = in_runs if stop - first >= least else single
    return bool((expected_T[first:stop] >= limit).sum() >= needed)


def _repeats(episode: int, key: str, runs: Sequence[tuple[int, int]], *, moving: int) -> Iterator[Fault]:
    """Repeated frames of one camera and episode: each for itself, or as one fault where they are the rule."""
    share = sum(stop - first for first, stop in runs) / max(1, moving)
    if len(runs) >= 4 and share >= REPEATED_SHARE:
        yield Fault(kind="repeated_frames", episode=episode, where=key, value=share, threshold=REPEATED_SHARE)
        return
    for first, stop in runs:
        yield _still(episode, key, first, stop)


def _still(episode: int, key: str, first: int, stop: int, *, least: int = 0) -> Fault:
    """Frames of one camera that stand still, frozen for `least` steps or more; or else repeated."""
    kind: FaultKind = "frozen_frames" if least else "repeated_frames"
    frames, value = (first, stop), stop - first
    return Fault(kind=kind, episode=episode, frames=frames, where=key, value=value, threshold=max(1, least))
