"""Numbers of a simulator's state, or of proprioception that holds more than the robot, that are a thing's: they rest until it is touched.

Where there are some they say when a thing moves, which pictures of an arm seen from the side do not say well.

Shape legend: T actions, T + 1 observations, D numbers, A action, M moments.
"""

from collections.abc import Sequence

import numpy as np

from worldsim.arrays import Bools, Float32s, Float64s
from worldsim.data.episode import Episode

RESTS = 0.5
"""Share of the moments in which a thing's numbers rest, at least; of a robot's they do in less. Against the true motion of
things in seven simulated tasks the moments so found hold all and are right in .7 to 1 of the cases."""
_STILL = 0.02
"""A change that is smaller than this share of a number's standard deviation is rest."""
_COMMANDED = 0.3
"""Share of a number's changes that actions explain, to first order, from which it is the robot's: a gripper rests too."""
_LEAST = 50


def things_move(episodes: Sequence[Episode], *, steps: int, moments: int | None = None) -> list[Bools] | None:
    """From which moments something that is not the robot moves within `steps`, as true states and proprioception say.

    Args:
        episodes: With true states [T + 1, E], where all have them, proprioception [T + 1, P] and actions [T, A].
        steps: How long it may take.
        moments: How many of the first ones of each episode are looked at; None for all.

    Returns:
        bool [max(0, min(T + 1, moments) - steps)] for each; None where no number is a thing's, or there are too few moments to say.
    """
    stated = all(one.true_state is not None for one in episodes)
    numbers = [_numbers(one, stated=stated)[:moments] for one in episodes]
    change = np.concatenate([x[steps:] - x[:-steps] for x in numbers])
    if len(change) < _LEAST:
        return None
    size = np.concatenate(numbers).std(0)
    moves = np.abs(change) > _STILL * size
    rests = (moves.mean(0) <= 1 - RESTS) & moves.any(0) & (size > 1e-6)
    acted = np.concatenate(
        [_windows(one.action, steps)[: max(0, len(x) - steps)] for one, x in zip(episodes, numbers, strict=True)]
    )
    at = np.concatenate([x[:-steps] for x in numbers])
    things = [i for i in np.flatnonzero(rests) if _explained(change[:, i], acted, at[:, i]) < _COMMANDED]
    if not things:
        return None
    ends = np.cumsum([max(0, len(x) - steps) for x in numbers])[:-1]
    return np.split(moves[:, things].any(1), ends)


def _numbers(episode: Episode, *, stated: bool) -> Float64s:
    """Everything that is known of each moment, [T + 1, D]."""
    state = episode.true_state if stated else None
    parts = [episode.proprio] if state is None else [state, episode.proprio]
    return np.concatenate(parts, axis=1).astype(np.float64)


def _windows(action: Float32s, steps: int) -> Float64s:
    """Mean actions [T, A] of the `steps` from each moment, [T + 1 - steps, A]."""
    total = np.concatenate([np.zeros((1, action.shape[1])), action.cumsum(0, dtype=np.float64)])
    return np.asarray((total[steps:] - total[:-steps]) / steps)


def _explained(change: Float64s, acted: Float64s, at: Float64s) -> float:
    """Share of the variance of changes [M] that mean actions [M, A] and where the number was [M] explain."""
    x = np.column_stack([acted, at, np.ones(len(at))])
    left = change - x @ np.linalg.lstsq(x, change, rcond=None)[0]
    return float(1 - left.var() / max(change.var(), 1e-12))
