"""Held-out videos: whole episodes, whole seeds or whole policies are kept from training. Not for items of a task."""

from typing import Literal

from worldsim.errors import InvalidInputError
from worldsim.reason.draw import Draw
from worldsim.reason.sources import Source, Subset, provenance

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
    if not 0 < share < 1:
        raise InvalidInputError(f"share must lie between 0 and 1; got {share}.")
    groups = [_group(source, i, by) for i in range(len(source))]
    names = sorted(set(groups))
    if len(names) < 2:
        raise InvalidInputError(f"Holding out by {by} needs two groups at least; this source has {names}.")
    count = min(max(1, round(share * len(names))), len(names) - 1)
    held = {names[i] for i in Draw("split", by, seed).order(len(names))[:count]}
    parts = [[i for i, g in enumerate(groups) if (g in held) == out] for out in (False, True)]
    return Subset(source, parts[0]), Subset(source, parts[1])


def _group(source: Source, index: int, by: By) -> str:
    if by == "episode":
        return f"{index:09d}"
    origin = provenance(source, index)
    if by == "policy":
        return origin.policy
    return str(origin.seed) if origin.seed >= 0 else f"video {index}"
