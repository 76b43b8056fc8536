"""The judge on policies that it did not learn from, beside a small supervised head that learned from the same episodes.

Part of `benchmarks.reason`.

Shape legend: N judged episodes.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from benchmarks.reason_head import Head, logodds
from benchmarks.reason_runs import Runs
from benchmarks.record import Figure
from worldsim.arrays import Bools, Float64s
from worldsim.reason.calibration.fit import JudgedEpisodes, judge_sources, split_policies
from worldsim.reason.calibration.metrics import balanced_accuracy, calibration_error
from worldsim.reason.calibration.platt import Platt
from worldsim.reason.critic import ReasonCritic
from worldsim.reason.items.sources import DatasetVideos, JoinedSource, Source, SourceSubset, VideoList, split
from worldsim.reason.items.video import Video
from worldsim.worlds import load_world

KINDS = ("simulator", "dreams")
DRAWS = 2000
"""Of the bootstrap."""


def learned_from(runs: Runs) -> Source:
    """Videos of the policies that the judge learned from, simulator and dreams."""
    return split(_videos(runs), by=runs.judge().items.by, share=runs.judge().items.share)[0]


def held_out(runs: Runs) -> dict[str, Source]:
    """Videos of the other policies: simulator, dreams, and the simulator's as the world draws them."""
    videos = _videos(runs)
    held = split(videos, by=runs.judge().items.by, share=runs.judge().items.share)[1].indices
    first = len(DatasetVideos(runs.rollouts))
    real = [videos.video(i) for i in held if i < first]
    world = load_world("push")
    return {
        "simulator": VideoList(real),
        "dreams": SourceSubset(videos, [i for i in held if i >= first]),
        "redrawn": VideoList([redraw(v, world) for v in real]),
    }


def _videos(runs: Runs) -> JoinedSource:
    return JoinedSource([DatasetVideos(runs.rollouts), DatasetVideos(runs.dreams)])


def redraw(video: Video, world: Any) -> Video:
    """The same episode in the world's own drawing."""
    with torch.no_grad():
        frames = world.roundtrip(video.frames)
    return Video(frames=frames, provenance=video.provenance, success=video.success, progress=video.progress)


def judging(critic: ReasonCritic, head: Head, sources: dict[str, Source]) -> list[Figure]:
    """Verdicts of both on held-out policies, and the difference between them."""
    judged, redrawn = (judge_sources(critic, {k: sources[k] for k in names}) for names in (KINDS, ("redrawn",)))
    plain = [
        with_logodds(judged, np.concatenate([logodds(head, sources[k]) for k in KINDS])),
        with_logodds(redrawn, logodds(head, sources["redrawn"])),
    ]
    figures = [*verdicts("judge", judged, redrawn), *verdicts("small head", *plain)]
    mine, theirs = cross_fitted(judged), cross_fitted(plain[0])
    for name in KINDS:
        rows = np.array(judged.sources) == name
        y = judged.solved[rows]
        low, high = bootstrap(right(mine[rows], y) - right(theirs[rows], y), y)
        both = balanced_accuracy(mine[rows], y), balanced_accuracy(theirs[rows], y)
        about = f"judge minus small head, {name}: balanced accuracy"
        figures += [
            Figure(name=about, value=both[0] - both[1]),
            Figure(name=f"{about}, 95 % interval, low", value=low),
            Figure(name=f"{about}, 95 % interval, high (below 0: worse)", value=high),
        ]
    return figures


def with_logodds(judged: JudgedEpisodes, logodds_N: Float64s) -> JudgedEpisodes:
    """The same episodes with the log-odds of another judge."""
    return dataclasses.replace(
        judged, assessments=dataclasses.replace(judged.assessments, logodds=torch.from_numpy(logodds_N))
    )


def verdicts(who: str, judged: JudgedEpisodes, redrawn: JudgedEpisodes) -> list[Figure]:
    """Balanced accuracy and calibration in the simulator and in dreams, and what redrawing costs.

    Args:
        who: Begins the names.
        judged: Episodes of both kinds.
        redrawn: The simulator's in the world's own drawing.
    """
    probability, where = cross_fitted(judged), np.array(judged.sources)
    figures = []
    for name in KINDS:
        p, y = probability[where == name], judged.solved[where == name]
        low, high = bootstrap(right(p, y), y)
        accuracy, error = balanced_accuracy(p, y), calibration_error(p, y)
        figures += [
            Figure(name=f"{who}, {name}: balanced accuracy", value=accuracy),
            Figure(name=f"{who}, {name}: balanced accuracy, 95 % interval, low", value=low),
            Figure(name=f"{who}, {name}: balanced accuracy, 95 % interval, high", value=high),
            Figure(name=f"{who}, {name}: calibration error", value=error),
            Figure(name=f"{who}, {name}: episodes", value=float(len(y))),
        ]
    platt = Platt.fit(judged.assessments.logodds.numpy(), judged.solved)
    plain, drawn = (
        balanced_accuracy(platt(o.assessments.logodds.numpy()[rows]), o.solved[rows])
        for o, rows in ((judged, where == "simulator"), (redrawn, np.ones(len(redrawn.solved), bool)))
    )
    loss = plain - drawn
    return [
        *figures,
        Figure(name=f"{who}, encoded and decoded: balanced accuracy", value=drawn),
        Figure(name=f"{who}, loss by encoding and decoding", value=loss),
    ]


def cross_fitted(judged: JudgedEpisodes) -> Float64s:
    """Probability of success [N] of each episode, calibrated on the policies of the other half."""
    first = split_policies(judged)
    logodds_N = judged.assessments.logodds.numpy()
    found = np.empty(len(logodds_N))
    for fit in (first, ~first):
        found[~fit] = Platt.fit(logodds_N[fit], judged.solved[fit])(logodds_N[~fit])
    return found


def right(p: Float64s, y: Bools) -> Float64s:
    """1 where a verdict is right, else 0, [N]."""
    return ((p >= 0.5) == y).astype(np.float64)


def bootstrap(value: Float64s, y: Bools) -> tuple[float, float]:
    """95 % of the mean of two means, of solved and of unsolved episodes, resampled separately."""
    draw = np.random.default_rng(0)
    means = [v[draw.integers(len(v), size=(DRAWS, len(v)))].mean(axis=1) for v in (value[y], value[~y])]
    low, high = np.quantile((means[0] + means[1]) / 2, [0.025, 0.975])
    return float(low), float(high)
