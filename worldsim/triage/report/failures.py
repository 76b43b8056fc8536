"""Why policies fail: failed episodes grouped by what the judge saw, else by how their progress went; and where that was.

A group is a rule over what a run stores of an episode: progress at its end and at its best, when it was solved, what the
judge wrote. The rules are judgements, not theorems; their limits are stated here by name.
"""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from worldsim.stats.correlation import SOLVED
from worldsim.triage.engine.batches import RolloutResult
from worldsim.triage.engine.replay import Results
from worldsim.triage.engine.store import Record

LOST = 0.15  # progress that an episode had and gave up again
NEAR, FAR = 0.75, 0.35  # best progress of an episode that came near, or never did
MOST = 6
"""Groups that are listed; the rest are one."""
_SAW = re.compile(r"; sees (.+)")
_STUCK = re.compile(r"no progress after (\d+)")
_OTHER = "other"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailureMode:
    """Failed episodes that went alike.

    Attributes:
        name: How they went.
        episodes: How many.
        share: Of all failed episodes.
        policies: Rows of those that fail so most often, each with how many of its failed episodes went so, most first.
        step: Median action at which the judge saw no more progress, or at which the task was solved before it was lost;
            None where neither is known.
        uncertainty: Mean of the world's own uncertainty over them.
        example: (policy, episode of the triage block) to look at; None where all were audits.
    """

    name: str
    episodes: int
    share: float
    policies: tuple[tuple[int, int], ...]
    step: int | None
    uncertainty: float
    example: tuple[int, int] | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failures:
    """All failed episodes of a run.

    Attributes:
        modes: Groups, the largest first.
        failed: Failed episodes.
        solved: Solved ones.
        solved_at: Median action at which solved ones were solved; None where none was.
        solved_uncertainty: Mean of the world's uncertainty over solved ones; None where none was.
        hopeless: Starts from which no policy that tried solved an episode, though two or more tried.
        starts: Starts from which two or more policies tried.
    """

    modes: tuple[FailureMode, ...]
    failed: int
    solved: int
    solved_at: int | None
    solved_uncertainty: float | None
    hopeless: int
    starts: int


def group_failures(results: Results) -> Failures | None:
    """Group the failed episodes of a run; None where it stored none.

    Args:
        results: Of the run.
    """
    rows = [(policy, record) for policy, records in results.rollouts.items() for record in records]
    failed = [(p, r) for p, r in rows if r.result.success < SOLVED]
    solved = [r.result for _, r in rows if r.result.success >= SOLVED]
    if not failed:
        return None
    groups: dict[str, list[tuple[int, Record]]] = {}
    for policy, record in failed:
        groups.setdefault(name_failure(record.result), []).append((policy, record))
    largest = sorted(groups, key=lambda name: (-len(groups[name]), name))
    rest = [pair for name in largest[MOST:] for pair in groups[name]]
    modes = [_mode(name, groups[name], len(failed)) for name in largest[:MOST]]
    tried: dict[int, list[bool]] = {}
    for _, record in rows:
        tried.setdefault(record.start, []).append(record.result.success >= SOLVED)
    shared = [found for found in tried.values() if len(found) > 1]
    return Failures(
        modes=(*modes, *([_mode(_OTHER, rest, len(failed))] if rest else [])),
        failed=len(failed),
        solved=len(solved),
        solved_at=_median([r.solved_at for r in solved if r.solved_at > 0]),
        solved_uncertainty=float(np.mean([r.uncertainty_mean for r in solved])) if solved else None,
        hopeless=sum(not any(found) for found in shared),
        starts=len(shared),
    )


def name_failure(result: RolloutResult) -> str:
    """How a failed episode went, in words: those of the judge where it wrote some, else by its progress."""
    if saw := _SAW.search(result.note):
        return re.sub(r"\d+(\.\d+)?", "#", " ".join(saw[1].lower().split()))[:80]
    if result.solved_at > 0:
        return "solved on the way, and lost again"
    if result.progress_max - result.progress >= LOST:
        return "came closer, and moved away again"
    if result.progress_max >= NEAR:
        return "came near, and stopped short"
    return "never came near" if result.progress_max < FAR else "came halfway"


def _mode(name: str, pairs: Sequence[tuple[int, Record]], failed: int) -> FailureMode:
    """One group."""
    by_policy: dict[int, int] = {}
    for policy, _ in pairs:
        by_policy[policy] = by_policy.get(policy, 0) + 1
    most = sorted(by_policy.items(), key=lambda item: (-item[1], item[0]))
    steps = [_step(record.result) for _, record in pairs]
    seen = [(policy, record.episode) for policy, record in pairs if record.block == "triage"]
    return FailureMode(
        name=name,
        episodes=len(pairs),
        share=len(pairs) / failed,
        policies=tuple(most[:3]),
        step=_median([s for s in steps if s is not None]),
        uncertainty=float(np.mean([record.result.uncertainty_mean for _, record in pairs])),
        example=min(seen) if seen else None,
    )


def _step(result: RolloutResult) -> int | None:
    """The action at which an episode went wrong, as far as it is known."""
    stuck = _STUCK.search(result.note)
    return int(stuck[1]) if stuck else result.solved_at if result.solved_at > 0 else None


def _median(values: Sequence[int]) -> int | None:
    return int(np.median(values)) if values else None
