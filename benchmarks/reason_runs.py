"""The trainings behind `benchmarks.reason`, as configs: each is also a command of its own, which stands in CONTRIBUTING.

Running a command first, or the benchmark, comes to the same: a training that is done is not done again.
"""

import dataclasses
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.progress import Progress, silent
from worldsim.reason.train.grpo import TrainReasonGrpo, train_reason_grpo
from worldsim.reason.train.items import ItemsConfig
from worldsim.reason.train.sft import TrainReasonSft, train_reason_sft

HALF_LEARNED = {"puzzle": {0: 350, 1: 350}, "arrow": {0: 1400, 1: 1200}}
"""Intermediate steps of the supervised run of each seed at which a task is half learned."""
STEPS = {"puzzle": 150, "arrow": 500}
"""Of learning a task by reward."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Runs:
    """Where data lies and results go.

    Attributes:
        data: Episodes of the push task with true states.
        rollouts: Episodes of the shipped bank in the simulator.
        dreams: The same in the shipped world.
        out: Folder of all trainings.
    """

    data: str = "data/push"
    rollouts: str = "data/rollouts"
    dreams: str = "data/dreams"
    out: Path = Path("critics")

    def tasks(self, seed: int) -> TrainReasonSft:
        """Three tasks at once, supervised; intermediate checkpoints are kept."""
        return TrainReasonSft(
            data=self.data,
            out=str(self.out / f"tasks_s{seed}"),
            items=ItemsConfig(quick_eval=128),
            keep=tuple(sorted({step for steps in HALF_LEARNED.values() for step in steps.values()})),
            seed=seed,
        )

    def grpo(self, task: str, seed: int, *, control: bool = False) -> TrainReasonGrpo:
        """A task by reward, from an intermediate SFT checkpoint; the control replaces the accuracy reward by a random one."""
        name = "control" if control else "grpo"
        return TrainReasonGrpo(
            data=self.data,
            out=str(self.out / f"{name}_{task}_s{seed}"),
            model=str(Path(self.tasks(seed).out) / "kept" / str(HALF_LEARNED[task][seed])),
            items=ItemsConfig(tasks=(task,), final_eval=1024),
            steps=STEPS[task],
            lr=2e-4,
            schedule="cosine",
            tower="freeze",
            rewards=("random" if control else "accuracy", "format"),
            evaluate_every=0,
            seed=seed,
        )

    def judge(self) -> TrainReasonSft:
        """Outcomes of the bank's checkpoints, in the simulator and in dreams; policies are held out."""
        return TrainReasonSft(
            data=(self.rollouts, self.dreams),
            out=str(self.out / "outcome"),
            items=ItemsConfig(tasks=("outcome",), by="policy", share=0.4),
            steps=700,
            fast=0.7,
            evaluate_every=0,
        )


def manifest(config: TrainReasonSft | TrainReasonGrpo, *, progress: Progress = silent) -> dict[str, Any]:
    """What a training came to; it is done now if it was not."""
    if isinstance(config, TrainReasonSft):
        folder = train_reason_sft(config, progress=progress)
    else:
        folder = train_reason_grpo(config, progress=progress)
    found: dict[str, Any] = storage.read_json(folder / storage.MANIFEST)
    return found
