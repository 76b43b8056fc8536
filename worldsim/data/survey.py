"""What a dataset shows of its scene, in closed form and in seconds, before anything is trained on it.

What moves, how far proprioception says what is seen, whether the camera and the background stay, and what to record more of.
The robot's picture is taken to be the middle of the pictures of moments nearest in proprioception, each in another episode. What is
different from it, beyond what these differ among themselves, is a thing.

Shape legend: N moments, F moments of an episode, K neighbours, P proprio, A action, C=3 colour, h w reduced image.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float32s
from worldsim.data.episode import Episode
from worldsim.data.faults.screen import SCREENED_BYTES, sample_episodes
from worldsim.data.lerobot.read import Dataset
from worldsim.data.thing_numbers import things_move
from worldsim.errors import InvalidInputError, StorageError

EPISODES, MOMENTS = 60, 60
"""Episodes that are looked at, evenly spread, and moments of each, one after another."""
SIDE_PX = 32
"""Pictures are reduced to about this shorter side."""
NEIGHBOURS = 5
DIFFERENT = 0.1
"""Difference of a colour, of 0..1, from which two pixels differ."""
APART = 4
"""Steps over which something moves, or not."""
PAIR, MOST_SHIFT = 8, 4
"""Steps between two pictures of which one may be the other shifted, by so many pixels of `SIDE_PX` at most."""
BINS = 10
"""Parts of an action's range that are counted."""
LEAST_WEIGHT = 0.05
"""Of a number of proprioception with which pictures hardly change, as a share of that of the most telling."""
_BATCH = 200


MOVES, SHIFTS, ANOTHER, UNEXPLAINED = 0.6, 0.3, 0.25, 0.05
"""Share of changing pixels and of shifted pairs from which the camera moves; share of pixels from which backgrounds differ; share
that proprioception explains below which it does not say the robot's picture. Fixed cameras of eight scenes have at most .34, .04
and .08, and at least .08; shaken ones at least .1, .44 and .0; proprioception of other episodes explains at most .03."""
FEW_CONTACTS, FEW_ENDS, HIDDEN, NARROW = 0.05, 0.1, 0.1, 0.5
"""Least share of moments in which things move, of episodes that end either way, and of an action's range; share of starts out of
view from which it is said."""
_CLEAR, _NO_THINGS = 0.3, 0.9


@dataclasses.dataclass(frozen=True, kw_only=True)
class Survey:
    """What was seen. Shares are of 0..1, nan where there is nothing to say it from.

    Attributes:
        episodes: How many were looked at.
        has_proprio: Whether there is any proprioception that changes.
        changing: Share of the pixels of an episode that differ from its own middle in a tenth of its moments; the middle episode.
        shifted: Share of pairs of moments, `PAIR` steps apart, of which one picture is much more like the other when all of it
            is shifted.
        background: Share of the pixels in which the middle of an episode differs from the middle of all; the middle episode.
        explained: Share of the variance of changes that proprioception explains, in the moments that it explains well.
        moving: Share of moments from which something that is not the robot moves within `APART` steps: by numbers that are a thing's
            (`worldsim.data.thing_numbers`), else by pictures, which say little where an arm covers small things.
        out_of_view: Share of episodes that begin with less than a quarter of the usual picture of things.
        covered: By name of the action, the share of `BINS` parts of its range in which it is in one step of a hundred or more.
        solved: Share of the episodes whose outcome is known that end solved.
        command: What collects more, where there is a simulator.
    """

    episodes: int
    has_proprio: bool
    changing: float
    shifted: float
    background: float
    explained: float
    moving: float
    out_of_view: float
    covered: dict[str, float]
    solved: float
    command: str = "worldsim collect --like DATASET"

    @property
    def still(self) -> bool:
        """Whether nothing can be seen to move."""
        return self.changing == 0 and not self.background

    @property
    def camera_moves(self) -> bool:
        """Whether all of the picture moves, and not as proprioception says."""
        return (self.changing >= MOVES or self.shifted >= SHIFTS) and not self.explained >= _CLEAR

    @property
    def unstructured(self) -> str:
        """Why robot and things cannot be drawn on one canvas, a phrase; empty where nothing speaks against it."""
        if not self.has_proprio:
            return "there is no proprioception that changes, from which the robot could be drawn"
        if self.camera_moves:
            return (
                f"the camera seems to move ({self.changing:.0%} of the picture changes, and in {self.shifted:.0%} of the moments "
                "all of it shifts), and one canvas is kept"
            )
        if self.background >= ANOTHER:
            return f"the background differs between episodes (in {self.background:.0%} of the picture), and one canvas is kept"
        return ""

    def advise(self) -> tuple[str, ...]:
        """What is doubtful about the data and what to record more of, in sentences; it is estimated from a sample."""
        found = list[str]()
        if self.still:
            found.append("Nothing moves in the pictures: nothing can be learned of what actions do. Check the camera.")
        if self.has_proprio and self.explained < UNEXPLAINED:
            found.append(
                f"Proprioception explains about {self.explained:.0%} of what changes in the pictures: it does not say where the robot is "
                "seen. Record joint angles or tip positions, in step with the camera."
            )
        if self.moving < FEW_CONTACTS and not self.still and not self.unstructured:
            found.append(
                f"Something that is not the robot moves in about {self.moving:.0%} of the moments: little is learned of contact. Record "
                f"more in which things are moved; in a simulator: {self.command}"
            )
        if HIDDEN <= self.out_of_view < _NO_THINGS and not self.unstructured:
            found.append(
                f"In about {self.out_of_view:.0%} of the episodes little of the things is seen at the start: where they are then is "
                "not known to a world either. Begin with things in view."
            )
        narrow = [f"{name} ({share:.0%})" for name, share in self.covered.items() if share < NARROW]
        if narrow:
            found.append(
                f"Actions are in a small part of their range: {', '.join(narrow[:4])}. What others do is not learned; state the "
                f"range that is used, or record some; in a simulator: {self.command}"
            )
        if not FEW_ENDS <= self.solved <= 1 - FEW_ENDS and self.solved == self.solved:
            rarer = "solved" if self.solved < FEW_ENDS else "failed"
            found.append(
                f"{self.solved:.0%} of the episodes end solved: record more that end {rarer}, so that success is learned."
            )
        return tuple(found)


def survey_dataset(dataset: Dataset) -> Survey:
    """Look at a sample of the episodes that are used, as their main camera sees them.

    Raises:
        StorageError: None of them can be read.
    """
    found, used = list[Episode](), {*dataset.used}
    for index in sample_episodes(dataset, most_bytes=SCREENED_BYTES, most=EPISODES):
        if index not in used:
            continue
        try:
            found.append(dataset.episode(index))
        except (StorageError, InvalidInputError):
            continue  # screening counts and names them
    if not found:
        raise StorageError(f"None of the episodes of {dataset.name} that were tried can be read.")
    known = dataset.task_id and ":" not in dataset.task_id
    command = f"worldsim collect --like {dataset.path}{'' if known else f' --env {dataset.env or "ENV"}'}"
    found_out = survey_episodes(found, dataset.cameras[0].key, dataset.action_spec)
    return dataclasses.replace(found_out, command=command)


def survey_episodes(episodes: Sequence[Episode], camera: str, action: ActionSpec) -> Survey:
    """Look at episodes, one or more.

    Args:
        episodes: With frames uint8 [T + 1, H, W, 3], proprioception [T + 1, P] and actions [T, A].
        camera: Key of the frames that are looked at.
        action: Meaning of the actions.
    """
    pictures = [_reduced(one.frames[camera][:MOMENTS]) for one in episodes]
    proprio = [torch.tensor(one.proprio[:MOMENTS]) for one in episodes]
    medians = torch.stack([x.median(0).values for x in pictures])
    middle = medians.median(0).values
    differs = [(_gap(x, m) > DIFFERENT).float().mean(0) > 0.1 for x, m in zip(pictures, medians, strict=True)]
    ends = [float(one.success[-1]) for one in episodes if np.isfinite(one.success[-1])]
    has_proprio = bool((torch.cat(proprio).std(0) > 1e-6).any()) if sum(map(len, proprio)) > 1 else False
    explained = moving = hidden = float("nan")
    if has_proprio and len(episodes) > 2 * NEIGHBOURS:
        seen = _compare(pictures, proprio)
        explained, hidden = _explained(seen), _hidden([one.thing for one in seen])
        said = things_move(episodes, steps=APART, moments=MOMENTS)
        moved = torch.cat(_moved(seen) if said is None else [torch.from_numpy(part) for part in said]).float()
        moving = float(moved.mean()) if len(moved) else float("nan")
    return Survey(
        episodes=len(episodes),
        has_proprio=has_proprio,
        changing=float(torch.stack([d.float().mean() for d in differs]).median()),
        shifted=_shifted(pictures),
        background=float((_gap(medians, middle) > DIFFERENT).float().mean((1, 2)).median()),
        explained=explained,
        moving=moving,
        out_of_view=hidden,
        covered=_covered(np.concatenate([one.action for one in episodes]), action),
        solved=sum(ends) / len(ends) if ends else float("nan"),
    )


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
        moved = _moved(_compare([_reduced(one.frames[camera][:moments]) for one in episodes], proprio))
    for kept, part in zip(found, moved, strict=False):
        kept[: len(part)] = part
    return found


def _reduced(frames: Bytes) -> Tensor:
    """Frames uint8 [F, H, W, 3] -> [F, 3, h, w] in 0..1."""
    x_FCHW = torch.tensor(frames).movedim(-1, 1)
    factor = max(1, min(x_FCHW.shape[-2:]) // SIDE_PX)
    return torch.cat([F.avg_pool2d(part.float() / 255, factor) for part in x_FCHW.split(8)])


def _shifted(pictures: Sequence[Tensor]) -> float:
    """Share of pairs of pictures that a shift of all of one brings much closer; those that hardly differ do not count."""
    first = torch.cat([x[: max(0, len(x) - PAIR) : PAIR] for x in pictures])
    later = torch.cat([x[PAIR::PAIR] for x in pictures])
    if not len(first):
        return float("nan")
    inner, steps = slice(MOST_SHIFT, -MOST_SHIFT), range(-MOST_SHIFT, MOST_SHIFT + 1)
    errors = {
        (dy, dx): (first.roll((dy, dx), (2, 3)) - later)[..., inner, inner].abs().mean((1, 2, 3))
        for dy in steps
        for dx in steps
    }
    still = errors.pop((0, 0))
    best = torch.stack([*errors.values()]).min(0).values
    counts = still > 1e-3
    return float((best < 0.6 * still)[counts].float().mean()) if bool(counts.any()) else 0.0


def _gap(x: Tensor, y: Tensor) -> Tensor:
    """Largest difference over colours [..., 3, h, w] -> [..., h, w]."""
    return (x - y).abs().amax(-3)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Seen:
    """An episode, its robot as proprioception says, and what is different: a thing, or the robot badly said.

    Attributes:
        x: Pictures [F, 3, h, w].
        robot: The middle of the pictures of the moments nearest in proprioception, likewise.
        thing: How far they differ, beyond what these differ among themselves, [F, h, w].
    """

    x: Tensor
    robot: Tensor
    thing: Tensor


def _compare(pictures: Sequence[Tensor], proprio: Sequence[Tensor]) -> list[_Seen]:
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
        spread = _gap(near, robot[:, None]).mean(1)
        robots.append(robot)
        things.append((_gap(x[at], robot) - 1.5 * spread - DIFFERENT).clamp_min(0))
    parts = zip(order, torch.cat(robots).split(lengths), torch.cat(things).split(lengths), strict=True)
    found = {i: _Seen(x=pictures[i], robot=robot, thing=thing) for i, robot, thing in parts}
    return [found[i] for i in range(len(found))]


def _starts(pictures: Sequence[Tensor]) -> list[int]:
    """A number for each episode, the same for those that begin with the same picture, things in the same places.

    Where there are too few different ones to be compared, every episode has its own.
    """
    first = torch.stack([x[0] for x in pictures])
    alike = torch.stack([(_gap(one, first) <= DIFFERENT).flatten(1).all(1) for one in first])
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


def _explained(seen: Sequence[_Seen]) -> float:
    """Share of the variance of changes over `APART` steps that the robot's picture has; the middle moment in which much changes."""
    shares, sizes = list[Tensor](), list[Tensor]()
    for one in seen:
        change, said = (x[APART:] - x[:-APART] for x in (one.x, one.robot))
        both = (change * said).sum((1, 2, 3)).clamp_min(0)
        sizes.append(change.square().sum((1, 2, 3)))
        shares.append(both.square() / (sizes[-1] * said.square().sum((1, 2, 3))).clamp_min(1e-9))
    size, share = torch.cat(sizes), torch.cat(shares)
    return float(share[size >= size.median()].quantile(0.75)) if len(size) else float("nan")


def _moved(seen: Sequence[_Seen]) -> list[Tensor]:
    """From which moments of each episode a thing moves within `APART` steps, bool [F - APART].

    Where it was is another picture then, and not the robot's.
    """
    moved = list[Tensor]()
    for one in seen:
        still = _gap(one.robot[APART:], one.robot[:-APART]) < DIFFERENT / 2
        thing = (one.thing[:-APART] > 0) & still
        thing = F.avg_pool2d(thing[:, None].float(), 3, 1, 1)[:, 0] > 0.5
        other = _gap(one.x[APART:], one.x[:-APART]) > DIFFERENT
        area = thing.sum((1, 2))
        moved.append(((thing & other).sum((1, 2)) > 0.15 * area) & (area >= 2))
    return moved


def _hidden(things: Sequence[Tensor]) -> float:
    """Share of episodes that begin with little of what differs."""
    usual = torch.cat([e.sum((1, 2)) for e in things]).median()
    return float(torch.stack([e[0].sum() < 0.25 * usual for e in things]).float().mean())


def _covered(action: Float32s, spec: ActionSpec) -> dict[str, float]:
    """Share of the parts of each dimension's range in which actions [N, A] are at times."""
    low, high = np.array(spec.low), np.array(spec.high)
    part = ((action - low) / np.maximum(high - low, 1e-9) * BINS).astype(int).clip(0, BINS - 1)
    shares = [np.bincount(part[:, i], minlength=BINS) / max(len(part), 1) >= 0.01 for i in range(part.shape[1])]
    both = [bool(share[0] and share[-1] and share.sum() == 2) for share in shares]  # a gripper, say, opens or closes
    return {
        name: 1.0 if two else float(share.mean()) for name, share, two in zip(spec.names, shares, both, strict=True)
    }
