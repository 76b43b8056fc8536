"""Filming episodes of a finished run: they are rolled out again, frame by frame, in the world and in the truth.

Runs keep outcomes, not pictures; an episode repeats itself from its start and its key, so a few can be filmed
afterwards. Not for choosing them (`worldsim.triage.report.choose`) or for encoding video (`worldsim.video`).
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from worldsim.core import IMAGE, Rollout
from worldsim.protocols import require_drawable
from worldsim.triage.engine.batches import compose
from worldsim.triage.engine.bench import Bench, JudgeLoader, Loaders, PolicyLoader, WorldLoader, one_thread
from worldsim.triage.engine.plan import ArenaPlan
from worldsim.triage.engine.replay import TRUTH, WORLD, Results, arena_block, scope_of
from worldsim.triage.engine.roll import Roller
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.report.data import Clip
from worldsim.video import Frames

_LOG = logging.getLogger(__name__)
_ALIKE = 0.02  # a judge's probabilities differ by rounding where other episodes share its batch
Pair = tuple[int, int]


def film(
    results: Results,
    pairs: Sequence[Pair],
    *,
    load_world: WorldLoader,
    load_policy: PolicyLoader,
    load_truth: WorldLoader | None = None,
    load_judge: JudgeLoader | None = None,
) -> list[Clip]:
    """Film episodes of the triage block.

    Args:
        results: The run they belong to.
        pairs: (policy, episode) of rollouts that the run has finished.
        load_world: As given to the run.
        load_policy: As given to the run.
        load_truth: Loads the run's ``"truth"`` arena; used if that is paired. None films the world alone.
        load_judge: As given to the run. Without it, whether an episode of a judged run repeats itself is not checked.

    Returns:
        One clip per pair, in the order given; frames begin with the start. An episode that does not repeat what the run
        recorded, because its policy draws noise from elsewhere than its keys, is left out with a warning in the log.
    """
    worlds = {WORLD: load_world} | ({TRUTH: load_truth} if load_truth else {})
    bench = Bench(results.plan.request, loaders=Loaders(worlds=worlds, policy=load_policy, judge=load_judge))
    paired = [a for a in results.plan.arenas if a.kind == TRUTH and a.paired]
    world = _shoot(results, pairs, bench, results.triage, None)
    truth: dict[Pair, Frames] = {}
    if load_truth is not None and paired:
        there = results.arenas[TRUTH]
        known = [(p, e) for p, e in pairs if e < there.episodes and there.done[p, e]]
        truth = _shoot(results, known, bench, there, paired[0])
    rate_hz = bench.world(WORLD).spec.action.rate_hz
    return [_clip(results, pair, rate_hz, world[pair], truth.get(pair)) for pair in pairs if pair in world]


def _shoot(
    results: Results, pairs: Sequence[Pair], bench: Bench, recorded: Evidence, arena: ArenaPlan | None
) -> dict[Pair, Frames]:
    """Roll out again and decode; returns uint8 [T + 1, H, W, 3] by pair."""
    plan, scope = results.plan, scope_of(results.plan, arena)
    block = plan.triage if arena is None else arena_block(plan, arena)
    first, known = scope.first_of(), dict[Pair, Frames]()
    waves = compose(
        pairs, scope=scope, block=block, width=plan.request.width, policies_per_wave=plan.request.policies_per_wave
    )
    wanted = {(first[p], e): (p, e) for p, e in pairs}
    for wave in waves:
        roller = bench.roller(wave.kind)
        with one_thread():
            start, rollout = roller.film(wave)
            unknown = arena is None and bool(plan.request.judge) and roller.judge is None
            ended = None if unknown else _ended(roller, rollout, len(wave.slots))
            for row, slot in enumerate(wave.slots):
                policy, episode = wanted[slot.policy, slot.episode]
                if ended is not None and abs(ended[row] - float(recorded.success[policy, episode])) > _ALIKE:
                    _LOG.warning("Policy %d, episode %d ended differently when filmed; no clip.", policy, episode)
                    continue
                known[policy, episode] = _frames(
                    start[IMAGE][row], require_drawable(roller.world).decode(rollout.latent[row])
                )
    return known


def _ended(roller: Roller, rollout: Rollout, rows: int) -> list[float]:
    """Success of the filmed rows, as the run judged it."""
    if roller.judge is not None:
        verdict = roller.judge(rollout.rows(slice(rows)))
    else:
        verdict = roller.rule.read(rollout.success, rollout.progress)
    found: list[float] = verdict.success.tolist()
    return found


def _frames(first: Tensor, others: Tensor) -> Frames:
    frames: Frames = torch.cat([first[None].to(others.device), others]).cpu().numpy()
    return frames


def _clip(results: Results, pair: Pair, rate_hz: float, world: Frames, truth: Frames | None) -> Clip:
    real = results.arenas.get(TRUTH)
    return Clip(
        policy=pair[0],
        episode=pair[1],
        rate_hz=rate_hz,
        world=world,
        world_success=float(results.triage.success[pair]),
        world_progress=float(results.triage.progress[pair]),
        truth=truth,
        truth_success=float(real.success[pair]) if truth is not None and real is not None else None,
        truth_progress=float(real.progress[pair]) if truth is not None and real is not None else None,
    )
