"""The plan of a triage run: its request, resolved in a given world.

It is written before the first rollout and fixes everything that decides the result.
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
from worldsim.rollout.episodes import AUDIT, TRIAGE, Block, block
from worldsim.rollout.judge import WorldJudge
from worldsim.triage.request import Ref, TriageRequest

FORMAT = "worldsim-triage-2"
PLAN = "plan.json"
WORLD, TRUTH = "world", "truth"
"""Kind of the world in which the triage happens, and of the one that is the truth."""
_DERIVED = ("format", "judge", "blocks")  # written for the reader and for checking


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What a plan must know of a world before the first rollout."""

    num_starts: int
    horizon: int
    success_at: Literal["end", "any"]
    task: str = ""
    task_id: str = ""
    actions_per_step: int = 1  # above 1, policies that do not plan in chunks act on frames that they have seen before


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A resolved request: with the two digests, all that decides the result.

    Attributes:
        request: What was asked for.
        world: What must be known of the world.
        arenas: Other worlds the policies are tried in.
        versions: Software that made the plan; kept for the reader, not compared.
    """

    request: TriageRequest
    world: Description
    arenas: tuple["ArenaPlan", ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def steps(self) -> int:
        """Actions that are played of each of the world's episodes."""
        return min(self.request.steps or self.world.horizon, self.world.horizon)

    @property
    def judge(self) -> str:
        """Version of the judge, part of every rollout's key."""
        return self.request.judge or self.rule

    @property
    def rule(self) -> str:
        """Version of the rule that reads a world's own heads; it judges other worlds in every run."""
        return WorldJudge(success_at=self.world.success_at, threshold=self.request.threshold).version

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
        value = storage.to_json(self)
        if not self.request.judge_rates:
            del value["request"]["judge_rates"]  # a run without them reads as it always has
        if self.request.steps is None:
            del value["request"]["steps"]
        return {"format": FORMAT, "judge": self.judge, "blocks": blocks, **value}

    @classmethod
    def from_json(cls, value: Any) -> "Plan":
        """Rebuild a plan from `to_json`.

        Raises:
            InvalidInputError: It is not a plan, or its blocks would come out differently here.
        """
        if not isinstance(value, Mapping) or value.get("format") != FORMAT:
            raise InvalidInputError(f"Not a triage plan of format {FORMAT!r}. Give the folder of a triage run.")
        plan = storage.from_json(cls, {k: v for k, v in value.items() if k not in _DERIVED})
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

    def __post_init__(self) -> None:
        if not self.kind.isidentifier():
            raise InvalidInputError(f"The kind of an arena is a short name such as 'truth'; got {self.kind!a}.")


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
