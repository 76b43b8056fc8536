"""The trainings behind `benchmarks.reason`, as configs: each is also a command of its own, which stands in CONTRIBUTING.

Running a command first, or the benchmark, comes to the same: a training that is done is not done again.
"""

import dataclasses
from pathlib import Path
from typing import Any

from worldsim import storage
from worldsim.train.loop import Watch
from worldsim.train.reason_grpo import TrainReasonGrpo, train_reason_grpo
from worldsim.train.reason_items import AskedItems
from worldsim.train.reason_sft import TrainReasonSft, train_reason_sft


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
        """Three tasks at once, supervised."""
        return TrainReasonSft(
            data=self.data,
            out=str(self.out / f"tasks_s{seed}"),
            items=AskedItems(glance=128),
            keep=(600, 800, 1000, 1200),
            seed=seed,
        )

    def arrow(self, seed: int) -> TrainReasonSft:
        """The arrow of time alone, over before it is learned: a start for learning it by reward."""
        return TrainReasonSft(
            data=self.data,
            out=str(self.out / f"arrow_s{seed}"),
            items=AskedItems(tasks=("arrow",)),
            steps=600,
            evaluate_every=0,
            seed=seed,
        )

    def grpo(self, task: str, seed: int, *, control: bool = False) -> TrainReasonGrpo:
        """A task by reward, from a part-trained start; the control's reward is a coin."""
        name = "control" if control else "grpo"
        arrow, puzzle = Path(self.arrow(seed).out) / "model", Path(self.tasks(seed).out) / "kept" / "600"
        return TrainReasonGrpo(
            data=self.data,
            out=str(self.out / f"{name}_{task}_s{seed}"),
            model=str(arrow if task == "arrow" else puzzle),
            items=AskedItems(tasks=(task,), exam=1024),
            steps=150,
            lr=1.2e-4,
            schedule="cosine",
            rewards=("random",) if control else ("accuracy", "format"),
            reward_weights=(1.0,) if control else (1.0, 0.1),
            evaluate_every=0,
            seed=seed,
        )

    def judge(self) -> TrainReasonSft:
        """Outcomes of the bank's checkpoints, in the simulator and in dreams; policies are held out."""
        return TrainReasonSft(
            data=(self.rollouts, self.dreams),
            out=str(self.out / "outcome"),
            items=AskedItems(tasks=("outcome",), by="policy", share=0.4),
            steps=700,
            fast=0.7,
            evaluate_every=0,
        )


def manifest(config: TrainReasonSft | TrainReasonGrpo, *, watch: Watch | None = None) -> dict[str, Any]:
    """What a training came to; it is done now if it was not."""
    if isinstance(config, TrainReasonSft):
        folder = train_reason_sft(config, watch=watch)
    else:
        folder = train_reason_grpo(config, watch=watch)
    found: dict[str, Any] = storage.read_json(folder / storage.MANIFEST)
    return found
