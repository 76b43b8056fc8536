"""Everything a report shows, as plain values: page, figures and picture are functions of a `ReportData`.

Shape legend: K policies, T frames of H by W pixels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import numpy as np

from worldsim.stats.agreement import Agreement
from worldsim.stats.correlation import SOLVED
from worldsim.stats.intervals import Interval
from worldsim.text import strip_common_parts
from worldsim.triage.ranking.measured import Measured
from worldsim.triage.ranking.ranking import RankedPolicy, Ranking
from worldsim.triage.report.failures import Failures
from worldsim.validity.validity import Validity
from worldsim.video import Frames

Quantity = Literal["success", "progress"]
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
class ComparedPolicy:
    """One policy, by its row in the evidence, measured in the world and in the ground truth."""

    policy: int
    world: Measured
    truth: Measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchedEpisodes:
    """Matched episodes (same policy, same start, same noise) counted by their two outcomes."""

    both: int
    only_world: int
    only_truth: int
    neither: int

    @property
    def total(self) -> int:
        """All matched episodes."""
        return self.both + self.only_world + self.only_truth + self.neither

    @property
    def same(self) -> float | None:
        """Share with the same outcome; None without episodes."""
        return (self.both + self.neither) / self.total if self.total else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Truth:
    """How the world compares with a ground truth.

    Attributes:
        name: What the truth is, for example a Gymnasium id.
        policies: The policies rolled out in both.
        success: Agreement of success rates.
        progress: Agreement of mean progress, where it was computed.
        episodes: Matched episodes by outcome; None where episodes are not matched.
    """

    name: str
    policies: tuple[ComparedPolicy, ...]
    success: Agreement
    progress: Agreement | None = None
    episodes: MatchedEpisodes | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """One policy in the real environment, seeing real frames and seeing frames encoded and decoded by the world.

    Attributes:
        policy: Row in the evidence.
        direct: Measured on the environment's own frames.
        decoded: Measured on encoded and decoded frames, same episodes.
        gap: Paired interval of `lost`; None where it was not computed.
    """

    policy: int
    direct: Measured
    decoded: Measured
    gap: Interval | None = None

    @property
    def lost(self) -> float:
        """Success on own frames minus success on decoded ones."""
        return (self.direct.success or 0.0) - (self.decoded.success or 0.0)


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
        solved_at: Action after which the world's own heads first called it solved; None where they did not, or it is not known.
        closest_at: Action after which progress in the world was largest; None where it is not known.
        at_limits: Share of the numbers of its actions in the world that lie at a limit; None where it is not known.
        world_moved_at: Action after which an object first moved in the world; None where it is not known.
        truth_moved_at: The same in the truth.
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
    solved_at: int | None = None
    closest_at: int | None = None
    at_limits: float | None = None
    world_moved_at: int | None = None
    truth_moved_at: int | None = None

    @property
    def marks(self) -> tuple[tuple[float, str], ...]:
        """What happened when, as (seconds, words): touched, solved, or closest to it; and when world and truth part."""
        parted = None if self.truth is None else find_divergence(self.world, self.truth)
        closest = self.closest_at if self.solved_at is None else None
        found = [
            (self.solved_at, "solved in the world"),
            (closest, "most progress in the world"),
            (self.world_moved_at, "an object first moves in the world"),
            (self.truth_moved_at, "an object first moves in the truth"),
            (parted, "world and truth part"),
        ]
        return tuple(sorted((at / self.rate_hz, words) for at, words in found if at is not None))

    @property
    def kind(self) -> Kind:
        """A win, a loss, or a disagreement: optimistic where only the world solved it, pessimistic where only the truth."""
        solved = self.world_success >= SOLVED
        if self.truth_success is None or (self.truth_success >= SOLVED) == solved:
            return "win" if solved else "loss"
        return "optimistic" if solved else "pessimistic"


DIFFERENT = 40
"""Difference of a colour, of 255, from which a pixel shows something else."""
PARTED = 0.02
"""Share of pixels that show something else, beyond those of the first frame, from which two films have parted."""


def find_divergence(world: Frames, truth: Frames) -> int | None:
    """The first frame in which two films of one episode have parted for good; None where they end alike.

    Args:
        world: uint8 [T, H, W, 3], as imagined.
        truth: uint8 [T', H, W, 3], as it was.
    """
    length = min(len(world), len(truth))
    if world.shape[1:] != truth.shape[1:] or not length:
        return None
    apart = np.abs(world[:length].astype(np.int16) - truth[:length]).max(axis=3) > DIFFERENT
    share = apart.mean(axis=(1, 2))
    same = np.flatnonzero(share <= share[0] + PARTED)
    return None if same[-1] == length - 1 else int(same[-1]) + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What it takes to do the run again.

    Attributes:
        command: As typed.
        made: Date and time, as text.
        core_s: Processor time of the run, in core-seconds; None where unknown.
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
        playing: Where episodes are not played to their end: how far, why, and what that means, in sentences.
        remarks: Further cautions, one sentence each.
        validity: Figures of the world on episodes that it was not trained on; None where it states none.
        failures: Failed episodes, grouped; None where there are none.
        at_limits: Share of the numbers of a policy's actions that lie at a limit, in all its episodes in the world, by row;
            policies of which it is not known are missing.
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
    playing: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    validity: Validity | None = None
    failures: Failures | None = None
    at_limits: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def alive(self) -> tuple[RankedPolicy, ...]:
        """Lines of the policies that did not crash, in rank order."""
        return tuple(line for line in self.ranking.policies if line.failed is None)

    @property
    def knows_outside(self) -> bool:
        """Whether it is known of a policy how often it acted outside of what the world was trained on."""
        return any(line.outside is not None for line in self.alive)

    @property
    def ranked_by(self) -> Quantity:
        """What policies are ranked by."""
        return "progress" if self.ranking.by_progress else "success"

    @property
    def compared(self) -> Agreement:
        """How world and truth agree in what policies are ranked by.

        Raises:
            LookupError: There is no truth.
        """
        if self.truth is None:
            raise LookupError("This run has no truth.")
        return self.truth.progress or self.truth.success if self.ranking.by_progress else self.truth.success

    def ranked(self, line: RankedPolicy) -> Measured:
        """What a reader should be shown of a policy, with what it is ranked by in the place of success."""
        return line.shown.by_progress() if self.ranking.by_progress else line.shown

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
