"""Whether what is behind everything differs between episodes, and the few pictures in which it does.

The median of an episode's frames is its canvas, apart from what stood still: robot and things. These stand at any one place in few
episodes only, while another light, or a table of another colour, is seen at most pixels in many. So pixels count that differ
in many episodes, and of these the principal components that explain most are kept.

Shape legend: N rows, E episodes, S pictures, H W frame, X pixels and colours.
"""

import torch
from torch import Tensor

from worldsim.train.recipes.structured.rows import FrameRows

MOST = 8
"""Pictures, at most."""
_LEAST_ROWS, _LEAST_EPISODES = 5, 10
_DIFFERS = 4 / 255
"""Difference of an episode's median from that of all that counts."""
_OFTEN = 0.25
"""Share of episodes in which a pixel must differ, and of pixels that must."""
_FAR = 3.0
"""Differences beyond so many times what is usual at a pixel are what stood there."""
_LEAST = 0.04
_ENOUGH = 0.95
"""Share of the variance that a picture must explain, and all together need to."""


@torch.no_grad()
def find_basis(rows: FrameRows) -> Tensor:
    """Pictures [S, 3, H, W] in which the canvases of the episodes of rows [N, ...] differ, in standard deviations; S is 0 where they do not."""
    medians = _medians(rows)
    none = rows.frames(slice(0, 1))[:0]
    if len(medians) < _LEAST_EPISODES:
        return none
    differs_EX = (medians - medians.median(0).values).flatten(1)
    often_X = (differs_EX.abs() > _DIFFERS).float().mean(0)
    counts = (often_X > _OFTEN).unflatten(0, none.shape[1:]).any(0)
    if counts.float().mean() < _OFTEN:
        return none
    differs_EX = differs_EX * counts.expand(none.shape[1:]).flatten()
    usual_X = differs_EX.abs().quantile(0.75, 0)
    differs_EX = differs_EX.clamp(-_FAR * usual_X, _FAR * usual_X)
    gram = differs_EX @ differs_EX.T
    values, vectors = torch.linalg.eigh(gram.double())
    share = (values / values.sum()).flip(0)
    some = int(((share > _LEAST) & (share.cumsum(0) - share < _ENOUGH))[:MOST].sum())
    chosen = vectors.flip(1)[:, :some].to(differs_EX)
    return (chosen.T @ differs_EX / len(differs_EX) ** 0.5).unflatten(1, none.shape[1:])


def _medians(rows: FrameRows) -> Tensor:
    """The medians of the frames of each episode that has enough of them, [E, 3, H, W] in 0..1."""
    if rows.episode_N is None:
        return rows.frames(slice(0, 0))
    numbers, counts = rows.episode_N.unique(return_counts=True)
    own = [(rows.episode_N == number).nonzero()[:, 0] for number in numbers[counts >= _LEAST_ROWS]]
    return torch.stack([rows.frames(at).median(0).values for at in own]) if own else rows.frames(slice(0, 0))
