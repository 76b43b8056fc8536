"""What the critic has learned: verifiable video tasks, gains by reward, verdicts on policies it never saw, cost and speed.

    python -m benchmarks.reason [--data data/push] [--rollouts data/rollouts] [--dreams data/dreams] [--out critics]

Trains what is not trained yet (see `benchmarks.reason_runs`), two seeds. Accuracies are of greedy replies to held-out items,
with Clopper-Pearson 95 % intervals, beside the same items shown with the frames of others. Gains by reward start from a
part-trained model of the supervised run itself; the control's reward is a coin. The judge is tried on policies that it did
not learn from, by twofold cross-fitting: temperature and bias come from the other half of the policies.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.reason_runs import Runs, manifest
from benchmarks.record import Figure, write
from worldsim.reason.calibrate import Judged, halves, judge_sources
from worldsim.reason.critic import ReasonCritic
from worldsim.reason.platt import Platt
from worldsim.reason.reel import Filmed
from worldsim.reason.sources import DatasetVideos, Joined, Listed, Source, Subset
from worldsim.reason.split import split
from worldsim.reason.trial import balanced_accuracy, calibration_error
from worldsim.reason.video import Video
from worldsim.triage.intervals import clopper_pearson
from worldsim.worlds import load_world

SEEDS = (0, 1)
REACH = {"arrow": 0.9, "puzzle": 0.85, "permanence": 0.85}
LEARNED = ("arrow", "puzzle")
"""Tasks that are learned by reward."""
CONTROL = ("puzzle", 0)
"""Task and seed that are rewarded by a coin too."""


def interval(share: float, count: float) -> tuple[float, float]:
    """Clopper-Pearson 95 % of a share."""
    low, high = clopper_pearson(round(share * count), round(count))
    return float(low), float(high)


def accuracies(found: dict[int, dict[str, Any]]) -> list[Figure]:
    """Held-out accuracy of every task after supervised training, each seed and the lesser of them."""
    figures = []
    for task, reach in REACH.items():
        values = []
        for seed, made in found.items():
            seen = made["figures"]
            low, high = interval(seen[f"accuracy/{task}"], seen[f"items/{task}"])
            values.append(seen[f"accuracy/{task}"])
            figures += [
                Figure(name=f"{task}: accuracy after SFT, seed {seed}", value=values[-1]),
                Figure(name=f"{task}: seed {seed}, 95 % interval, low", value=low),
                Figure(name=f"{task}: seed {seed}, 95 % interval, high", value=high),
                Figure(name=f"{task}: seed {seed}, with the frames of others", value=seen[f"blind/{task}"]),
            ]
        figures.append(Figure(name=f"{task}: accuracy after SFT, the lesser seed", value=min(values), reach=reach))
    return figures


def gains(found: dict[tuple[str, int], dict[str, Any]], *, what: str, wanted: bool) -> list[Figure]:
    """What learning by reward adds to its start, with the gap between the intervals of end and start."""
    figures = []
    for task in sorted({t for t, _ in found}):
        apart = []
        for seed in sorted(s for t, s in found if t == task):
            start, end = found[task, seed]["start_figures"], found[task, seed]["figures"]
            before, after = (
                (f[f"accuracy/{task}"], *interval(f[f"accuracy/{task}"], f[f"items/{task}"])) for f in (start, end)
            )
            apart.append(after[1] - before[2])
            figures += [
                Figure(name=f"{task}, {what}, seed {seed}: {when}{part}", value=value)
                for when, values in (("start", before), ("end", after))
                for part, value in zip(("", ", 95 % interval, low", ", 95 % interval, high"), values, strict=True)
            ]
        name = f"{task}, {what}: gap between the intervals of start and end"
        worst = min(apart) if wanted else max(apart)
        figures.append(Figure(name=name, value=worst, reach=0.0, order=">=" if wanted else "<="))
    return figures


def costs(
    tasks: dict[int, dict[str, Any]], arrow: dict[int, dict[str, Any]], grpo: dict[tuple[str, int], dict[str, Any]]
) -> list[Figure]:
    """Core-seconds of all trainings of a seed together, and of a step by reward."""
    whole = [
        sum(sum(made[seed]["core_seconds"].values()) for made in (tasks, arrow))
        + sum(grpo[task, seed]["core_seconds"]["reason-grpo"] for task in LEARNED)
        for seed in SEEDS
    ]
    step = max(made["core_seconds"]["reason-grpo"] / made["steps"] for made in grpo.values())
    name = "warm-up, SFT and GRPO, all trainings of a seed together, the dearer seed"
    return [
        Figure(name=name, value=max(whole), unit="core-s", reach=1200, order="<="),
        Figure(name="GRPO, a step of 64 replies, the dearest run", value=step, unit="core-s", reach=1.2, order="<="),
    ]


def held_out(runs: Runs) -> dict[str, Source]:
    """Videos of the policies that the judge did not learn from: simulator, dreams, and the simulator's seen by the world."""
    config = runs.judge()
    whole = [DatasetVideos(runs.rollouts), DatasetVideos(runs.dreams)]
    held = split(Joined(whole), by=config.items.by, share=config.items.share)[1].indices
    first = len(whole[0])
    simulator = Subset(whole[0], [i for i in held if i < first])
    dreams = Subset(whole[1], [i - first for i in held if i >= first])
    world = load_world("push")
    seen = [simulator.video(i) for i in range(len(simulator))]
    redrawn = Listed([redraw(v, world) for v in seen])
    return {"simulator": Listed(seen), "dreams": dreams, "encoded and decoded": redrawn}


def redraw(video: Video, world: Any) -> Video:
    """The same episode in the world's own drawing."""
    with torch.no_grad():
        frames = world.roundtrip(video.frames)
    return Video(frames=frames, provenance=video.provenance, success=video.success, progress=video.progress)


def cross_fitted(judged: Judged) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Probability of success [N] of each episode, calibrated on the policies of the other half."""
    first = halves(judged)
    logodds = judged.opinions.logodds.numpy()
    found = np.empty(len(logodds))
    for fit in (first, ~first):
        found[~fit] = Platt.fit(logodds[fit], judged.solved[fit])(logodds[~fit])
    return found


def judging(critic: ReasonCritic, sources: dict[str, Source]) -> list[Figure]:
    """Verdicts on held-out policies."""
    judged = judge_sources(critic, {k: sources[k] for k in ("simulator", "dreams")})
    redrawn = judge_sources(critic, {"redrawn": sources["encoded and decoded"]})
    probability, where = cross_fitted(judged), np.array(judged.sources)
    figures, accuracy = [], {}
    for name in ("simulator", "dreams"):
        rows = where == name
        p, y = probability[rows], judged.solved[rows]
        accuracy[name] = balanced_accuracy(p, y)
        low, high = balanced_interval(p, y)
        figures += [
            Figure(name=f"judge, {name}: balanced accuracy", value=accuracy[name], reach=0.9),
            Figure(name=f"judge, {name}: balanced accuracy, 95 % interval, low", value=low),
            Figure(name=f"judge, {name}: balanced accuracy, 95 % interval, high", value=high),
            Figure(
                name=f"judge, {name}: calibration error", value=calibration_error(p, y), reach=0.05, order="<="
            ),
            Figure(name=f"judge, {name}: episodes", value=float(rows.sum())),
        ]  # fmt: skip
    platt = Platt.fit(judged.opinions.logodds.numpy(), judged.solved)
    both = [
        balanced_accuracy(platt(o.opinions.logodds.numpy()[r]), o.solved[r])
        for o, r in ((judged, where == "simulator"), (redrawn, np.ones(len(redrawn.solved), bool)))
    ]
    return [
        *figures,
        Figure(name="judge, encoded and decoded: balanced accuracy", value=both[1]),
        Figure(name="judge, loss by encoding and decoding", value=both[0] - both[1], reach=0.03, order="<="),
    ]


def balanced_interval(p: Any, y: Any) -> tuple[float, float]:
    """95 % of a balanced accuracy: a bootstrap of 2,000 over episodes of either outcome."""
    draw = np.random.default_rng(0)
    hits = [(p[y] >= 0.5).astype(float), (p[~y] < 0.5).astype(float)]
    means = [h[draw.integers(len(h), size=(2000, len(h)))].mean(axis=1) for h in hits]
    low, high = np.quantile((means[0] + means[1]) / 2, [0.025, 0.975])
    return float(low), float(high)


def throughput(critic: ReasonCritic, *, frames: int = 8, batch: int = 16, calls: int = 12) -> float:
    """Clips judged per core-second: frames of 64x64 px in, calibrated success and progress out."""
    clips = [torch.randint(0, 255, (frames, 64, 64, 3), dtype=torch.uint8) for _ in range(batch)]
    least = float("inf")
    for _ in range(calls):
        began = time.process_time()
        critic.reel(Filmed(clips))
        least = min(least, time.process_time() - began)
    return batch / least


def main(
    data: Annotated[str, typer.Option(help="worldsim collect --env push --episodes 1800")] = "data/push",
    rollouts: Annotated[
        str, typer.Option(help="worldsim collect --env push --policies bank --episodes 1600")
    ] = "data/rollouts",
    dreams: Annotated[
        str, typer.Option(help="worldsim collect --world push --policies bank --episodes 1600")
    ] = "data/dreams",
    out: Annotated[Path, typer.Option(help="Where trainings lie, or will.")] = Path("critics"),
) -> None:
    """Train what is missing, measure, and write benchmarks/results/reason.json."""
    torch.set_num_threads(1)
    runs = Runs(data=data, rollouts=rollouts, dreams=dreams, out=out)
    tasks = {s: manifest(runs.tasks(s)) for s in SEEDS}
    arrow = {s: manifest(runs.arrow(s)) for s in SEEDS}
    grpo = {(t, s): manifest(runs.grpo(t, s)) for t in LEARNED for s in SEEDS}
    control = {CONTROL: manifest(runs.grpo(*CONTROL, control=True))}
    judge = manifest(runs.judge())
    critic = ReasonCritic.from_pretrained(Path(runs.judge().out) / "model")
    figures = [
        *accuracies(tasks),
        *gains(grpo, what="GRPO", wanted=True),
        *gains(control, what="a coin for a reward", wanted=False),
        *costs(tasks, arrow, grpo),
        Figure(name="judge: warm-up and SFT", value=sum(judge["core_seconds"].values()), unit="core-s"),
        *judging(critic, held_out(runs)),
        Figure(name="critic, batch 16, 8 frames 64x64", value=throughput(critic), unit="clips/core-s", reach=60),
    ]
    write("reason", figures=figures, seeds=SEEDS)


if __name__ == "__main__":
    typer.run(main)
