"""What the critic's benchmark counts as a gain, how it draws intervals, and its baseline."""

import numpy as np
import pytest
import torch

from benchmarks.reason import gains
from benchmarks.reason_head import FRAMES, logodds, train_head
from benchmarks.reason_judge import bootstrap, right
from benchmarks.reason_runs import HALF_LEARNED, Runs
from worldsim.reason.calibration.metrics import balanced_accuracy
from worldsim.reason.items.sources import VideoList
from worldsim.reason.items.video import Provenance, Video


def run(before, after, *, task="puzzle", items=1024.0):
    return {
        "start_figures": {f"accuracy/{task}": before, f"items/{task}": items},
        "figures": {f"accuracy/{task}": after, f"items/{task}": items},
    }


def counted(figures):
    return next(f for f in figures if f.name.endswith("tasks that gain"))


def test_a_task_gains_where_the_intervals_of_both_seeds_are_apart():
    both = {("puzzle", 0): run(0.7, 0.9), ("puzzle", 1): run(0.9, 0.98)}
    one = {("puzzle", 0): run(0.7, 0.9), ("puzzle", 1): run(0.9, 0.91)}
    assert counted(gains(both, what="GRPO")).value == 1
    assert counted(gains(one, what="GRPO")).value == 0
    pair = {**both, ("permanence", 0): run(0.7, 0.9, task="permanence")}
    assert counted(gains(pair, what="GRPO")).value == 2


def test_a_control_fails_as_soon_as_one_seed_gains():
    found = {("puzzle", 0): run(0.7, 0.9), ("puzzle", 1): run(0.9, 0.5)}
    assert counted(gains(found, what="random", control=True)).value == 1
    assert counted(gains({("puzzle", 1): run(0.9, 0.5)}, what="random", control=True)).value == 0


def test_starts_by_reward_are_models_that_the_supervised_run_keeps():
    runs = Runs()
    for task, seed in [(t, s) for t, steps in HALF_LEARNED.items() for s in steps]:
        assert HALF_LEARNED[task][seed] in runs.tasks(seed).keep
        assert runs.grpo(task, seed).model == f"{runs.tasks(seed).out}/kept/{HALF_LEARNED[task][seed]}"
        assert runs.grpo(task, seed, control=True).model == runs.grpo(task, seed).model


def test_the_bootstrap_is_of_the_balanced_accuracy():
    draw = np.random.default_rng(0)
    y = np.arange(400) < 300
    p = np.where(y, draw.random(400) < 0.9, draw.random(400) < 0.3).astype(float)
    low, high = bootstrap(right(p, y), y)
    assert low < balanced_accuracy(p, y) < high
    assert 0.05 < high - low < 0.12  # two standard errors either way: sqrt(.09 / 300 + .21 / 100) / 2 = .0245


def episode(number, *, solved):
    """A blue square that comes in from the left, and stays left where the task is not solved."""
    frames = torch.randint(90, 110, (12, 64, 64, 3), generator=torch.Generator().manual_seed(number)).to(torch.uint8)
    for t in range(12):
        x = 2 + (4 * t if solved else t)
        frames[t, 20:36, x : x + 12] = torch.tensor([0, 0, 255], dtype=torch.uint8)
    return Video(
        frames=frames,
        provenance=Provenance(kind="simulator", episode=str(number)),
        progress=torch.linspace(0, 1.0 if solved else 0.2, 12),
        success=float(solved),
    )


def test_the_baseline_learns_what_frames_show(monkeypatch):
    monkeypatch.setattr("benchmarks.reason_head.STEPS", 40)
    monkeypatch.setattr("benchmarks.reason_head.BATCH", 16)
    learned = VideoList([episode(i, solved=i % 2 == 0) for i in range(24)])
    other = VideoList([episode(100 + i, solved=i % 3 == 0) for i in range(12)])
    head, spent = train_head(learned)
    assert spent > 0 and FRAMES == 8
    assert [o > 0 for o in logodds(head, other)] == [i % 3 == 0 for i in range(12)]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_baseline_is_the_same_for_the_same_seed(monkeypatch, seed):
    monkeypatch.setattr("benchmarks.reason_head.STEPS", 3)
    videos = VideoList([episode(i, solved=i % 2 == 0) for i in range(6)])
    first, again = (logodds(train_head(videos, seed=seed)[0], videos) for _ in range(2))
    assert np.array_equal(first, again)
