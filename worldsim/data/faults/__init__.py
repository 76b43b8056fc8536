"""Finds faults of recordings: pictures that stand still, leap or lag, joints that jump, dead channels, missing labels.

`signals_of` reduces an episode to a few numbers per step, so that frames need not be kept; `find_faults` compares the
signals of many episodes. What the data cannot show is not reported: thresholds are relative to what the same
dataset does most of the time, and their reasons are written beside them.
"""

from collections.abc import Iterator, Mapping, Sequence

from worldsim.data.faults import channels, pictures
from worldsim.data.faults.fault import EXPLANATIONS, Fault, FaultKind, group_faults
from worldsim.data.faults.signals import Signals, fill_gaps, measure_usual, picture_changes, signals_of

__all__ = [
    "EXPLANATIONS",
    "Fault",
    "FaultKind",
    "Signals",
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
    stills = [
        still
        for still in pictures.find_still_pictures(signals, usual)
        if not {(still.where, None), (still.where, still.episode)} & late
    ]
    yield from (*skew, *stills, *(leap for leap in leaps if not _follows(leap, [*skew, *stills])))
    gaps = {(f.episode, f.frames) for f in leaps if f.kind == "dropped_frames"}  # in which joints leap anyway
    for jump in channels.find_joint_jumps(signals, usual, proprio_names=proprio_names):
        if (jump.episode, jump.frames) not in gaps:
            yield jump


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
