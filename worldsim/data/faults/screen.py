"""Which episodes a use of a dataset leaves out because of their faults, and which faults are only said.

Training asks here before it begins. Faults are named, and nothing is left out but what cannot be read, because most of them are
likely and not certain: of clean simulator recordings up to 2 % are named, a tenth where something is hit. ``leave_out``
leaves out the episodes with a fault that would teach something wrong, unless so many share it that it is how they were recorded.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

from worldsim.data.faults import Fault, FaultKind, Signals, faulty_episodes, find_faults, group_faults, signals_of
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.progress import Progress, silent
from worldsim.text import printable, shorten

FaultRule = Literal["say", "leave_out", "refuse"]
"""What is done about faulty episodes: they are named, or also left out, or nothing is begun."""
SCREENED_BYTES = 1 << 30
"""Unpacked pictures that are looked at at most; of more, evenly spread episodes. About ten seconds of one core."""
SPOILING: frozenset[FaultKind] = frozenset(
    {"frozen_frames", "dropped_frames", "picture_jump", "time_skew", "joint_jump", "not_finite", "constant"}
)
"""What, in a single episode, teaches that actions do what they do not do."""
COMMON = 0.25
"""What more than this share of the episodes has is how they were recorded: leaving them out would leave another dataset."""
MOST_UNREADABLE = 0.2
"""A dataset of which more cannot be read is refused."""
LEAST = 2
"""Episodes that must be left to learn from and to measure on."""
_NAMED = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class LeftOut:
    """An episode that is not used, and why, in a phrase."""

    episode: int
    why: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Screening:
    """What was found in a dataset, and what is done about it.

    Attributes:
        episodes: How many there are.
        looked_at: How many were looked at.
        rule: What was asked for.
        faults: What is wrong.
        left_out: Episodes that are not used.
        doubtful: How many of those that are used have a fault for which ``leave_out`` leaves them out.
    """

    episodes: int
    looked_at: int
    rule: FaultRule
    faults: tuple[Fault, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    doubtful: int = 0

    @property
    def indices(self) -> frozenset[int]:
        """The episodes that are not used."""
        return frozenset(one.episode for one in self.left_out)

    def __str__(self) -> str:
        """Lines for people: what was looked at, each fault with its episodes and what is done, and unreadable episodes."""
        some = (
            f"{self.looked_at} of {self.episodes} episodes, evenly spread" if self.looked_at < self.episodes else "all"
        )
        lines = [f"  {self._name(fault, places)}" for fault, places in group_faults(self.faults)]
        lines += [
            f"  episode {one.episode} {one.why}: left out" for one in self.left_out if one.why.startswith("cannot")
        ]
        named = len(faulty_episodes(self.faults))  # each counts once, whatever it has
        found = (f": in {named} of {self.looked_at} episodes" if named else "") if lines else ": none found"
        more = f" ({len(self.left_out)} episodes left out)" if self.left_out else ""
        if self.doubtful:
            are = "1 episode is" if self.doubtful == 1 else f"{self.doubtful} episodes are"
            lines.append(
                f"  {are} used all the same; look at them with worldsim inspect, or train with faults=leave_out."
            )
        return "\n".join([f"Faults, looked for in {some}{found}{more}", *lines])

    def _name(self, fault: Fault, places: str) -> str:
        """One kind of fault at one place, with what is done about it."""
        where = f" of {printable(fault.where)}" if fault.where else ""
        name = fault.kind.replace("_", " ") + where
        if fault.episode is None or fault.kind not in SPOILING or self.rule == "say":
            done = "only said"
        elif {f.episode for f in self.faults if (f.kind, f.where) == (fault.kind, fault.where)} <= self.indices:
            done = "left out"
        else:
            done = "used all the same, since too few other episodes would be left"
        return f"{name}, {places}: {done}. {fault.meaning}"


def screen(dataset: Dataset, *, rule: FaultRule = "say", progress: Progress = silent) -> Screening:
    """Look for faults in a dataset, or in a sample of a large one, and decide what is done about them.

    Args:
        dataset: All of it.
        rule: What is done about faulty episodes. Those that cannot be read are left out unless it is ``"refuse"``.
        progress: Called after each episode.

    Raises:
        InvalidInputError: `rule` is ``"refuse"``, and an episode has a fault that would leave it out.
        StorageError: More than a fifth of the episodes that were looked at cannot be read.
    """
    chosen = sample_episodes(dataset, most_bytes=SCREENED_BYTES)
    signals, unreadable = read_signals(dataset, chosen, progress=progress)
    if len(unreadable) > MOST_UNREADABLE * len(chosen):
        last = list(unreadable.items())[-1]
        raise StorageError(
            f"{len(unreadable)} of {len(chosen)} episodes are unreadable. The last: episode {last[0]}: {last[1]}"
        )
    lengths = dict(enumerate(dataset.lengths))
    faults = find_faults(signals, lengths=lengths, action_names=dataset.action_spec.names)
    spoiled = _spoiled(faults, looked_at=len(chosen))
    left = sum(n > 1 for i, n in lengths.items() if i not in spoiled and i not in unreadable)
    cannot = {i: f"cannot be read ({shorten(why, width=200)})" for i, why in unreadable.items()}
    if rule == "refuse" and (spoiled or cannot):
        raise InvalidInputError(_refusal(dataset, {**spoiled, **cannot}))
    out = {**spoiled, **cannot} if rule == "leave_out" and left >= LEAST else cannot
    return Screening(
        episodes=dataset.episodes,
        looked_at=len(chosen),
        rule=rule,
        faults=faults,
        left_out=tuple(LeftOut(episode=i, why=out[i]) for i in sorted(out)),
        doubtful=len(spoiled.keys() - out.keys()) if rule == "say" else 0,
    )


def sample_episodes(dataset: Dataset, *, most_bytes: int, most: int | None = None) -> list[int]:
    """Numbers of evenly spread episodes whose unpacked pictures take no more than so many bytes together; one at least.

    Args:
        dataset: All of it.
        most_bytes: Of uint8 pictures of all cameras.
        most: Episodes at most; None for no limit.
    """
    if not dataset.episodes:
        return []
    size = sum(3 * c.height * c.width for c in dataset.cameras) * float(np.mean(dataset.lengths))
    count = max(1, min(dataset.episodes, most or dataset.episodes, int(most_bytes / max(1.0, size))))
    return sorted({round(x) for x in np.linspace(0, dataset.episodes - 1, count)})


def read_signals(
    dataset: Dataset, chosen: Sequence[int], *, progress: Progress = silent
) -> tuple[list[Signals], dict[int, str]]:
    """Signals of some episodes, and what is wrong with those that cannot be read, by episode."""
    signals, unreadable = list[Signals](), dict[int, str]()
    for number, index in enumerate(chosen):
        try:
            episode = dataset.episode(index)
        except (StorageError, InvalidInputError) as error:
            unreadable[index] = printable(error)
        else:
            signals.append(signals_of(index, episode, rate_hz=dataset.rate_hz, idle=dataset.action_spec.idle))
        progress("faults", number + 1, len(chosen), {})
    return signals, unreadable


def _spoiled(faults: Sequence[Fault], *, looked_at: int) -> dict[int, str]:
    """Episodes that have a fault which spoils them and is no habit of the dataset, with the names of the faults."""
    pairs = {(f.kind, f.episode) for f in faults if f.kind in SPOILING and f.episode is not None}
    common = {kind for kind, count in Counter(kind for kind, _ in pairs).items() if count > max(1, COMMON * looked_at)}
    found: dict[int, list[str]] = {}
    for kind, episode in sorted(pairs, key=str):
        if kind not in common and episode is not None:
            found.setdefault(episode, []).append(kind.replace("_", " "))
    return {episode: ", ".join(kinds) for episode, kinds in found.items()}


def _refusal(dataset: Dataset, bad: dict[int, str]) -> str:
    named = "; ".join(f"episode {i}: {bad[i]}" for i in sorted(bad)[:_NAMED])
    more = f"; and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
    return (
        f"{len(bad)} episodes of {dataset.name} are faulty, and faults=refuse was asked for: {named}{more}. Repair or remove "
        "them (worldsim inspect shows where), or use faults=leave_out."
    )
