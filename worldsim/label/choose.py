"""Which episode to ask about next: the one from which most is learned.

Before both outcomes are known, episodes far from all that were asked (k-center). Then those whose outcome a Gaussian process
on a few numbers of each episode predicts worst. Pure functions of the values and of what was said so far.

Shape legend: N episodes, L labelled ones, D numbers that describe an episode.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from scipy.spatial.distance import cdist

from worldsim.arrays import Float64s
from worldsim.data.guess import guess_outcomes
from worldsim.data.labels import Outcome
from worldsim.errors import InvalidInputError

_EXACT = 16
"""So many episodes at the front are in their exact order; the others follow by their score alone."""


def order_episodes(
    features_ND: Float64s,
    said: Mapping[int, Outcome],
    *,
    again: Sequence[int] = (),
    skip: Collection[int] = (),
    chance_N: Float64s | None = None,
) -> list[int]:
    """Episodes in the order in which to ask about them; those that were asked are left out, but for `again`.

    Args:
        features_ND: [N, D], what is known of each episode, of comparable scale.
        said: Outcome by episode so far.
        again: Episodes to ask about again, first of all: those on which people disagree.
        skip: Episodes never to ask about, for example unreadable ones.
        chance_N: [N], probability of success by a head or judge that exists already; None where there is none.

    Raises:
        InvalidInputError: The values are not finite or do not fit the episodes.
    """
    _check(features_ND, said, chance_N)
    first = [i for i in again if i not in skip]
    left = np.array([i for i in range(len(features_ND)) if i not in said and i not in skip and i not in first], int)
    if not len(left):
        return first
    guess_N = guess_outcomes(features_ND, said, chance_N=chance_N)
    asked = [i for i in (*said, *first) if i not in skip]
    if guess_N is None:
        return first + _spread_out(features_ND, asked, left)
    return first + _most_uncertain(features_ND, guess_N, left)


def _spread_out(features_ND: Float64s, asked: Sequence[int], left: "np.typing.NDArray[np.int64]") -> list[int]:
    """Farthest first from all that were asked (Gonzalez, 1985); the first is that nearest to the middle."""
    found: list[int] = []
    if asked:
        gap_N = cdist(features_ND, features_ND[list(asked)]).min(axis=1)
    else:
        middle_D = np.median(features_ND[left], axis=0)
        found = [int(left[np.argmin(np.linalg.norm(features_ND[left] - middle_D, axis=1))])]
        gap_N = np.linalg.norm(features_ND - features_ND[found[0]], axis=1)
    free = [i for i in left.tolist() if i not in found]
    while free and len(found) < _EXACT:
        found.append(free.pop(int(np.argmax(gap_N[free]))))
        gap_N = np.minimum(gap_N, np.linalg.norm(features_ND - features_ND[found[-1]], axis=1))
    return found + sorted(free, key=lambda i: -gap_N[i])


def _most_uncertain(features_ND: Float64s, chance_N: Float64s, left: "np.typing.NDArray[np.int64]") -> list[int]:
    """By how uncertain the outcome is; one that is near another at the front waits."""
    score_N = 1 - np.abs(2 * chance_N - 1)
    unit = float(np.median(cdist(features_ND[left], features_ND[left]))) or 1.0
    found, free = list[int](), left.tolist()
    while free and len(found) < _EXACT:
        found.append(free.pop(int(np.argmax(score_N[free]))))
        gap_N = np.linalg.norm(features_ND - features_ND[found[-1]], axis=1)
        score_N = score_N * (1 - np.exp(-0.5 * (gap_N / (0.5 * unit)) ** 2))
    return found + sorted(free, key=lambda i: -score_N[i])


def _check(features_ND: Float64s, said: Mapping[int, Outcome], chance_N: Float64s | None) -> None:
    if features_ND.ndim != 2 or not np.isfinite(features_ND).all():
        raise InvalidInputError(f"Episodes are described by finite numbers [N, D]; got {features_ND.shape}.")
    if any(not 0 <= i < len(features_ND) for i in said):
        raise InvalidInputError(f"Labels are of episodes 0 to {len(features_ND) - 1}; got {sorted(said)[-1]}.")
    if chance_N is not None and (
        chance_N.shape != features_ND.shape[:1] or not ((chance_N >= 0) & (chance_N <= 1)).all()
    ):
        raise InvalidInputError(f"Chances are probabilities [{len(features_ND)}]; got {chance_N.shape}.")
