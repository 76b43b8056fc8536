"""What the critic has learned: verifiable video tasks, gains by reward, verdicts on policies it never saw, cost and speed.

    python -m benchmarks.reason [--data data/push] [--rollouts data/rollouts] [--dreams data/dreams] [--out critics]

Trains what is not trained yet (see `benchmarks.reason_runs`), two seeds. Accuracies are of greedy replies to held-out items,
with Clopper-Pearson 95 % intervals, beside the same items shown with the frames of others. Gains by reward start from an
intermediate checkpoint of the supervised run; the control gets random rewards for accuracy. The judge is tested on policies
that it was not trained on, by twofold cross-fitting: temperature and bias come from the other half of the policies; a small
supervised head that was trained on the same episodes is tested the same way.
"""

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.reason_head import train_head
from benchmarks.reason_judge import held_out, judging, learned_from
from benchmarks.reason_runs import HALF_LEARNED, Runs, manifest
from benchmarks.record import Figure, run, write
from worldsim.reason.critic import ReasonCritic
from worldsim.reason.frame_source import RecordedFrames
from worldsim.stats.intervals import clopper_pearson

SEEDS = (0, 1)
TASKS = ("arrow", "puzzle", "permanence")


def interval(share: float, count: float) -> tuple[float, float]:
    """Clopper-Pearson 95 % of a share."""
    low, high = clopper_pearson(round(share * count), round(count))
    return float(low), float(high)


def accuracies(found: dict[int, dict[str, Any]]) -> list[Figure]:
    """Held-out accuracy of every task after supervised training, each seed and the lower of them."""
    figures = []
    for task in TASKS:
        values = []
        for seed, made in found.items():
            measured = made["figures"]
            low, high = interval(measured[f"accuracy/{task}"], measured[f"items/{task}"])
            values.append(measured[f"accuracy/{task}"])
            figures += [
                Figure(name=f"{task}: accuracy after SFT, seed {seed}", value=values[-1]),
                Figure(name=f"{task}: seed {seed}, 95 % interval, low", value=low),
                Figure(name=f"{task}: seed {seed}, 95 % interval, high", value=high),
                Figure(name=f"{task}: seed {seed}, with the frames of others", value=measured[f"blind/{task}"]),
            ]
        figures.append(Figure(name=f"{task}: accuracy after SFT, the lower seed", value=min(values)))
    return figures


def gains(found: dict[tuple[str, int], dict[str, Any]], *, what: str, control: bool = False) -> list[Figure]:
    """What learning by reward adds to its start; a gain counts where the intervals of end and start are apart.

    A task counts where that is so for every seed; of a control, where it is so for any.
    """
    figures, gaps = [], {}
    for task in dict.fromkeys(t for t, _ in found):
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
        gaps[task] = max(apart) if control else min(apart)
        figures.append(Figure(name=f"{task}, {what}: gap between the intervals of start and end", value=gaps[task]))
    return [*figures, Figure(name=f"{what}: tasks that gain", value=float(sum(gap > 0 for gap in gaps.values())))]


def costs(tasks: dict[int, dict[str, Any]], grpo: dict[tuple[str, int], dict[str, Any]]) -> list[Figure]:
    """Core-seconds of all trainings of a seed together, and of a step by reward."""
    total = [
        sum(tasks[seed]["core_seconds"].values())
        + sum(grpo[t, seed]["core_seconds"]["reason-grpo"] for t in HALF_LEARNED)
        for seed in SEEDS
    ]
    step = max(made["core_seconds"]["reason-grpo"] / made["steps"] for made in grpo.values())
    name = "warm-up, SFT and GRPO, all trainings of a seed together, the costlier seed"
    return [
        Figure(name=name, value=max(total), unit="core-s"),
        Figure(name="GRPO, a step of 64 replies, the costliest run", value=step, unit="core-s"),
    ]


def throughput(critic: ReasonCritic, *, frames: int = 8, batch: int = 16, calls: int = 12) -> float:
    """Clips judged per core-second: frames of 64x64 px in, calibrated success and progress out."""
    clips = [torch.randint(0, 255, (frames, 64, 64, 3), dtype=torch.uint8) for _ in range(batch)]
    least = float("inf")
    for _ in range(calls):
        began = time.process_time()
        critic.judge(RecordedFrames(clips))
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
    out: Annotated[Path, typer.Option(help="Folder of the trainings.")] = Path("critics"),
) -> None:
    """Train what is missing, measure, and write benchmarks/results/reason.json."""
    torch.set_num_threads(1)
    runs = Runs(data=data, rollouts=rollouts, dreams=dreams, out=out)
    tasks = {s: manifest(runs.tasks(s)) for s in SEEDS}
    grpo = {(t, s): manifest(runs.grpo(t, s)) for t in HALF_LEARNED for s in SEEDS}
    control = {(t, s): manifest(runs.grpo(t, s, control=True)) for t in HALF_LEARNED for s in SEEDS}
    judge = manifest(runs.judge())
    critic = ReasonCritic.from_pretrained(Path(runs.judge().out) / "model")
    head, spent = train_head(learned_from(runs))
    figures = [
        *accuracies(tasks),
        *gains(grpo, what="GRPO"),
        *gains(control, what="random rewards", control=True),
        *costs(tasks, grpo),
        Figure(name="judge: warm-up and SFT", value=sum(judge["core_seconds"].values()), unit="core-s"),
        Figure(name="small head: training", value=spent, unit="core-s"),
        *judging(critic, head, held_out(runs)),
        Figure(name="critic, batch 16, 8 frames 64x64", value=throughput(critic), unit="clips/core-s"),
    ]
    write("reason", figures=figures, seeds=SEEDS)


if __name__ == "__main__":
    run(main)
