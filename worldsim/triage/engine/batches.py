"""The unit of work: a wave is a fixed-width batch of rollouts of different policies, done by one process at one go.

How an answer of an allocator is cut into waves depends on that answer and on nothing else. So waves are the same with
any number of workers, in any order and after any restart, and each is stored whole or not at all. Not for rolling out
(`worldsim.triage.engine.roll`).
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.rollout.episodes import Block
from worldsim.triage.request import Ref

Stage = Literal["load", "start", "act", "hang", "death", "world"]


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
    """One rollout of a wave."""

    policy: int
    episode: int  # index into the block
    start: int
    key: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wave:
    """Up to `width` rollouts; the rows of one policy are contiguous.

    Attributes:
        id: sha256 over everything that decides the wave's results.
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

    def padded(self) -> tuple[Tensor, Tensor]:
        """Start and key of every row, int64 [width] each; idle rows repeat the first start with key 0."""
        spare = self.width - len(self.slots)
        start = [s.start for s in self.slots] + [self.slots[0].start] * spare
        key = [s.key for s in self.slots] + [0] * spare
        return torch.tensor(start, dtype=torch.int64), torch.tensor(key, dtype=torch.int64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
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
    steps: int
    abstained: bool = False  # the judge declined to say; `success` is then its probability
    note: str = ""  # the judge's words


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crash:
    """Why a policy takes no further part.

    Attributes:
        policy: Its index.
        stage: When it happened; ``"world"`` means that the world answered its actions with NaN.
        step: Step of the episode, 0 before the first.
        reason: One line, the same whenever and wherever the same thing happens.
        detail: The traceback, for whoever mends it.
    """

    policy: int
    stage: Stage
    step: int
    reason: str
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WaveResult:
    """Outcome of one wave: a rollout or a crash for every row that was not done.

    Attributes:
        wave: Which.
        finished: One per row that came through.
        crashes: At most one per policy.
        seconds: Wall-clock time.
    """

    wave: Wave
    finished: tuple[Finished, ...]
    crashes: tuple[Crash, ...]
    seconds: float


def compose(
    pairs: Iterable[tuple[int, int]], *, scope: Scope, block: Block, width: int, policies_per_wave: int
) -> list[Wave]:
    """Cut an allocator's answer into waves.

    Rollouts are sorted by policy and episode, so that a wave calls few policies with many rows each.

    Args:
        pairs: (policy, episode) in any order. Policies of equal content count once.
        scope: Where the rollouts happen.
        block: Episodes that the pairs index.
        width: Rows of a wave.
        policies_per_wave: At most so many policies share a wave.

    Raises:
        InvalidInputError: A pair points outside the table.
    """
    first = scope.first_of()
    wanted = sorted({(_policy(p, first), _episode(e, block)) for p, e in pairs})
    waves: list[Wave] = []
    slots: list[Slot] = []
    held: set[int] = set()
    for policy, episode in wanted:
        if slots and (len(slots) == width or len(held | {policy}) > policies_per_wave):
            waves.append(_wave(slots, scope, block, width))
            slots, held = [], set()
        held.add(policy)
        slots.append(Slot(policy=policy, episode=episode, start=int(block.start[episode]), key=int(block.key[episode])))
    if slots:
        waves.append(_wave(slots, scope, block, width))
    return waves


def _policy(index: int, first: Sequence[int]) -> int:
    if not 0 <= index < len(first):
        raise InvalidInputError(f"The allocator asked for policy {index}; there are {len(first)}. Mend the allocator.")
    return first[int(index)]


def _episode(index: int, block: Block) -> int:
    if not 0 <= index < len(block):
        raise InvalidInputError(
            f"The allocator asked for episode {index} of the {block.name} block; it has {len(block)}. "
            "Mend the allocator."
        )
    return int(index)


def _wave(slots: Sequence[Slot], scope: Scope, block: Block, width: int) -> Wave:
    """Seal a wave with its id."""
    content = "|".join([scope.kind, scope.world, scope.judge, block.name, str(width)])
    rows = "|".join(f"{scope.policies[s.policy].digest},{s.start},{s.key}" for s in slots)
    name = hashlib.sha256(f"{content}|{rows}".encode()).hexdigest()
    return Wave(id=name, kind=scope.kind, block=block.name, slots=tuple(slots), width=width)
