"""What was asked for, and what that comes to: the request of a triage run and its resolved plan.

The plan is written before the first rollout and settles everything that decides the result. Running again with the same
request continues; a request that differs is refused with a list of what differs, except for a larger budget. Not for
doing any of it (`worldsim.triage.run`).
"""

import dataclasses
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError
from worldsim.protocols import Allocator
from worldsim.triage.allocation import build_allocator
from worldsim.triage.judge import WorldJudge
from worldsim.triage.table import AUDIT, TRIAGE, Block, block

FORMAT = "worldsim-triage-1"
PLAN = "plan.json"
_FREE = ("budget", "workers", "timeout_s")  # may change between two runs of one folder; a budget only grows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ref:
    """Names a policy or a world without loading it.

    Attributes:
        name: For people; unique among the policies of a run.
        digest: Identifies the content: weights, code and settings. Equal digests are taken to be equal things.
        source: What a loader needs: a path, a hub id or ``module:function``.
    """

    name: str
    digest: str
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TriageRequest:
    """A triage run in one value.

    Attributes:
        policies: The checkpoints, K of them, with unique names.
        world: The world they are tried in.
        k: How many best policies are wanted.
        budget: Rollouts in the world, audit included.
        allocator: Name of the rule that spends them (`worldsim.triage.allocation`).
        seed: Of the episode table.
        audit: Share of the budget kept for trying the winners again on fresh episodes; 0 for none.
        spare: How many policies beyond the best k are tried again too.
        confidence: Of every interval, in (0, 1).
        threshold: Success probability from which an episode counts as solved; None counts the probability itself.
        episodes: Length of the triage block; None leaves it to the allocator.
        width: Rollouts in a wave: the world's batch.
        policies_per_wave: How many policies may share a wave, and so how many a process holds in memory.
        workers: Processes. 1 runs in the calling process, which a policy that hangs in native code can block.
        timeout_s: How long a policy may take to load or to give one action before it counts as hung.

    Raises:
        InvalidInputError: A value is out of range, or names repeat.
    """

    policies: tuple[Ref, ...]
    world: Ref
    k: int = 10
    budget: int = 20_000
    allocator: str = "halving"
    seed: int = 0
    audit: float = 0.2
    spare: int = 5
    confidence: float = 0.95
    threshold: float | None = 0.5
    episodes: int | None = None
    width: int = 64
    policies_per_wave: int = 32
    workers: int = 1
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "policies", tuple(self.policies))
        names = [p.name for p in self.policies]
        repeated = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
        if not names or repeated:
            raise InvalidInputError(
                f"Triage needs at least one policy, each with a name of its own; got {len(names)} with the repeated "
                f"names {repeated[:5]}. Rename or drop the repeated ones."
            )
        if not 1 <= self.k <= len(names):
            raise InvalidInputError(f"k must lie in 1..{len(names)}, the number of policies; got {self.k}.")
        for name, low in (("budget", 1), ("spare", 0), ("width", 1), ("policies_per_wave", 1), ("workers", 1)):
            if getattr(self, name) < low:
                raise InvalidInputError(f"{name} must be at least {low}; got {getattr(self, name)}.")
        if not (0 <= self.audit < 1 and 0 < self.confidence < 1 and self.timeout_s > 0):
            raise InvalidInputError(
                f"audit must lie in [0, 1), confidence in (0, 1) and timeout_s above 0; got {self.audit}, "
                f"{self.confidence} and {self.timeout_s}."
            )
        if self.episodes is not None and self.episodes < 1:
            raise InvalidInputError(f"episodes must be at least 1, or None; got {self.episodes}.")
        WorldJudge(threshold=self.threshold)

    @property
    def finalists(self) -> int:
        """How many policies are tried again on the audit block."""
        return min(len(self.policies), self.k + self.spare)

    @property
    def audit_episodes(self) -> int:
        """Length of the audit block."""
        return int(self.audit * self.budget) // self.finalists

    @property
    def triage_budget(self) -> int:
        """Rollouts left for triage proper."""
        return self.budget - self.audit_episodes * self.finalists

    @property
    def triage_episodes(self) -> int:
        """Length of the triage block."""
        needed = build_allocator(self.allocator, k=self.k, budget=self.triage_budget).table_size(len(self.policies))
        return needed if self.episodes is None else min(needed, self.episodes)

    def build_allocator(self) -> Allocator:
        """Build the rule that spends the triage budget."""
        return build_allocator(self.allocator, k=self.k, budget=self.triage_budget)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What a plan must know of a world before the first rollout."""

    num_starts: int
    horizon: int
    success_at: Literal["end", "any"]
    task: str = ""
    task_id: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A resolved request: with the two digests, all that decides the result.

    Attributes:
        request: What was asked for.
        world: What the world said of itself.
        judge: Version of the judge.
        arenas: Other worlds the policies are tried in, by kind, each with its number of episodes.
        versions: Software that made the plan; kept for the reader, not compared.
    """

    request: TriageRequest
    world: Description
    judge: str
    arenas: tuple["ArenaPlan", ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def triage(self) -> Block:
        """The episodes that decide."""
        return self.block(TRIAGE, self.request.triage_episodes)

    @property
    def audit(self) -> Block:
        """The fresh episodes for the winners."""
        return self.block(AUDIT, self.request.audit_episodes)

    def block(self, name: str, episodes: int) -> Block:
        """Lay out a block of the world's episodes."""
        return block(name, seed=self.request.seed, episodes=episodes, num_starts=self.world.num_starts)

    def arena(self, kind: str) -> "ArenaPlan":
        """Return the plan of another world.

        Raises:
            InvalidInputError: The run has none of that kind.
        """
        for arena in self.arenas:
            if arena.kind == kind:
                return arena
        raise InvalidInputError(f"This run has no {kind!r} world; it has {[a.kind for a in self.arenas]}.")

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, with the digests of both blocks and the number of starts they reach."""
        blocks = {
            b.name: {"episodes": len(b), "distinct_starts": b.distinct_starts, "digest": b.digest}
            for b in (self.triage, self.audit)
        }
        return {"format": FORMAT, "blocks": blocks, **storage.to_json(self)}

    @classmethod
    def from_json(cls, value: Any) -> "Plan":
        """Rebuild a plan from `to_json`.

        Raises:
            InvalidInputError: It is not a plan, or its blocks would come out differently here.
        """
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise InvalidInputError(f"Not a triage plan of format {FORMAT!r}. Give the folder of a triage run.")
        plan = storage.from_json(cls, {k: v for k, v in value.items() if k not in ("format", "blocks")})
        if plan.to_json()["blocks"] != value["blocks"]:
            raise InvalidInputError(
                "This version of worldsim lays out another episode table than the plan's. Continue with the version in "
                f"the plan ({plan.versions}), or start a new folder."
            )
        return plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArenaPlan:
    """Another world, and what of it a plan must know.

    Attributes:
        kind: What it is, for example ``"truth"``; kept with every rollout.
        world: Which world.
        episodes: How many episodes of each policy.
        paired: The episodes are the first of the triage block: same starts, same noise keys.
        num_starts: How many starts it brings along.
    """

    kind: str
    world: Ref
    episodes: int
    paired: bool
    num_starts: int


def versions() -> dict[str, str]:
    """Return the versions of the software that computes."""
    from worldsim import __version__

    return {
        "worldsim": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


def read_plan(out: Path) -> Plan:
    """Read the plan of a run folder.

    Raises:
        StorageError: There is none, or it is damaged.
    """
    path = out / PLAN
    if not path.is_file():
        raise StorageError(f"{out} is not the folder of a triage run: it has no {PLAN}. Check the path.")
    try:
        return Plan.from_json(storage.read_json(path))
    except LookupError as error:
        raise StorageError(f"{path} is damaged ({error}). Restore it, or start a new folder.") from error


def differences(old: TriageRequest, new: TriageRequest) -> list[str]:
    """Say in words how two requests differ where they must not.

    A budget may grow; the number of workers and the timeout may change.
    """
    found = []
    for field in dataclasses.fields(TriageRequest):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if field.name == "policies":
            found += _changed_policies(before, after)
        elif field.name == "world" and before.digest == after.digest:
            continue
        elif field.name not in _FREE and before != after:
            found.append(f"{field.name}: was {_short(before)}, now {_short(after)}")
    if new.budget < old.budget:
        found.append(f"budget: was {old.budget}, now {new.budget}; it can only grow")
    return found


def _changed_policies(before: tuple[Ref, ...], after: tuple[Ref, ...]) -> list[str]:
    """Name policies that came, went, or changed their content."""
    old, new = {p.name: p.digest for p in before}, {p.name: p.digest for p in after}
    groups = {
        "policies no longer given": [n for n in old if n not in new],
        "policies added": [n for n in new if n not in old],
        "policies with other content": [n for n in old if n in new and old[n] != new[n]],
    }
    found = [f"{what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" for what, names in groups.items() if names]
    if not found and [p.name for p in before] != [p.name for p in after]:
        found.append("policies: the same, in another order")
    return found


def _short(value: object) -> str:
    return f"{value.name} ({value.digest[:12]})" if isinstance(value, Ref) else repr(value)
