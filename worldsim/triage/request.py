"""What is asked of a triage run, in one value, and how two requests differ."""

import dataclasses

from worldsim.errors import InvalidInputError
from worldsim.limits import MAX_BUDGET, MAX_COUNT, MAX_SEED, MAX_TIMEOUT_S, MAX_WORKERS
from worldsim.rollout.judge import WorldJudge
from worldsim.stats.judge_rates import JudgeRates
from worldsim.triage.allocate import AnyAllocator, make_allocator

_RANGES = {
    "budget": (1, MAX_BUDGET),
    "seed": (0, MAX_SEED),
    "spare": (0, MAX_COUNT),
    "episodes": (1, MAX_BUDGET),
    "steps": (1, MAX_COUNT),
    "width": (1, MAX_COUNT),
    "policies_per_batch": (1, MAX_COUNT),
    "workers": (1, MAX_WORKERS),
}
_FREE = (
    "budget",
    "workers",
    "timeout_s",
    "isolate",
    "judge_rates",
)  # may change between two runs of one folder; a budget only grows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ref:
    """Names a policy or a world without loading it.

    Attributes:
        name: For people; unique among the policies of a run.
        digest: Identifies the content: weights, code and settings. Equal digests are taken to be equal things.
        source: What a loader needs: a path, a hub id or ``module:function``.
        isolated: Runs in worker processes and batches of its own: code that is not known to leave others alone.
    """

    name: str
    digest: str
    source: str = ""
    isolated: bool = False

    def __post_init__(self) -> None:
        _require_printable("digest", self.digest)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TriageRequest:
    """A triage run in one value.

    Attributes:
        policies: The checkpoints, K of them, with unique names.
        world: The world they are tried in.
        k: How many best policies are wanted.
        budget: Rollouts in the world, audit included.
        allocator: Name of the rule that spends them (`worldsim.triage.allocate`).
        seed: Of the episode table.
        audit: Share of the budget kept for trying the winners a second time, on fresh episodes; 0 for none.
        spare: How many policies beyond the best k are audited too.
        confidence: Of every interval, in (0, 1).
        epsilon: Difference in success rate that does not matter, for allocators that stop by themselves; 0..1.
        threshold: Success probability from which an episode counts as solved; None counts the probability itself.
        judge: Version of an external judge; empty for the world's own heads.
        judge_rates: How often that judge, or the world's own heads, were right elsewhere, by policy group, to correct their
            rates with; when they change, the ranking does and no rollout.
        episodes: Length of the triage block; None leaves it to the allocator.
        steps: Actions after which episodes end, in the world and in others, usually as far as the world is valid; None plays
            them to their end.
        width: Rollouts in a batch.
        policies_per_batch: How many policies may share a batch, and so how many a process holds in memory.
        workers: Processes that roll out.
        timeout_s: How long a policy may take to load or to give one action before it counts as hung.
        isolate: Every policy gets worker processes and batches of its own, not only those whose `Ref` asks for it.

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
    epsilon: float = 0.0
    threshold: float | None = 0.5
    judge: str = ""
    judge_rates: tuple[JudgeRates, ...] = ()
    episodes: int | None = None
    steps: int | None = None
    width: int = 64
    policies_per_batch: int = 32
    workers: int = 1
    timeout_s: float = 300.0
    isolate: bool = False

    def __post_init__(self) -> None:
        policies = (
            tuple(dataclasses.replace(p, isolated=True) for p in self.policies) if self.isolate else self.policies
        )
        object.__setattr__(self, "policies", tuple(policies))
        object.__setattr__(self, "judge_rates", tuple(self.judge_rates))
        names = [p.name for p in self.policies]
        repeated = sorted({n for n in names if names.count(n) > 1}) if len(set(names)) < len(names) else []
        if not names or repeated:
            raise InvalidInputError(
                f"Triage needs at least one policy, each with a name of its own; got {len(names)} with the repeated "
                f"names {repeated[:5]}. Rename or drop the repeated ones."
            )
        if not 1 <= self.k <= len(names):
            raise InvalidInputError(f"k must lie in 1..{len(names)}, the number of policies; got {self.k}.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise InvalidInputError(f"{name} must lie in {low}..{high}; got {value}.")
        if not (0 <= self.audit < 1 and 0 < self.confidence < 1 and 0 < self.timeout_s <= MAX_TIMEOUT_S):
            raise InvalidInputError(
                f"audit must lie in [0, 1), confidence in (0, 1) and timeout_s in 0..{MAX_TIMEOUT_S:g}, above 0; got "
                f"{self.audit}, {self.confidence} and {self.timeout_s}."
            )
        _require_printable("judge", self.judge)
        WorldJudge(threshold=self.threshold)

    @property
    def finalists(self) -> int:
        """How many policies are audited."""
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
        needed = self.make_allocator().table_size(len(self.policies))
        return needed if self.episodes is None else min(needed, self.episodes)

    def make_allocator(self) -> AnyAllocator:
        """Build the rule that spends the triage budget."""
        return make_allocator(
            self.allocator,
            k=self.k,
            budget=self.triage_budget,
            alpha=1 - self.confidence,
            epsilon=self.epsilon,
            seed=self.seed,
        )


def _require_printable(name: str, value: str) -> None:
    """Refuse what the database of a run cannot hold; JSON can write lone surrogates."""
    if not value.isprintable():
        raise InvalidInputError(f"{name} must be printable text; got {value!a}.")


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
    found = [
        f"{what}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" for what, names in groups.items() if names
    ]
    if not found and [p.name for p in before] != [p.name for p in after]:
        found.append("policies: the same, in another order")
    return found


def _short(value: object) -> str:
    return f"{value.name} ({value.digest[:12]})" if isinstance(value, Ref) else repr(value)
