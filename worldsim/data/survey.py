"""What a dataset shows of its scene, in closed form and in seconds, before anything is trained on it.

What moves (`worldsim.data.motion`), how far proprioception says what is seen, whether the camera and the background stay, and what to
record more of.

Shape legend: N moments, F moments of an episode, P proprio, A action, C=3 colour, h w reduced image.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.arrays import Float32s
from worldsim.data.episode import Episode
from worldsim.data.faults.screen import SCREENED_BYTES, sample_episodes
from worldsim.data.lerobot.read import Dataset
from worldsim.data.motion import (
    APART,
    DIFFERENT,
    MOMENTS,
    NEIGHBOURS,
    Seen,
    color_gap,
    compare_starts,
    moves_in,
    reduce,
    things_move,
)
from worldsim.errors import InvalidInputError, StorageError

EPISODES = 60
"""Episodes that are looked at, evenly spread."""
PAIR, MOST_SHIFT = 8, 4
"""Steps between two pictures of which one may be the other shifted, by so many pixels of `SIDE_PX` at most."""
BINS = 10
"""Parts of an action's range that are counted."""


MOVES, SHIFTS, ANOTHER, UNEXPLAINED = 0.6, 0.3, 0.25, 0.05
"""Share of changing pixels and of shifted pairs from which the camera moves; share of pixels from which backgrounds differ; share
that proprioception explains below which it does not say the robot's picture. Fixed cameras of eight scenes have at most .34, .04
and .08, and at least .08; shaken ones at least .1, .44 and .0; proprioception of other episodes explains at most .03."""
LIKE_OTHERS, _FEW = 0.7, 8
"""Share of the differences of backgrounds that so many pictures of other episodes must explain."""
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
        few_backgrounds: Share of these differences, in episodes of one half, that a few pictures of the other half explain.
        explained: Share of the variance of changes that proprioception explains, in the moments that it explains well.
        moving: Share of moments from which something that is not the robot moves within `APART` steps: by numbers that are a thing's
            (`worldsim.data.motion`), else by pictures, which say little where an arm covers small things.
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
    few_backgrounds: float
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
        if self.background >= ANOTHER and not self.few_backgrounds >= LIKE_OTHERS:
            return (
                f"the background differs between episodes (in {self.background:.0%} of the picture), and the differences that others "
                f"have explain {self.few_backgrounds:.0%} of it"
            )
        return ""

    def shares(self) -> dict[str, float]:
        """What was counted, by name; nan where it is not known."""
        counted = {name: value for name, value in vars(self).items() if type(value) is float}
        return counted | {f"covered {name}": share for name, share in self.covered.items()}

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
                "not known to a world either. Begin with things in view, if there are any."
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
    pictures = [reduce(one.frames[camera][:MOMENTS]) for one in episodes]
    proprio = [torch.tensor(one.proprio[:MOMENTS]) for one in episodes]
    medians = torch.stack([x.median(0).values for x in pictures])
    middle = medians.median(0).values
    differs = [(color_gap(x, m) > DIFFERENT).float().mean(0) > 0.1 for x, m in zip(pictures, medians, strict=True)]
    ends = [float(one.success[-1]) for one in episodes if np.isfinite(one.success[-1])]
    has_proprio = bool((torch.cat(proprio).std(0) > 1e-6).any()) if sum(map(len, proprio)) > 1 else False
    explained = moving = hidden = float("nan")
    if has_proprio and len(episodes) > 2 * NEIGHBOURS:
        seen = compare_starts(pictures, proprio)
        explained, hidden = _explained(seen), _hidden([one.thing for one in seen])
        said = things_move(episodes, steps=APART, moments=MOMENTS)
        moved = torch.cat(moves_in(seen) if said is None else [torch.from_numpy(part) for part in said]).float()
        moving = float(moved.mean()) if len(moved) else float("nan")
    return Survey(
        episodes=len(episodes),
        has_proprio=has_proprio,
        changing=float(torch.stack([d.float().mean() for d in differs]).median()),
        shifted=_shifted(pictures),
        background=float((color_gap(medians, middle) > DIFFERENT).float().mean((1, 2)).median()),
        few_backgrounds=_explained_by_others(medians),
        explained=explained,
        moving=moving,
        out_of_view=hidden,
        covered=_covered(np.concatenate([one.action for one in episodes]), action),
        solved=sum(ends) / len(ends) if ends else float("nan"),
    )


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


def _explained_by_others(medians: Tensor) -> float:
    """Share of the variance of every second episode's middle [E, 3, h, w] that the principal components of the others explain."""
    if len(medians) < 4:
        return float("nan")
    learned, other = (medians[half::2].flatten(1) for half in (0, 1))
    mean = learned.mean(0)
    basis = torch.linalg.svd(learned - mean, full_matrices=False).Vh[: min(_FEW, len(learned) // 2)]
    differs = other - mean
    return float((differs @ basis.T).square().sum() / differs.square().sum().clamp_min(1e-9))


def _explained(seen: Sequence[Seen]) -> float:
    """Share of the variance of changes over `APART` steps that the robot's picture has; the middle moment in which much changes."""
    shares, sizes = list[Tensor](), list[Tensor]()
    for one in seen:
        change, said = (x[APART:] - x[:-APART] for x in (one.x, one.robot))
        both = (change * said).sum((1, 2, 3)).clamp_min(0)
        sizes.append(change.square().sum((1, 2, 3)))
        shares.append(both.square() / (sizes[-1] * said.square().sum((1, 2, 3))).clamp_min(1e-9))
    size, share = torch.cat(sizes), torch.cat(shares)
    return float(share[size >= size.median()].quantile(0.75)) if len(size) else float("nan")


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
