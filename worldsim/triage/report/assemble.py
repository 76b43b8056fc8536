"""From what a run has learned to what a report shows.

The only file of the report that knows the inner life of a run (`worldsim.triage.engine.replay.Results`).
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from worldsim.stats.agreement import measure_agreement
from worldsim.stats.intervals import Interval, clopper_pearson, mean_sequence
from worldsim.triage.allocate import SequentialHalving
from worldsim.triage.engine.replay import Results
from worldsim.triage.ranking.evidence import Evidence
from worldsim.triage.report.data import Clip, Manifest, ReportData, RoundTrip, rounds_of
from worldsim.triage.report.judging import judging
from worldsim.triage.report.truth import Rate, Truth

TRUTH, ROUND_TRIP = "truth", "roundtrip"
"""Kinds of the arenas that a report knows: the ground truth, and the ground truth seen through the world's eyes."""


def from_results(
    results: Results,
    *,
    command: str,
    made: str,
    core_s: float | None = None,
    clips: Sequence[Clip] = (),
    settings: Mapping[str, str] | None = None,
    remarks: Sequence[str] = (),
) -> ReportData:
    """Gather what a report shows.

    Args:
        results: What the run has learned.
        command: As typed.
        made: Date and time, as text.
        core_s: Processor time of the whole run, in core-seconds.
        clips: Filmed episodes.
        settings: Further lines for the manifest.
        remarks: Further cautions, one sentence each.
    """
    request, plan = results.plan.request, results.plan
    unfinished = () if results.finished else ("The run is not finished: run the same command again to continue it.",)
    crashed = [_crashes(kind, len(found)) for kind, found in results.arena_failures.items() if found]
    return ReportData(
        ranking=results.ranking,
        world=request.world.name,
        task=plan.world.task,
        allocator=request.allocator,
        distinct_starts=plan.triage.distinct_starts,
        rounds=rounds_of(results.triage, _stops(results), audit=results.audit),
        truth=_truth(results),
        round_trip=_round_trip(results),
        clips=tuple(clips),
        manifest=_manifest(results, command, made, core_s, settings or {}),
        judging=judging(results.ranking, request),
        remarks=(*unfinished, *crashed, *remarks),
    )


def _crashes(kind: str, count: int) -> str:
    who = "1 policy" if count == 1 else f"{count} policies"
    return f"In the {kind} environment {who} crashed and could not be compared."


def _stops(results: Results) -> list[int]:
    """Episodes at which the rounds of the allocator end, where it has rounds."""
    allocator = results.plan.request.make_allocator()
    if not isinstance(allocator, SequentialHalving):
        return []
    stops = [r.episodes for r in allocator.rounds(results.triage.policies)]
    return [s for s in stops if s < results.triage.episodes]


def _truth(results: Results) -> Truth | None:
    """Compare with the ground truth, where the run has one with outcomes in it."""
    truth = results.arenas.get(TRUTH)
    if truth is None or not truth.rollouts:
        return None
    arena, request = results.plan.arena(TRUTH), results.plan.request
    world = results.triage if results.audit is None else results.triage.beside(results.audit)
    if arena.paired:
        world = results.triage.columns(truth.episodes)
    success, progress = (
        measure_agreement(
            getattr(truth, quantity),
            world=getattr(world, quantity),
            k=request.k,
            matched=arena.paired,
            quantity=quantity,
            alpha=1 - request.confidence,
        )
        for quantity in ("success", "progress")
    )
    return Truth.from_evidence(
        name=arena.world.name,
        world=world,
        truth=truth,
        success=success,
        progress=progress,
        matched=arena.paired,
        alpha=1 - request.confidence,
    )


def _round_trip(results: Results) -> tuple[RoundTrip, ...]:
    """Success on true frames beside success on encoded and decoded ones, over the episodes known to both."""
    direct, decoded = results.arenas.get(TRUTH), results.arenas.get(ROUND_TRIP)
    if direct is None or decoded is None:
        return ()
    stop, alpha = min(direct.episodes, decoded.episodes), 1 - results.plan.request.confidence
    direct, decoded = direct.columns(stop), decoded.columns(stop)
    both = direct.done & decoded.done
    direct, decoded = _only(direct, both), _only(decoded, both)
    low, high = mean_sequence((direct.success - decoded.success + 1) / 2, alpha=alpha)
    before, after = _measure(direct, alpha), _measure(decoded, alpha)
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


def _only(evidence: Evidence, known: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Evidence:
    return dataclasses.replace(
        evidence,
        success=np.where(known, evidence.success, np.nan),
        progress=np.where(known, evidence.progress, np.nan),
    )


def _measure(evidence: Evidence, alpha: float) -> list[Rate]:
    return Rate.of(
        evidence.wins, count=evidence.count, span=clopper_pearson(evidence.wins, evidence.count, alpha=alpha)
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
        "episode length": f"{plan.world.horizon} steps",
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
