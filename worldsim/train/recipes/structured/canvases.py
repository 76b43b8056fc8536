"""Whether what is behind everything differs between episodes, and the few pictures in which it does.

The median of an episode's frames is its canvas, apart from what stood still: robot and things. These stand at any one place in few
episodes only, while another light, or a table of another colour, is seen at most pixels in many. So pixels count that differ
in many episodes, and of these as many principal components are kept as leave little anywhere.

Shape legend: N rows, E episodes, S pictures, H W frame, X pixels and colours.
"""

import torch
from torch import Tensor

from worldsim.data.motion import DIFFERENT, color_gap
from worldsim.data.survey import ANOTHER
from worldsim.train.recipes.structured.rows import FrameRows

CANVAS_FRAMES = 400
MOST = 12
"""Pictures, at most."""
_LEAST_ROWS, _LEAST_EPISODES = 5, 10
_DIFFERS = 4 / 255
"""Difference of an episode's median from that of all that counts."""
_OFTEN = 0.25
"""Share of episodes in which a pixel must differ, and of pixels that must."""
_FAR = 3.0
"""Differences beyond so many times what is usual at a pixel are what stood there."""
_ROUNDS, _PIXELS, _EPISODES = 6, 10_000, 200
_LEFT, _SMALL, _LESS = 4 / 255, 0.005, 0.85
"""Difference that may be left at a pixel in the middle episode, share of the pixels at which more may be, and what one more picture may
leave at most of what others did."""


@torch.no_grad()
def find_canvases(rows: FrameRows) -> tuple[Tensor, Tensor]:
    """The canvas of rows [N, ...] of many episodes, and the pictures in which those of episodes differ.

    Returns:
        The canvas [3, H, W] in 0..1, and pictures [S, 3, H, W] in standard deviations; S is 0 where all are the same.
    """
    medians, one = _medians(rows), rows.frames(slice(CANVAS_FRAMES)).median(0).values
    none = one, one[None][:0]
    if len(medians) < _LEAST_EPISODES:
        return none
    middle = medians.median(0).values
    differs_EX = (medians - middle).flatten(1)
    often_X = (differs_EX.abs() > _DIFFERS).float().mean(0)
    counts = (often_X > _OFTEN).unflatten(0, one.shape).any(0)
    if counts.float().mean() < _OFTEN:
        return none
    some_EX = differs_EX * counts.expand(one.shape).flatten()
    some_EX = some_EX[:, :: -(-some_EX.shape[1] // _PIXELS)]
    direction_ES, before = some_EX[:, :0], float(some_EX.abs().median(0).values.mean())
    for count in range(1, min(MOST, len(some_EX) // 4) + 1):
        more_ES, left_EX = _components(some_EX, count)
        usual_X = left_EX.abs().median(0).values
        if usual_X.mean() > _LESS * before:
            break
        direction_ES, before = more_ES, float(usual_X.mean())
        if (usual_X > _LEFT).float().mean() < _SMALL:
            break
    found = _loadings(differs_EX, direction_ES).unflatten(1, one.shape)
    return middle + found[0], found[1:] / len(differs_EX) ** 0.5


@torch.no_grad()
def miss_of_one_canvas(rows: FrameRows, canvas_CHW: Tensor) -> str:
    """That one canvas cannot be behind rows [N, ...] of episodes whose backgrounds differ, a sentence; empty where it can."""
    medians = _medians(rows)
    missed_E = (color_gap(medians, canvas_CHW) > DIFFERENT).float().mean((1, 2))
    if not len(medians) or missed_E.median() < ANOTHER:
        return ""
    return (
        f"The background differs between episodes (in {float(missed_E.median()):.0%} of the picture), and too few episodes share how: "
        "one canvas is drawn for all, and what it misses is taken for things. Record more episodes on each background."
    )


def _components(x_EX: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Directions [E, S] of as many principal components, in which what is left far off counts little; and what is left."""
    near_EX = x_EX
    for _ in range(_ROUNDS):
        _, vectors = torch.linalg.eigh((near_EX @ near_EX.T).double())
        direction_ES = vectors[:, -count:].to(x_EX)
        near_EX, left_EX = _pull_in(x_EX, direction_ES @ (direction_ES.T @ near_EX))
    return direction_ES, left_EX


def _loadings(x_EX: Tensor, direction_ES: Tensor) -> Tensor:
    """What is the same in all episodes, and what goes with each direction, [1 + S, X]; what is left far off counts little."""
    known = torch.cat([torch.ones(len(direction_ES), 1), direction_ES], 1)
    solve, near_EX = torch.linalg.pinv(known), x_EX
    for _ in range(_ROUNDS):
        near_EX, _ = _pull_in(x_EX, known @ (solve @ near_EX))
    return solve @ near_EX


def _pull_in(x_EX: Tensor, fitted_EX: Tensor) -> tuple[Tensor, Tensor]:
    """Differences with those that are far from what was fitted brought near it; and what was left."""
    left_EX = x_EX - fitted_EX
    usual_X = left_EX.abs().median(0).values + _DIFFERS / 4
    return fitted_EX + left_EX.clamp(-_FAR * usual_X, _FAR * usual_X), left_EX


def _medians(rows: FrameRows) -> Tensor:
    """The medians of the frames of episodes that have enough of them, [E, 3, H, W] in 0..1."""
    if rows.episode_N is None:
        return rows.frames(slice(0, 0))
    numbers, counts = rows.episode_N.unique(return_counts=True)
    own = [(rows.episode_N == number).nonzero()[:, 0] for number in numbers[counts >= _LEAST_ROWS][:_EPISODES]]
    return torch.stack([rows.frames(at).median(0).values for at in own]) if own else rows.frames(slice(0, 0))
