"""When things move that are not the robot, in closed form: by numbers that are a thing's, else by pictures.

A simulator's state, or proprioception that holds more than the robot, has numbers that rest until a thing is touched. Where there are
none, the robot's picture is taken to be the middle of the pictures of moments nearest in proprioception, each from another start;
what is different from it, beyond what these differ among themselves, is a thing. Of an arm that covers small things pictures say
little.

Shape legend: N moments, F moments of an episode, K neighbours, P proprio, D numbers, A action, C=3 colour, h w reduced image.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.arrays import Bools, Bytes, Float32s, Float64s
from worldsim.data.episode import Episode

MOMENTS = 60
"""Moments of an episode that are looked at, one after another."""
SIDE_PX = 32
"""Pictures are reduced to about this shorter side."""
NEIGHBOURS = 5
DIFFERENT = 0.1
"""Difference of a colour, of 0..1, from which two pixels differ."""
APART = 4
"""Steps over which something moves, or not."""
LEAST_WEIGHT = 0.05
"""Of a number of proprioception with which pictures hardly change, as a share of that of the most telling."""
_BATCH = 200
RESTS = 0.5
"""Share of the moments in which a thing's numbers rest, at least; of a robot's they do in less. Against the true motion of
things in seven simulated tasks the moments so found hold all and are right in .7 to 1 of the cases."""
_STILL = 0.02
"""A change that is smaller than this share of a number's standard deviation is rest."""
_COMMANDED = 0.3
"""Share of a number's changes that actions explain, to first order, from which it is the robot's: a gripper rests too."""
_LEAST = 50


def find_moving(episodes: Sequence[Episode], camera: str, *, moments: int = MOMENTS) -> list[Tensor]:
    """From which of the first moments of each episode something that is not the robot moves within `APART` steps.

    Args:
        episodes: As in `survey_episodes`.
        camera: Likewise.
        moments: How many of each are looked at.

    Returns:
        bool [T + 1] for each, from numbers that are a thing's, else from pictures; False where it was not looked, and in all where too
        few episodes or no proprioception are there.
    """
    found = [torch.zeros(len(one.proprio), dtype=torch.bool) for one in episodes]
    proprio = [torch.tensor(one.proprio[:moments]) for one in episodes]
    said = things_move(episodes, steps=APART)
    moved = [] if said is None else [torch.from_numpy(part) for part in said]
    if said is None and len(episodes) > 2 * NEIGHBOURS and bool((torch.cat(proprio).std(0) > 1e-6).any()):
        moved = moves_in(compare_starts([reduce(one.frames[camera][:moments]) for one in episodes], proprio))
    for kept, part in zip(found, moved, strict=False):
        kept[: len(part)] = part
    return found


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


def reduce(frames: Bytes) -> Tensor:
    """Frames uint8 [F, H, W, 3] -> [F, 3, h, w] in 0..1."""
    x_FCHW = torch.tensor(frames).movedim(-1, 1)
    factor = max(1, min(x_FCHW.shape[-2:]) // SIDE_PX)
    return torch.cat([F.avg_pool2d(part.float() / 255, factor) for part in x_FCHW.split(8)])


def color_gap(x: Tensor, y: Tensor) -> Tensor:
    """Largest difference over colours [..., 3, h, w] -> [..., h, w]."""
    return (x - y).abs().amax(-3)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """An episode, its robot as proprioception says, and what is different: a thing, or the robot badly said.

    Attributes:
        x: Pictures [F, 3, h, w].
        robot: The middle of the pictures of the moments nearest in proprioception, likewise.
        thing: How far they differ, beyond what these differ among themselves, [F, h, w].
    """

    x: Tensor
    robot: Tensor
    thing: Tensor


def compare_starts(pictures: Sequence[Tensor], proprio: Sequence[Tensor]) -> list[Seen]:
    """Compare moments with those of other starts that are nearest in proprioception [F, P]."""
    start = _starts(pictures)
    order = sorted(range(len(start)), key=start.__getitem__)
    lengths = [len(pictures[i]) for i in order]
    sizes = [sum(len(pictures[i]) for i in order if start[i] == k) for k in sorted({*start})]
    x, p = torch.cat([pictures[i] for i in order]), torch.cat([proprio[i] for i in order])
    p = _weighted(x, p)
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    first = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    robots, things = list[Tensor](), list[Tensor]()
    for at in torch.arange(len(x)).split(_BATCH):
        distance = torch.cdist(p[at], p)
        distance[group[at][:, None] == group] = torch.inf
        nearest = [
            part.min(1) for part in distance.split(sizes, 1)
        ]  # each of another start, whose things are elsewhere
        rows = torch.stack([one.indices for one in nearest], 1) + first
        chosen = torch.stack([one.values for one in nearest], 1).topk(NEIGHBOURS, largest=False).indices
        near = x[rows.gather(1, chosen)]  # [n, K, 3, h, w]
        robot = near.median(1).values
        spread = color_gap(near, robot[:, None]).mean(1)
        robots.append(robot)
        things.append((color_gap(x[at], robot) - 1.5 * spread - DIFFERENT).clamp_min(0))
    parts = zip(order, torch.cat(robots).split(lengths), torch.cat(things).split(lengths), strict=True)
    found = {i: Seen(x=pictures[i], robot=robot, thing=thing) for i, robot, thing in parts}
    return [found[i] for i in range(len(found))]


def _starts(pictures: Sequence[Tensor]) -> list[int]:
    """A number for each episode, the same for those that begin with the same picture, things in the same places.

    Where there are too few different ones to be compared, every episode has its own.
    """
    first = torch.stack([x[0] for x in pictures])
    alike = torch.stack([(color_gap(one, first) <= DIFFERENT).flatten(1).all(1) for one in first])
    start = alike.int().argmax(1).tolist()  # the first episode that begins alike
    return start if len({*start}) > NEIGHBOURS else [*range(len(start))]


def _weighted(x: Tensor, proprio_NP: Tensor) -> Tensor:
    """Proprioception [N, P] of unit scale, times how much pictures [N, 3, h, w] change with each number, to first order.

    Velocities, say, must not keep moments apart that look alike.
    """
    p = (proprio_NP - proprio_NP.mean(0)) / proprio_NP.std(0).clamp_min(1e-6)
    y = F.adaptive_avg_pool2d(x, 8).flatten(1)
    ridge = p.T @ p + 1e-2 * len(p) * torch.eye(p.shape[1])
    slope = torch.linalg.solve(ridge, p.T @ (y - y.mean(0))).norm(dim=1)
    return p * (slope / slope.max().clamp_min(1e-9)).clamp_min(LEAST_WEIGHT)


def moves_in(seen: Sequence[Seen]) -> list[Tensor]:
    """From which moments of each episode a thing moves within `APART` steps, bool [F - APART].

    Where it was is another picture then, and not the robot's.
    """
    moved = list[Tensor]()
    for one in seen:
        still = color_gap(one.robot[APART:], one.robot[:-APART]) < DIFFERENT / 2
        thing = (one.thing[:-APART] > 0) & still
        thing = F.avg_pool2d(thing[:, None].float(), 3, 1, 1)[:, 0] > 0.5
        other = color_gap(one.x[APART:], one.x[:-APART]) > DIFFERENT
        area = thing.sum((1, 2))
        moved.append(((thing & other).sum((1, 2)) > 0.15 * area) & (area >= 2))
    return moved
