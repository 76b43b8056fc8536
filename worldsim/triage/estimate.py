"""Estimates what a triage run will cost and which differences it can resolve, before it is started.

The time comes from a few steps, the gap from the worst case of the binomial distribution.
"""

import dataclasses
import math
from collections.abc import Mapping

from scipy import special

from worldsim.protocols import Startable
from worldsim.rollout.wrappers import ShortWorld
from worldsim.triage.allocate import SequentialHalving, Uniform
from worldsim.triage.engine.batches import compose
from worldsim.triage.engine.plan import WORLD, Plan
from worldsim.triage.engine.replay import scope_of
from worldsim.triage.engine.rollouts import JudgeLoader, Loaders, PolicyLoader, WorldLoader
from worldsim.triage.engine.workers import Workers
from worldsim.triage.request import TriageRequest

_STEPS = 8
_SHOWN = 10
_ONCE = "once"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """Cost and power of a run.

    Attributes:
        policies: How many are ranked.
        rollouts: Rollouts in the world at most, audit included.
        batches: Batches these come to.
        seconds: Wall-clock time, loading aside.
        episodes: Episodes that each of the finalists will have seen.
        distinct_starts: Different starts among the triage episodes.
        failing: What policies fail with when they are loaded and act once, by name: they will take no part.
        gap: Difference in success rate that the finalists' episodes put in the right order with the run's confidence,
            between two policies near one half whose outcomes are independent. Shared starts and noise make it smaller.
    """

    policies: int
    rollouts: int
    batches: int
    seconds: float
    episodes: int
    distinct_starts: int
    gap: float
    failing: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        time_text = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        shown = [f"{name} {reason.rstrip('.')}" for name, reason in list(self.failing.items())[:_SHOWN]]
        more = f" and {len(self.failing) - _SHOWN} more" if len(self.failing) > _SHOWN else ""
        failing = f"\nWill fail: {'; '.join(shown)}{more}." if shown else ""
        return (
            f"{self.policies} policies, at most {self.rollouts} rollouts in {self.batches} batches, about {time_text}. "
            f"Finalists see {self.episodes} episodes from {self.distinct_starts} starts: a gap of "
            f"{100 * self.gap:.1f} points in success is put in the right order.{failing}"
        )


def forecast(
    request: TriageRequest,
    *,
    load_world: WorldLoader,
    load_policy: PolicyLoader,
    load_judge: JudgeLoader | None = None,
) -> Forecast:
    """Work out what a run will cost.

    Loads the world, the judge and every policy, lets each policy act once to see whether it can, and takes a few steps
    with those of the first batch to learn how fast they are.

    Args:
        request: The run.
        load_world: As for the run.
        load_policy: As for the run.
        load_judge: As for the run.

    Raises:
        InvalidInputError: The request cannot be met.
    """
    one = dataclasses.replace(request, workers=1)
    loaders = Loaders(world=load_world, policy=load_policy, judge=load_judge, arenas={_ONCE: _end_early})
    with Workers(one, loaders=loaders) as workers:
        plan = Plan(request=request, world=workers.describe(WORLD))
        failing = _try_once(workers, plan)
        batch_s = _batch_s(workers, plan)
    batches, episodes = _batches(request), _final_episodes(request)
    return Forecast(
        policies=len(request.policies),
        rollouts=request.budget,
        batches=batches,
        seconds=batch_s * batches / request.workers,
        episodes=episodes,
        distinct_starts=plan.triage.distinct_starts,
        failing=failing,
        gap=float(special.ndtri(request.confidence)) * math.sqrt(0.5 / max(episodes, 1)),
    )


def _end_early(world: Startable) -> Startable:
    """The same world with episodes of one step."""
    return ShortWorld(world, horizon=world.spec.actions_per_step)


def _try_once(workers: Workers, plan: Plan) -> dict[str, str]:
    """Load every policy and let it act once: why those that fail do, by name."""
    request = plan.request
    batches = compose(
        [(policy, 0) for policy in range(len(request.policies))],
        scope=dataclasses.replace(scope_of(plan), kind=_ONCE),
        block=plan.triage,
        width=request.width,
        policies_per_batch=request.policies_per_batch,
    )
    crashes = {crash.policy: crash.reason for result in workers.run(batches) for crash in result.crashes}
    return {request.policies[policy].name: reason for policy, reason in sorted(crashes.items())}


def _batches(request: TriageRequest) -> int:
    """Count the batches, assuming that no policy crashes."""
    allocator, policies = request.make_allocator(), len(request.policies)
    parts = [min(request.triage_budget, request.triage_episodes * policies)]
    if isinstance(allocator, SequentialHalving):
        rounds, before = allocator.rounds(policies), 0
        parts = []
        for stage in rounds:
            parts.append(stage.policies * (min(stage.episodes, request.triage_episodes) - before))
            before = min(stage.episodes, request.triage_episodes)
    parts.append(request.audit_episodes * request.finalists)
    return sum(math.ceil(rows / request.width) for rows in parts)


def _final_episodes(request: TriageRequest) -> int:
    """Episodes per finalist; for allocators that decide as they go, what an even split would give."""
    fixed = isinstance(request.make_allocator(), SequentialHalving | Uniform)
    own = request.triage_episodes if fixed else request.triage_budget // len(request.policies)
    return own + request.audit_episodes


def _batch_s(workers: Workers, plan: Plan) -> float:
    """Time one batch takes: a short one, which warms up first, and as many further steps as the horizon has.

    What comes once a batch whatever its length, above all a judge, is in the short one.
    """
    request, block = plan.request, plan.triage
    each = max(1, math.ceil(request.width / len(request.policies)))
    pairs = [(p, e) for p in range(len(request.policies)) for e in range(min(each, len(block)))]
    batch = compose(
        pairs, scope=scope_of(plan), block=block, width=request.width, policies_per_batch=request.policies_per_batch
    )[0]
    steps = plan.steps // plan.world.actions_per_step
    _, once, longer = workers.time(batch, steps=(1, 1, 1 + _STEPS))
    return once + max(0.0, longer - once) / _STEPS * (steps - 1)
