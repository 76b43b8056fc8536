"""Fixed-width batches of rollouts, the unit of work: composed from an allocator's answer, rolled out by one worker.

How an answer is cut into batches depends on that answer and on nothing else. So batches are the same with any number of
workers, in any order and after any restart.
"""

import dataclasses
import hashlib
import re
import traceback
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.rollout.episodes import Block
from worldsim.text import printable
from worldsim.triage.request import Ref

Stage = Literal["load", "start", "act", "hang", "death", "world"]
"""What a policy did when it failed; ``"world"``: the world answered its actions with NaN."""
_REASON = 300  # characters of an error message that a leaderboard can show
_DETAIL = 20_000  # characters of a traceback that are kept


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scope:
    """Where rollouts happen and how they are judged: what their keys share.

    Attributes:
        kind: ``"world"`` for the world of the triage, else the kind of the arena.
        world: Digest of that world.
        judge: Version of the judge.
        policies: All policies of the run, by index.
    """

    kind: str
    world: str
    judge: str
    policies: tuple[Ref, ...]

    def first_of(self) -> tuple[int, ...]:
        """For every policy the first one with the same content: a copy is not rolled out again."""
        first: dict[str, int] = {}
        return tuple(first.setdefault(ref.digest, i) for i, ref in enumerate(self.policies))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slot:
    """One rollout of a batch."""

    policy: int
    episode: int  # index into the block
    start: int
    key: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Up to `width` rollouts; the rows of one policy are contiguous.

    Attributes:
        id: sha256 over everything that decides the batch's results.
        kind: As in `Scope`.
        block: Name of the episodes' block.
        slots: The rollouts, by row.
        width: Rows of the batch; those beyond the slots idle along, so that kernels always see the same shapes.
        done: Rows whose rollout is known already; they idle along too.
    """

    id: str
    kind: str
    block: str
    slots: tuple[Slot, ...]
    width: int
    done: frozenset[int] = frozenset()

    @property
    def live(self) -> dict[int, list[int]]:
        """Rows still to be rolled out, by policy, in row order."""
        rows: dict[int, list[int]] = {}
        for row, slot in enumerate(self.slots):
            if row not in self.done:
                rows.setdefault(slot.policy, []).append(row)
        return rows

    def only(self, policies: Collection[int]) -> "Batch":
        """The same batch with only the rows of these policies left to be rolled out."""
        others = {row for row, slot in enumerate(self.slots) if slot.policy not in policies}
        return dataclasses.replace(self, done=self.done | others)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Start and key of every row, int64 [W] each for a width of W; idle rows repeat the first start with key 0."""
        spare = self.width - len(self.slots)
        start = [s.start for s in self.slots] + [self.slots[0].start] * spare
        key = [s.key for s in self.slots] + [0] * spare
        return torch.tensor(start, dtype=torch.int64), torch.tensor(key, dtype=torch.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """How the rollout in one row ended."""

    row: int
    success: float  # as judged, 0..1
    probability: float  # the world's own success probability by the task's rule, before any judge
    progress: float  # as judged, 0..1
    progress_max: float
    uncertainty_min: float
    uncertainty_mean: float
    uncertainty_max: float
    solved_at: int  # first step, from 1, at which success was more likely than not; -1 if never
    steps: int  # actions taken
    at_limits: float = (
        -1.0
    )  # share of the numbers of its actions at a limit, where they are clipped; -1 where not known
    outside: float = -1.0  # share of its actions taken outside of what the world was trained on; -1 where not known
    unseen: int = 0  # actions chosen without a frame newer than the one before; 0 where each step is one action
    abstained: bool = False  # the judge declined to say; `success` is then its probability
    note: str = ""  # the judge's words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crash:
    """Why a policy takes no further part.

    Attributes:
        policy: Its index.
        stage: When it happened.
        step: Step of the episode, 0 before the first.
        reason: One line, the same whenever and wherever the same thing happens.
        detail: The traceback, for debugging.
    """

    policy: int
    stage: Stage
    step: int
    reason: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchResult:
    """What came of a batch: a rollout or a crash for every row that was not done.

    Attributes:
        batch: Which.
        rollouts: One per row that came through.
        crashes: At most one per policy.
    """

    batch: Batch
    rollouts: tuple[RolloutResult, ...]
    crashes: tuple[Crash, ...]


def hang(policy: int, timeout_s: float) -> Crash:
    """Describe a policy that did not come back."""
    return Crash(policy=policy, stage="hang", step=-1, reason=f"did not answer within {timeout_s:g} s")


def crash_of(policy: int, stage: Stage, step: int, error: BaseException) -> Crash:
    """Describe an error so that it reads the same in every process, and is fit to be stored and shown."""
    try:
        text = str(error)
    except BaseException:  # a policy's own exception class may do anything
        text = ""
    lines = re.sub(r"0x[0-9a-f]{4,}", "0x...", text).strip().splitlines()
    message = printable(lines[0][:_REASON]) if lines else ""
    kind = printable(type(error).__name__)
    what = message if isinstance(error, WorldsimError) and message else f"{kind}: {message}".rstrip(": ")
    place = {"load": "could not be loaded", "start": "could not start"}.get(stage, f"failed at step {step}")
    detail = printable("".join(traceback.format_exception(error))[-_DETAIL:], lines=True)
    return Crash(policy=policy, stage=stage, step=step, reason=f"{place}: {what}", detail=detail)


def compose(
    pairs: Iterable[tuple[int, int]], *, scope: Scope, block: Block, width: int, policies_per_batch: int
) -> list[Batch]:
    """Cut an allocator's answer into batches.

    Rollouts are sorted by policy and episode, so that a batch calls few policies with many rows each. An isolated policy
    shares no batch.

    Args:
        pairs: (policy, episode) in any order. Policies of equal content count once.
        scope: Where the rollouts happen.
        block: Episodes that the pairs index.
        width: Rows of a batch.
        policies_per_batch: At most so many policies share a batch.

    Raises:
        InvalidInputError: A pair points outside the table.
    """
    first = scope.first_of()
    wanted = sorted({(_policy(p, first), _episode(e, block)) for p, e in pairs})
    batches: list[Batch] = []
    slots: list[Slot] = []
    held: set[int] = set()
    for policy, episode in wanted:
        apart = policy not in held and any(scope.policies[p].isolated for p in {policy, *held} if held)
        if slots and (apart or len(slots) == width or len(held | {policy}) > policies_per_batch):
            batches.append(_batch(slots, scope, block, width))
            slots, held = [], set()
        held.add(policy)
        slots.append(Slot(policy=policy, episode=episode, start=int(block.start[episode]), key=int(block.key[episode])))
    if slots:
        batches.append(_batch(slots, scope, block, width))
    return batches


def _policy(index: int, first: Sequence[int]) -> int:
    if not 0 <= index < len(first):
        raise InvalidInputError(f"The allocator asked for policy {index}; there are {len(first)}. Fix the allocator.")
    return first[int(index)]


def _episode(index: int, block: Block) -> int:
    if not 0 <= index < len(block):
        raise InvalidInputError(
            f"The allocator asked for episode {index} of the {block.name} block; it has {len(block)}. "
            "Fix the allocator."
        )
    return int(index)


def _batch(slots: Sequence[Slot], scope: Scope, block: Block, width: int) -> Batch:
    """Make a batch with its id."""
    content = "|".join([scope.kind, scope.world, scope.judge, block.name, str(width)])
    rows = "|".join(f"{scope.policies[s.policy].digest},{s.start},{s.key}" for s in slots)
    name = hashlib.sha256(f"{content}|{rows}".encode()).hexdigest()
    return Batch(id=name, kind=scope.kind, block=block.name, slots=tuple(slots), width=width)
