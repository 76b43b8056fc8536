"""From the results of a run to what a report shows."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from worldsim.arrays import Bools, Int64s
from worldsim.stats.agreement import measure_agreement
from worldsim.stats.correlation import SOLVED
from worldsim.stats.intervals import Interval, mean_sequence
from worldsim.triage.allocate.allocators import SequentialHalving
from worldsim.triage.engine.replay import Results, average
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.ranking.measured import measure
from worldsim.triage.report.data import (
    Clip,
    ComparedPolicy,
    Manifest,
    MatchedEpisodes,
    ReportData,
    Round,
    RoundTrip,
    Truth,
)
from worldsim.triage.report.failures import group_failures
from worldsim.triage.report.words import describe_censoring, describe_judging
from worldsim.validity.validity import Validity

QUANTITIES: tuple[Literal["success", "progress"], ...] = ("success", "progress")
TRUTH, ROUND_TRIP = "truth", "roundtrip"
"""Kinds of the arenas that a report knows: the ground truth, and the ground truth on frames the world has coded."""


def assemble(
    results: Results,
    *,
    command: str,
    made: str,
    core_s: float | None = None,
    clips: Sequence[Clip] = (),
    settings: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
    validity: Validity | None = None,
) -> ReportData:
    """Gather what a report shows.

    Args:
        results: What the run has learned.
        command: As typed.
        made: Date and time, as text.
        core_s: Processor time of the run, in core-seconds.
        clips: Filmed episodes.
        settings: Further lines for the manifest.
        remarks: Further cautions, one sentence each.
        validity: What the world's manifest says of held-out episodes.
    """
    request, plan = results.plan.request, results.plan
    unfinished = () if results.finished else ("The run is not finished: run the same command again to continue it.",)
    chunked = _chunk_remark(plan.world.actions_per_step, len(results.acted_unseen), len(request.policies))
    crashed = [_crash_remark(kind, len(found)) for kind, found in results.arena_failures.items() if found]
    judging = (
        describe_judging(results.ranking, judge=request.judge, rates=request.judge_rates, confidence=request.confidence)
        if request.judge or request.judge_rates
        else ()
    )
    return ReportData(
        ranking=results.ranking,
        world=request.world.name,
        task=plan.world.task,
        allocator=request.allocator,
        distinct_starts=plan.triage.distinct_starts,
        rounds=split_rounds(results.triage, _round_ends(results), audit=results.audit),
        truth=_truth(results),
        round_trip=_round_trip(results),
        clips=tuple(clips),
        manifest=_manifest(results, command, made, core_s, settings or {}),
        judging=judging,
        playing=_playing(results, validity),
        remarks=(*unfinished, *chunked, *crashed, *remarks),
        validity=validity,
        failures=group_failures(results),
        at_limits=average(results.rollouts, lambda result: result.at_limits),
    )


def _playing(results: Results, validity: Validity | None) -> tuple[str, ...]:
    """How far episodes were played, where not to their end."""
    found, plan = results.ranking.censoring, results.plan
    if found is None:
        return ()
    valid = None if validity is None else validity.steps(plan.world.horizon, per_step=plan.world.actions_per_step)
    paired = any(a.kind == TRUTH and a.paired for a in plan.arenas)
    return describe_censoring(found, valid=valid if valid == found.steps else None, paired=paired)


def split_rounds(evidence: Evidence, ends: Sequence[int], *, audit: Evidence | None = None) -> tuple[Round, ...]:
    """Split the rollouts by the round that asked for them.

    Args:
        evidence: Triage outcomes.
        ends: Cumulative number of episodes at the end of each round, ascending; what lies beyond the last is one more.
        audit: Outcomes on the fresh episodes.
    """
    edges = [0, *ends] + ([evidence.episodes] if not ends or ends[-1] < evidence.episodes else [])
    counts = [evidence.done[:, a:b].sum(axis=1) for a, b in itertools.pairwise(edges)]
    found = [Round(label=f"round {i}", rollouts=_to_tuple(n)) for i, n in enumerate(counts, start=1) if n.any()]
    if audit is not None and audit.rollouts:
        found.append(Round(label="audit", rollouts=_to_tuple(audit.count), audit=True))
    return tuple(found)


def compare_with_truth(
    name: str, *, world: Evidence, truth: Evidence, k: int, matched: bool, alpha: float = 0.05, draws: int = 1000
) -> Truth:
    """Measure policies on both sides, and how well the sides agree.

    Args:
        name: What the truth is.
        world: Outcomes in the world, [K, N].
        truth: Outcomes of the same K policies in the truth, [K, M].
        k: How many best policies are asked for.
        matched: Column j is the same start and noise on both sides.
        alpha: Probability to miss of each interval.
        draws: Bootstrap draws of the agreement.

    Raises:
        InvalidInputError: The tables have different numbers of policies, or of matched episodes.
    """
    success, progress = (
        measure_agreement(
            getattr(truth, quantity),
            world=getattr(world, quantity),
            k=k,
            matched=matched,
            quantity=quantity,
            alpha=alpha,
            draws=draws,
        )
        for quantity in QUANTITIES
    )
    sides = zip(measure(world, alpha=alpha), measure(truth, alpha=alpha), strict=True)
    compared = [
        ComparedPolicy(policy=i, world=w, truth=t) for i, (w, t) in enumerate(sides) if w.rollouts and t.rollouts
    ]
    return Truth(
        name=name,
        policies=tuple(compared),
        success=success,
        progress=progress,
        episodes=_match_episodes(world, truth) if matched else None,
    )


def _match_episodes(world: Evidence, truth: Evidence) -> MatchedEpisodes:
    """Count matched episodes by outcome."""
    known = world.done & truth.done
    s, r = world.success[known] >= SOLVED, truth.success[known] >= SOLVED
    cells = {"both": s & r, "only_world": s & ~r, "only_truth": ~s & r, "neither": ~s & ~r}
    return MatchedEpisodes(**{name: int(cell.sum()) for name, cell in cells.items()})


def _chunk_remark(actions_per_step: int, acted_unseen: int, policies: int) -> tuple[str, ...]:
    """Say how many policies acted several times on one frame, where the world predicts several frames at once."""
    if not acted_unseen:
        return ()
    return (
        f"The world predicts {actions_per_step} frames at once and shows policies the last of them: {acted_unseen} of "
        f"{policies} policies do not plan in chunks as long and acted several times on each frame, which may cost them "
        "success.",
    )


def _crash_remark(kind: str, count: int) -> str:
    who = "1 policy" if count == 1 else f"{count} policies"
    return f"In the {kind} environment {who} crashed and could not be compared."


def _round_ends(results: Results) -> list[int]:
    """Episodes at which the rounds of the allocator end, where it has rounds."""
    allocator = results.plan.request.make_allocator()
    if not isinstance(allocator, SequentialHalving):
        return []
    ends = [r.episodes for r in allocator.rounds(results.triage.policies)]
    return [end for end in ends if end < results.triage.episodes]


def _truth(results: Results) -> Truth | None:
    """Compare with the ground truth, where the run has one with outcomes in it."""
    truth = results.arenas.get(TRUTH)
    if truth is None or not truth.rollouts:
        return None
    arena, request = results.plan.arena(TRUTH), results.plan.request
    world = results.triage if results.audit is None else results.triage.beside(results.audit)
    if arena.paired:
        world = results.triage.columns(truth.episodes)
    return compare_with_truth(
        arena.world.name, world=world, truth=truth, k=request.k, matched=arena.paired, alpha=1 - request.confidence
    )


def _round_trip(results: Results) -> tuple[RoundTrip, ...]:
    """Success on true frames beside success on encoded and decoded ones, over the episodes known to both."""
    direct, decoded = results.arenas.get(TRUTH), results.arenas.get(ROUND_TRIP)
    if direct is None or decoded is None:
        return ()
    stop, alpha = min(direct.episodes, decoded.episodes), 1 - results.plan.request.confidence
    direct, decoded = direct.columns(stop), decoded.columns(stop)
    both = direct.done & decoded.done
    direct, decoded = _keep(direct, both), _keep(decoded, both)
    low, high = mean_sequence((direct.success - decoded.success + 1) / 2, alpha=alpha)
    before, after = measure(direct, alpha=alpha), measure(decoded, alpha=alpha)
    ranked = [line.policy for line in results.ranking.policies if both[line.policy].any()]
    return tuple(
        RoundTrip(
            policy=i,
            direct=before[i],
            decoded=after[i],
            gap=Interval(2 * float(low[i]) - 1, 2 * float(high[i]) - 1),
        )
        for i in ranked
    )


def _keep(evidence: Evidence, known: Bools) -> Evidence:
    """Blank the cells that are not `known` [K, N]."""
    return dataclasses.replace(
        evidence,
        success=np.where(known, evidence.success, np.nan),
        progress=np.where(known, evidence.progress, np.nan),
    )


def _manifest(results: Results, command: str, made: str, core_s: float | None, settings: Mapping[str, str]) -> Manifest:
    plan, request = results.plan, results.plan.request
    digests = {
        "ranking": results.ranking.digest,
        "world": request.world.digest,
        "triage episodes": plan.triage.digest,
        "audit episodes": plan.audit.digest,
        **{f"{a.kind} environment": a.world.digest for a in plan.arenas},
        **{f"policy {p.name}": p.digest for p in request.policies},
    }
    fixed = {
        "world": request.world.source or request.world.name,
        "judge": plan.judge,
        "allocator": request.allocator,
        "budget": f"{request.budget} rollouts, of which {request.audit_episodes * request.finalists} for the audit",
        "episode length": f"{plan.world.horizon} steps"
        if plan.steps == plan.world.horizon
        else f"{plan.steps} of {plan.world.horizon} steps",
        "starts": f"{plan.triage.distinct_starts} in the triage, {plan.audit.distinct_starts} in the audit",
        "workers": str(request.workers),
        "batch": str(request.width),
    }
    return Manifest(
        command=command,
        made=made,
        core_s=core_s,
        digests=digests,
        seeds={"episode table": request.seed},
        versions=plan.versions,
        settings={**fixed, **settings},
    )


def _to_tuple(values: Int64s) -> tuple[int, ...]:
    return tuple(int(v) for v in values)
