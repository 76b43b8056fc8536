"""Held-out videos: whole episodes, whole seeds or whole policies are kept from training. Not for items of a task."""

from collections.abc import Sequence
from typing import Literal

from worldsim.errors import InvalidInputError
from worldsim.reason.draw import Draw
from worldsim.reason.sources import Source, Subset, provenance
from worldsim.reason.video import Provenance

By = Literal["episode", "seed", "policy"]


def split(source: Source, *, by: By = "episode", share: float = 0.2, seed: int = 0) -> tuple[Subset, Subset]:
    """Part a source into one to train on and one held out.

    Args:
        source: Any source. For "seed" and "policy" every video is read once, unless the source knows without.
        by: What the two parts must not share. Videos without a seed count as seeds of their own.
        share: Of the groups, to hold out; at least one group stays on each side.
        seed: Chooses the groups.

    Returns:
        The training and the held-out part.

    Raises:
        InvalidInputError: A share outside 0..1, or fewer than two groups.
    """
    origins = [None if by == "episode" else provenance(source, i) for i in range(len(source))]
    groups = [f"{i:09d}" if origin is None else group(origin, by, number=i) for i, origin in enumerate(origins)]
    train, held = parted(groups, by=by, share=share, seed=seed)
    return Subset(source, train), Subset(source, held)


def parted(groups: Sequence[str], *, by: By, share: float, seed: int = 0) -> tuple[list[int], list[int]]:
    """Part rows by the group that each belongs to; arguments and errors as `split`.

    Returns:
        The rows to train on and those held out, each in order.
    """
    if not 0 < share < 1:
        raise InvalidInputError(f"share must lie between 0 and 1; got {share}.")
    names = sorted(set(groups))
    if len(names) < 2:
        raise InvalidInputError(f"Holding out by {by} needs two groups at least; this source has {names}.")
    count = min(max(1, round(share * len(names))), len(names) - 1)
    held = {names[i] for i in Draw("split", by, seed).order(len(names))[:count]}
    train, out = ([i for i, g in enumerate(groups) if (g in held) == wanted] for wanted in (False, True))
    return train, out


def group(origin: Provenance, by: By, *, number: int) -> str:
    """What a video shares with others; `number` is its own, for where nothing else is known."""
    if by == "policy":
        return origin.policy
    if by == "episode":
        return origin.episode
    return str(origin.seed) if origin.seed >= 0 else f"video {number}"
