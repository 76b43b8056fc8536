"""Everything a report shows, as plain values: pages, figures and pictures are functions of a `ReportData`.

Not for computing any of it: rankings come from `worldsim.triage.ranking.ranking`, agreement from `worldsim.stats.agreement`.

Shape legend: K policies, T frames of H by W pixels.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worldsim.stats.correlation import SOLVED
from worldsim.stats.intervals import Interval
from worldsim.text import strip_common_parts
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.ranking import RankedPolicy, Ranking
from worldsim.triage.report.truth import Rate, Truth

Frames = NDArray[np.uint8]
Kind = Literal["win", "loss", "optimistic", "pessimistic"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
    """Where one part of the budget went.

    Attributes:
        label: For people, for example ``"round 2"`` or ``"audit"``.
        rollouts: New rollouts of each policy, by row of the evidence [K].
        audit: The episodes were fresh ones, for the finalists only.
    """

    label: str
    rollouts: tuple[int, ...]
    audit: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """One policy in the real environment, seeing real frames and seeing frames encoded and decoded by the world.

    Attributes:
        policy: Row in the evidence.
        direct: Success on the environment's own frames.
        decoded: Success on encoded and decoded frames, same episodes.
        gap: Direct minus decoded, with its paired interval; None where it was not computed.
    """

    policy: int
    direct: Rate
    decoded: Rate
    gap: Interval | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """One filmed episode.

    Attributes:
        policy: Row in the evidence.
        episode: Index in the episode table.
        rate_hz: Frames per second of the task.
        world: uint8 [T, H, W, 3], as the world imagined it.
        world_success: Judged success in 0..1.
        world_progress: Progress in 0..1.
        truth: uint8 [T, H, W, 3], the same episode in the ground truth; None where there is none.
        truth_success: Success in 0..1 there.
        truth_progress: Progress in 0..1 there.
    """

    policy: int
    episode: int
    rate_hz: float
    world: Frames
    world_success: float
    world_progress: float
    truth: Frames | None = None
    truth_success: float | None = None
    truth_progress: float | None = None

    @property
    def kind(self) -> Kind:
        """A win, a loss, or a disagreement: optimistic where only the world solved it, pessimistic where only the truth."""
        solved = self.world_success >= SOLVED
        if self.truth_success is None or (self.truth_success >= SOLVED) == solved:
            return "win" if solved else "loss"
        return "optimistic" if solved else "pessimistic"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What it takes to do the run again.

    Attributes:
        command: As typed.
        made: Date and time, as text.
        core_s: Processor time of the whole run, in core-seconds; None where unknown.
        digests: sha256 by what it is of.
        seeds: Seeds by use.
        versions: Versions by software.
        settings: Everything else that decides the result, by name.
    """

    command: str
    made: str
    core_s: float | None = None
    digests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    seeds: Mapping[str, int] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ReportData:
    """A triage run, ready to be shown.

    Attributes:
        ranking: The leaderboard.
        world: Name of the world.
        task: The task in one sentence; may be empty.
        allocator: Name of the rule that spent the rollouts.
        distinct_starts: Different starts among the triage episodes; None where unknown.
        rounds: Where the rollouts went.
        truth: Comparison with a ground truth; None where there is none.
        round_trip: The round-trip diagnostic; empty where it was not run.
        clips: Filmed episodes.
        manifest: Provenance.
        judging: How episodes were judged and whose errors were corrected, in sentences; empty for the world's own heads.
        remarks: Further cautions the run wants to be read, one sentence each.
    """

    ranking: Ranking
    world: str
    manifest: Manifest
    task: str = ""
    allocator: str = ""
    distinct_starts: int | None = None
    rounds: tuple[Round, ...] = ()
    truth: Truth | None = None
    round_trip: tuple[RoundTrip, ...] = ()
    clips: tuple[Clip, ...] = ()
    judging: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def alive(self) -> tuple[RankedPolicy, ...]:
        """Lines of the policies that did not crash, in rank order."""
        return tuple(line for line in self.ranking.policies if line.failed is None)

    @property
    def failed(self) -> tuple[RankedPolicy, ...]:
        """Lines of the policies that crashed."""
        return tuple(line for line in self.ranking.policies if line.failed is not None)

    @property
    def labels(self) -> dict[int, str]:
        """Readable label of each policy, by row."""
        short = strip_common_parts([line.name for line in self.ranking.policies])
        return {line.policy: label for line, label in zip(self.ranking.policies, short, strict=True)}

    @property
    def confidence(self) -> str:
        """Confidence of the intervals as people write it, for example ``95 %``."""
        return f"{100 * (1 - self.ranking.alpha):g} %"


def rounds_of(evidence: Evidence, stops: Sequence[int], *, audit: Evidence | None = None) -> tuple[Round, ...]:
    """Split the rollouts by the round that asked for them.

    Args:
        evidence: Triage outcomes.
        stops: Cumulative number of episodes at the end of each round, ascending; what lies beyond the last is one more.
        audit: Outcomes on the fresh episodes.
    """
    edges = [0, *stops] + ([evidence.episodes] if not stops or stops[-1] < evidence.episodes else [])
    counts = [evidence.done[:, a:b].sum(axis=1) for a, b in itertools.pairwise(edges)]
    found = [Round(label=f"round {i}", rollouts=_whole(n)) for i, n in enumerate(counts, start=1) if n.any()]
    if audit is not None and audit.rollouts:
        found.append(Round(label="audit", rollouts=_whole(audit.count), audit=True))
    return tuple(found)


def _whole(values: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
