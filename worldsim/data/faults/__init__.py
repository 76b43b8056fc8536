"""Finds faults of recordings: pictures that stand still, leap or lag, joints that jump, dead channels, missing labels.

`signals_of` reduces an episode to a few numbers per step, so that frames need not be kept; `find_faults` compares the
signals of many episodes. What the data cannot show is not reported: thresholds are relative to what the same
dataset does most of the time, and their reasons are written beside them.
"""

from collections.abc import Iterator, Mapping, Sequence

from worldsim.data.faults import channels, pictures, stills
from worldsim.data.faults.fault import EXPLANATIONS, Fault, FaultKind, faulty_episodes, group_faults
from worldsim.data.faults.signals import Signals, fill_gaps, measure_usual, picture_changes, signals_of

__all__ = [
    "EXPLANATIONS",
    "Fault",
    "FaultKind",
    "Signals",
    "faulty_episodes",
    "find_faults",
    "group_faults",
    "idle_shares",
    "picture_changes",
    "signals_of",
]


def find_faults(
    signals: Sequence[Signals],
    *,
    lengths: Mapping[int, int] | None = None,
    action_names: Sequence[str] = (),
    proprio_names: Sequence[str] = (),
) -> tuple[Fault, ...]:
    """Find the faults of a dataset, or of a sample of its episodes.

    Args:
        signals: Of the episodes that are looked at; arrays as `Signals` says.
        lengths: Observations of every episode of the dataset by its number; None for those of `signals`.
        action_names: Of the A dimensions of an action.
        proprio_names: Of the P dimensions of proprioception.

    Returns:
        Faults by kind, in the order of `EXPLANATIONS`, then by episode; those of the dataset come first.
    """
    lengths = {s.episode: len(s.proprio) for s in signals} if lengths is None else lengths
    names = {"action_names": action_names, "proprio_names": proprio_names}
    found = [*channels.find_lengths(lengths), *channels.find_missing_labels(signals)]
    found += channels.find_not_finite(signals, **names)
    found += _compare([fill_gaps(s) for s in signals if len(s.action)], **names)
    kinds = list(EXPLANATIONS)
    return tuple(sorted(found, key=lambda f: (kinds.index(f.kind), -1 if f.episode is None else f.episode)))


def _compare(
    signals: Sequence[Signals], *, action_names: Sequence[str], proprio_names: Sequence[str]
) -> Iterator[Fault]:
    """Faults that show by comparison with what is usual."""
    if not signals:
        return
    usual = measure_usual(signals)
    yield from channels.find_constant(signals, action_names=action_names, proprio_names=proprio_names)
    yield from channels.find_idle(signals, usual)
    skew, leaps = list(pictures.find_skew(signals, usual)), list(pictures.find_leaps(signals, usual))
    late = {(f.where, f.episode) for f in skew}  # whose pictures stand still at other times than the robot anyway
    still = [
        still
        for still in stills.find_still_pictures(signals, usual)
        if not {(still.where, None), (still.where, still.episode)} & late
    ]
    jumps = channels.find_joint_jumps(signals, usual, proprio_names=proprio_names)
    leaps = [leap for leap in leaps if not _follows(leap, [*skew, *still])]
    reported = [*skew, *still]
    for fault in (*sorted(leaps, key=lambda f: f.kind != "dropped_frames"), *jumps):
        if not any(_same_cause(fault, other) for other in reported):
            reported.append(fault)
    yield from reported


def _same_cause(fault: Fault, other: Fault) -> bool:
    """Whether a fault is how another one looks elsewhere: a picture leaps when it goes on, joints leap where rows are missing."""
    leaps: tuple[FaultKind, ...] = ("dropped_frames", "picture_jump")
    pictures_stood: tuple[FaultKind, ...] = ("frozen_frames", "repeated_frames")
    causes = leaps if fault.kind == "joint_jump" else pictures_stood + leaps if fault.kind in leaps else ()
    if fault.episode != other.episode or fault.kind == other.kind or other.kind not in causes:
        return False
    if fault.frames is None or other.frames is None:
        return False
    same_camera = fault.kind == "joint_jump" or "" in (fault.where, other.where) or fault.where == other.where
    return same_camera and fault.frames[0] <= other.frames[1] and other.frames[0] <= fault.frames[1]


def _follows(leap: Fault, others: Sequence[Fault]) -> bool:
    """Whether a gap of a video is what a picture that is late or stood still before looks like."""
    if leap.kind != "dropped_frames" or leap.frames is None:
        return False
    same = [f for f in others if f.where == leap.where and f.episode in (None, leap.episode)]
    return any(f.frames is None or f.frames[0] <= leap.frames[1] for f in same)


def idle_shares(signals: Sequence[Signals]) -> dict[int, float]:
    """Share of the steps of each episode in which nothing moves and nothing is asked for, by episode.

    Args:
        signals: Of the episodes; those without an action are left out. Arrays as `Signals` says.
    """
    clean = [fill_gaps(s) for s in signals if len(s.action)]
    usual = measure_usual(clean) if clean else None
    if usual is None:
        return {}
    motions = zip(clean, usual.motion, strict=True)
    return {s.episode: float(channels.idle_steps(s, motion, usual).mean()) for s, motion in motions}
