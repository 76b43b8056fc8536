"""Films episodes of a finished run: they are rolled out again in a worker and drawn, in the world and in the truth.

Runs keep outcomes, not pictures; an episode repeats itself from its start and its key, so a few can be filmed
afterwards.
"""

import dataclasses
import logging
from collections.abc import Sequence

from worldsim.rollout.episodes import TRIAGE
from worldsim.triage.engine.batches import compose
from worldsim.triage.engine.measures import FilmedRow
from worldsim.triage.engine.plan import TRUTH, ArenaPlan
from worldsim.triage.engine.replay import Results, arena_block, scope_of
from worldsim.triage.engine.rollouts import ArenaLoader, JudgeLoader, Loaders, PolicyLoader, WorldLoader
from worldsim.triage.engine.workers import Workers
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.report.data import Clip

_LOG = logging.getLogger(__name__)
_TOLERANCE = 0.02  # a judge's probabilities differ by rounding where other episodes share its batch
Pair = tuple[int, int]


def film(
    results: Results,
    pairs: Sequence[Pair],
    *,
    load_world: WorldLoader,
    load_policy: PolicyLoader,
    load_truth: ArenaLoader | None = None,
    load_judge: JudgeLoader | None = None,
) -> list[Clip]:
    """Film episodes of the triage block.

    Args:
        results: The run they belong to.
        pairs: (policy, episode) of rollouts that the run has finished.
        load_world: As given to the run.
        load_policy: As given to the run.
        load_truth: Builds the run's ``"truth"`` arena; used if that is paired. None films the world alone.
        load_judge: As given to the run. Without it, whether an episode of a judged run repeats itself is not checked.

    Returns:
        One clip per pair, in the order given; frames begin with the start. An episode that does not repeat what the run
        recorded, because its policy draws noise from elsewhere than its keys, is left out with a warning in the log.
    """
    arenas = {TRUTH: load_truth} if load_truth else {}
    request = dataclasses.replace(results.plan.request, workers=1)
    paired = [a for a in results.plan.arenas if a.kind == TRUTH and a.paired]
    truth: dict[Pair, FilmedRow] = {}
    loaders = Loaders(world=load_world, policy=load_policy, arenas=arenas, judge=load_judge)
    with Workers(request, loaders=loaders) as workers:
        world = _film_pairs(results, pairs, workers, results.triage, None)
        if load_truth is not None and paired:
            there = results.arenas[TRUTH]
            known = [(p, e) for p, e in pairs if e < there.episodes and there.done[p, e]]
            truth = _film_pairs(results, known, workers, there, paired[0])
    return [_clip(results, pair, world[pair], truth.get(pair)) for pair in pairs if pair in world]


def _film_pairs(
    results: Results, pairs: Sequence[Pair], workers: Workers, recorded: Evidence, arena: ArenaPlan | None
) -> dict[Pair, FilmedRow]:
    """Roll out again; keeps the episodes that end as they were recorded."""
    plan, scope = results.plan, scope_of(results.plan, arena)
    block = plan.triage if arena is None else arena_block(plan, arena)
    first, filmed = scope.first_of(), dict[Pair, FilmedRow]()
    batches = compose(
        pairs, scope=scope, block=block, width=plan.request.width, policies_per_batch=plan.request.policies_per_batch
    )
    wanted = {(first[p], e): (p, e) for p, e in pairs}
    for batch in batches:
        for row in workers.film(batch):
            slot = batch.slots[row.row]
            policy, episode = pair = wanted[slot.policy, slot.episode]
            if row.success is not None and abs(row.success - float(recorded.success[pair])) > _TOLERANCE:
                _LOG.warning("Policy %d, episode %d ended differently when filmed; no clip.", policy, episode)
                continue
            filmed[pair] = row
    return filmed


def _clip(results: Results, pair: Pair, world: FilmedRow, truth: FilmedRow | None) -> Clip:
    real = results.arenas.get(TRUTH)
    records = [r for r in results.rollouts.get(pair[0], ()) if (r.block, r.episode) == (TRIAGE, pair[1])]
    solved = [r.result.solved_at for r in records if r.result.solved_at > 0]
    return Clip(
        policy=pair[0],
        episode=pair[1],
        rate_hz=world.rate_hz,
        world=world.frames,
        world_success=float(results.triage.success[pair]),
        world_progress=float(results.triage.progress[pair]),
        solved_at=solved[0] if solved else None,
        closest_at=world.closest_at,
        at_limits=world.at_limits,
        world_moved_at=world.moved_at,
        truth_moved_at=None if truth is None else truth.moved_at,
        truth=None if truth is None else truth.frames,
        truth_success=float(real.success[pair]) if truth is not None and real is not None else None,
        truth_progress=float(real.progress[pair]) if truth is not None and real is not None else None,
    )
