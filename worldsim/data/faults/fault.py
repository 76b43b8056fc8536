"""What can be wrong with a recording, what each kind of fault means, and what to do."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

FaultKind = Literal[
    "frozen_frames",
    "repeated_frames",
    "dropped_frames",
    "picture_jump",
    "time_skew",
    "joint_jump",
    "angle_wrap",
    "not_finite",
    "constant",
    "idle",
    "one_frame",
    "short_episode",
    "missing_labels",
    "unclear_stills",
]
EXPLANATIONS: Mapping[FaultKind, tuple[str, str]] = {
    "frozen_frames": (
        "The picture stands still while the robot moves: the camera stood still, or the robot cannot be seen there.",
        "Where it can be seen, leave the episode out, or cut it there, and check the camera's connection.",
    ),
    "repeated_frames": (
        "Frames are repeated while the robot moves: the camera was slower than the table, or frames were lost and filled in.",
        "Record at the camera's own rate, or thin the rows to it.",
    ),
    "dropped_frames": (
        "Robot and picture move several times as far as before and after: rows are missing in between.",
        "Cut the episode there; check the recorder's load.",
    ),
    "picture_jump": (
        "The picture leaps while the robot does not: lost or foreign frames, or a cut.",
        "Leave the episode out, or cut it there.",
    ),
    "time_skew": (
        "Actions and video do not belong together row by row: they fit best when one is shifted.",
        "Shift one of them by that many rows before training, or record with common time stamps.",
    ),
    "joint_jump": (
        "A channel leaps further in one step than it ever moves: an encoder's glitch or rows of another episode.",
        "Leave the episode out, or repair the channel.",
    ),
    "angle_wrap": (
        "An angle wraps around by a full turn, which a model reads as a leap.",
        "Unwrap the angle, or store its sine and cosine.",
    ),
    "not_finite": ("A channel holds NaN or infinity.", "Leave the rows out, or find the sensor that made them."),
    "constant": (
        "A channel never changes: a dead sensor, or one that this task does not use.",
        "Leave the channel out, or check the sensor.",
    ),
    "idle": ("Nothing moves and nothing is asked for.", "Trim the pauses: a policy learns to wait from them."),
    "one_frame": ("The episode has one observation and no action that leads to another.", "Leave it out."),
    "short_episode": (
        "The episode is far shorter than the others: cut off?",
        "Look at it; leave it out if it is cut off.",
    ),
    "missing_labels": (
        "Success or progress is not known.",
        "Without labels a world cannot rank policies: label episodes, or give triage a judge.",
    ),
    "unclear_stills": (
        "Pictures often stand still while numbers change a little: motion too small or out of view, or a slow camera; no episode is counted.",
        "Look at a few episodes; nothing is to be done where the scene is slow.",
    ),
}
"""What each kind means, and what to do."""
_PLACES, _RUNS = 4, 3
"""Episodes that are listed of one kind of fault, and places in each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong, and where.

    Attributes:
        kind: What.
        episode: Its number; None where it concerns the dataset.
        frames: First and last observation concerned, both included; None where it concerns all.
        where: The channel or camera; empty where it concerns none in particular.
        value: What was measured.
        threshold: From where it is reported.
        confidence: How sure that is, 0 to 1.
        meaning: What it means, one sentence.
        remedy: What to do, one sentence.
    """

    kind: FaultKind
    episode: int | None = None
    frames: tuple[int, int] | None = None
    where: str = ""
    value: float
    threshold: float
    confidence: float = 1.0
    meaning: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        meaning, remedy = EXPLANATIONS[self.kind]
        object.__setattr__(self, "meaning", self.meaning or meaning)
        object.__setattr__(self, "remedy", self.remedy or remedy)


def group_faults(faults: Sequence[Fault]) -> list[tuple[Fault, str]]:
    """The first fault of every kind and place, and where all of them are, in the order of `EXPLANATIONS`."""
    groups: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.kind, fault.where), []).append(fault)
    kinds = list(EXPLANATIONS)
    order = sorted(groups.values(), key=lambda group: kinds.index(group[0].kind))
    return [(group[0], _places(group)) for group in order]


def faulty_episodes(faults: Sequence[Fault]) -> list[int]:
    """Numbers of the episodes that have a fault of their own, each once, however many it has."""
    return sorted({f.episode for f in faults if f.episode is not None})


def _places(group: Sequence[Fault]) -> str:
    """Episodes of some faults and their frames, each episode once, the first few of them."""
    if group[0].episode is None:
        return "all episodes"
    frames: dict[int | None, list[str]] = {}
    for f in group:
        own = frames.setdefault(f.episode, [])
        own += [] if f.frames is None else [f"{f.frames[0]} to {f.frames[1]}"]
    parts = [f"{episode}" + (f" (frames {_first(own, _RUNS)})" if own else "") for episode, own in frames.items()]
    return f"episode{'s' if len(parts) > 1 else ''} {_first(parts, _PLACES)}"


def _first(parts: Sequence[str], most: int) -> str:
    """The first few of some parts, and how many more there are."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
