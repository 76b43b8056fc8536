"""A realistic triage run of 24 checkpoints, made of seeded numbers and drawn frames."""

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray

from worldsim.triage.allocate import SequentialHalving
from worldsim.triage.ranking.evidence import Evidence, Outcome
from worldsim.triage.ranking.measured import measure
from worldsim.triage.ranking.posterior import order
from worldsim.triage.ranking.ranking import Ranking
from worldsim.triage.report import Clip, Manifest, ReportData, RoundTrip, choose, compare_with_truth
from worldsim.triage.report.assemble import split_rounds
from worldsim.video import Frames

K, N, AUDIT = 5, 400, 120


def names() -> list[str]:
    runs = [(run, step) for run in ("bc_small", "bc_large") for step in range(10, 130, 10)]
    return [f"outputs/train/{run}/checkpoints/{step:06d}/pretrained_model" for run, step in runs]


def outcomes(generator: np.random.Generator, *, bias: float = 0.03) -> tuple[NDArray, NDArray, NDArray]:
    """Success in world and truth [24, N + AUDIT] on the same episodes, and progress in the world."""
    count = len(names())
    rate = np.concatenate([np.linspace(0.05, 0.72, 12), np.linspace(0.12, 0.93, 12)]) + generator.normal(0, 0.03, count)
    hard = generator.normal(size=(count, N + AUDIT))
    threshold = np.quantile(hard, np.clip(rate, 0.02, 0.97), axis=None)[:, None]
    truth = hard < threshold
    world = hard + generator.normal(0, 0.25, hard.shape) < threshold + bias * 3
    progress = np.clip(0.55 + 0.35 * world - 0.12 * hard + generator.normal(0, 0.05, hard.shape), 0, 1)
    return world.astype(float), truth.astype(float), progress


def spend(world: NDArray, progress: NDArray, *, crashed: int) -> tuple[Evidence, SequentialHalving]:
    """Let sequential halving spend 4,000 rollouts; one policy crashes."""
    allocator = SequentialHalving(k=K, budget=4000)
    evidence = Evidence.empty(len(world), episodes=allocator.table_size(len(world)))
    while pairs := allocator.next(evidence, 10**6):
        if not evidence.failed[crashed] and evidence.rollouts:
            evidence = evidence.fail(crashed)
            continue
        evidence = evidence.add(
            Outcome(policy=p, episode=e, success=world[p, e], progress=progress[p, e]) for p, e in pairs[:480]
        )
    return evidence, allocator


def frames(seed: int, *, end: float, length: int = 51) -> Frames:
    """A red T on its way to a green disc, 64x64; `end` is the distance it is left at, px."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:64, :64].astype(float)
    side = generator.uniform(0, 2 * np.pi)
    film = np.full((length, 64, 64, 3), 214, np.uint8)
    for t in range(length):
        away = end + (22 - end) * max(0.0, 1 - t / 38)
        turn = side + 0.02 * t
        u = np.cos(turn) * (x - 32 - away * np.cos(side)) + np.sin(turn) * (y - 32 - away * np.sin(side))
        v = -np.sin(turn) * (x - 32 - away * np.cos(side)) + np.cos(turn) * (y - 32 - away * np.sin(side))
        film[t][np.hypot(x - 32, y - 32) < 4.4] = (89, 184, 97)
        film[t][((abs(u) < 6) & (abs(v + 3) < 2)) | ((abs(u) < 2) & (v > -2) & (v < 6))] = (204, 51, 43)
        film[t][np.hypot(x - 32 - (away + 9) * np.cos(side), y - 32 - (away + 9) * np.sin(side)) < 2] = (33, 77, 204)
    return film


@pytest.fixture(scope="session")
def sample() -> ReportData:
    generator = np.random.default_rng(0)
    world, real, progress = outcomes(generator)
    crashed = 7
    triage, allocator = spend(world, progress, crashed=crashed)
    finalists = [int(i) for i in order(triage)[: K + 3]]
    fresh = np.full((len(world), AUDIT), np.nan)
    fresh[finalists] = world[finalists, N:]
    audit = Evidence(success=fresh, progress=np.where(np.isnan(fresh), np.nan, progress[:, N:]), failed=triage.failed)
    real[crashed] = np.nan
    truth = Evidence(
        success=real[:, :N], progress=np.clip(real[:, :N] * 0.3 + progress[:, :N] * 0.7, 0, 1), failed=triage.failed
    )
    seen = dataclasses.replace(truth, success=world[:, :N], progress=progress[:, :N])
    ranking = Ranking.from_evidence(
        triage,
        names=names(),
        k=K,
        audit=audit,
        failures={crashed: "raised RuntimeError: size mismatch for head.weight"},
    )
    picked = choose(ranking, world=seen, truth=truth, each=3)
    clips = tuple(
        Clip(
            policy=p,
            episode=e,
            rate_hz=10.0,
            world=frames(e, end=1.0 if seen.success[p, e] else 12.0),
            world_success=float(seen.success[p, e]),
            world_progress=float(seen.progress[p, e]),
            truth=frames(e, end=2.0 if truth.success[p, e] else 10.0),
            truth_success=float(truth.success[p, e]),
            truth_progress=float(truth.progress[p, e]),
        )
        for p, e in picked
    )
    return ReportData(
        ranking=ranking,
        world="push-layers",
        task="Push the T-shaped block onto the green disc.",
        allocator="halving",
        distinct_starts=320,
        rounds=split_rounds(triage, [r.episodes for r in allocator.rounds(len(world))], audit=audit),
        truth=compare_with_truth("worldsim/Push-v0", world=seen, truth=truth, k=K, matched=True, draws=200),
        round_trip=round_trips(ranking, real),
        clips=clips,
        manifest=Manifest(
            command="worldsim triage --k 5 --budget 4000 --out runs/push",
            made="2026-11-21 08:00 UTC",
            core_s=93.4,
            digests={"ranking": ranking.digest, "world": "5f" * 32},
            seeds={"episode table": 0},
            versions={"worldsim": "0.1.0", "python": "3.12.4", "torch": "2.11.0"},
            settings={"judge": "world-heads-1/end/0.5", "budget": "4000 rollouts, of which 960 for the audit"},
        ),
    )


def round_trips(ranking: Ranking, real: NDArray) -> tuple[RoundTrip, ...]:
    rows = []
    for line in ranking.top:
        own = real[line.policy, :100]
        decoded = own.copy()
        decoded[np.flatnonzero(own)[:3]] = 0
        table = np.stack([own, decoded])
        both = measure(Evidence(success=table, progress=table, failed=np.zeros(2, dtype=bool)), alpha=0.05)
        rows.append(RoundTrip(policy=line.policy, direct=both[0], decoded=both[1]))
    return tuple(rows)


@pytest.fixture(scope="session")
def hostile(sample: ReportData) -> ReportData:
    """Names and texts that try to break the page."""
    bad = [
        "<script>window.pwned=1</script>",
        '"><img src=http://example.invalid/x onerror="window.pwned=1">',
        "a" * 600,
        "/".join(["very-long-folder-name-without-any-reason"] * 12),
        "price $x_1^2$ {{ 7*7 }} {% raw %}",
        "\u202eright to left\x00\x07\udcff",
        "模型/检查点",
        "</style></title><script>window.pwned=1</script>",
    ]
    lines = tuple(
        dataclasses.replace(p, name=f"{bad[i % len(bad)]}{i // len(bad) or ''}", failed=p.failed and bad[0] + bad[2])
        for i, p in enumerate(sample.ranking.policies)
    )
    manifest = Manifest(
        command="worldsim triage " + bad[7], made=bad[0], settings={bad[0]: bad[2]}, digests={bad[1]: "0"}
    )
    return dataclasses.replace(
        sample,
        ranking=dataclasses.replace(sample.ranking, policies=lines),
        world=bad[0],
        task=bad[1] + bad[2],
        manifest=manifest,
        remarks=(bad[0], bad[2]),
        clips=sample.clips[:2],
    )
