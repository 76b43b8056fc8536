"""One training loop for everything that is learned: AdamW, cosine schedule, checkpoints, exact resume.

The loss is a pure function of the step number, so a run that is killed and continued ends with the same weights as one
that was not.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from worldsim import storage
from worldsim.errors import StorageError, TrainingError
from worldsim.progress import Progress, silent

LossAt = Callable[[int], tuple[Tensor, dict[str, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        steps: Optimiser steps.
        batch: Windows (or frames) per step.
        lr: Peak learning rate; linear warm-up, then cosine to zero.
        warmup: Steps of warm-up.
        weight_decay: AdamW's decoupled decay.
        clip: Largest gradient norm.
        save_every_s: Wall-clock seconds between checkpoints.
    """

    steps: int = 1000
    batch: int = 128
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 1e-4
    clip: float = 1.0
    save_every_s: float = 20.0

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        return self.lr * min(1.0, (step + 1) / max(self.warmup, 1)) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def scale(steps: int, share: float) -> int:
    """A share of some steps, at least one."""
    return max(1, int(steps * share))


def shorten_schedule(schedule: Schedule, share: float) -> Schedule:
    """A schedule of a share of the steps, warm-up included; the same where that is 1."""
    if share == 1.0:
        return schedule
    return dataclasses.replace(schedule, steps=scale(schedule.steps, share), warmup=scale(schedule.warmup, share))


def fit(
    model: nn.Module, loss_at: LossAt, schedule: Schedule, *, folder: Path, stage: str, progress: Progress = silent
) -> float:
    """Train `model` in place, continuing from `folder` where a checkpoint lies.

    Args:
        model: What is trained; only parameters that require gradients move.
        loss_at: Loss and metrics of a step, a pure function of the step number and the weights.
        schedule: Steps, batch and learning rate.
        folder: Where the checkpoint and `metrics.jsonl` are kept.
        stage: Name for logs.
        progress: Called as it advances.

    Returns:
        Core-seconds spent in all, earlier runs included.

    Raises:
        TrainingError: The loss is not finite (the step is named; the last checkpoint stays).
        StorageError: The checkpoint belongs to another model, or cannot be written.
    """
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    step, spent = _resume(model, parameters, optimizer, folder / "checkpoint")
    started, saved = time.process_time(), time.monotonic()
    model.train()
    while step < schedule.steps:
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        loss, metrics = loss_at(step)
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"The loss of {stage} is {loss.item()} at step {step}. Lower the learning rate or look for bad episodes; "
                f"the last checkpoint is in {folder}."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters.values(), schedule.clip)
        optimizer.step()
        step += 1
        last = step == schedule.steps
        if last or step % 50 == 0:
            values = {"loss": float(loss.detach()), **metrics}
            _log(folder, stage, step, values)
            progress(stage, step, schedule.steps, values)
        if last or time.monotonic() - saved > schedule.save_every_s:
            _save(model, parameters, optimizer, folder / "checkpoint", step, spent + time.process_time() - started)
            saved = time.monotonic()
    model.eval()
    return spent + time.process_time() - started


def _save(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    path: Path,
    step: int,
    spent: float,
) -> None:
    """Write weights and optimiser state as one atomic folder."""
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    storage.save_folder(path, kind="checkpoint", config={"step": step, "core_seconds": spent}, tensors=tensors)


def _resume(
    model: nn.Module, parameters: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, path: Path
) -> tuple[int, float]:
    """Load the checkpoint, if there is one: the step it stands at and the core-seconds spent."""
    if not path.exists():
        return 0, 0.0
    config, tensors, _ = storage.load_folder(path, kind="checkpoint")
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    storage.load_weights(model, weights, source=path)
    for name, parameter in parameters.items():
        prefix = f"optimizer.{name}."
        state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not state:
            raise StorageError(
                f"{path} lacks the optimiser state of {name!r}. Delete the folder to train this stage again."
            )
        device = {k: v if k == "step" else v.to(parameter.device) for k, v in state.items()}
        optimizer.state[parameter] = device  # type: ignore[index]
    return int(config["step"]), float(config["core_seconds"])


def _log(folder: Path, stage: str, step: int, values: Mapping[str, float]) -> None:
    """Append one line to metrics.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("a", encoding="utf8") as file:
        file.write(json.dumps({"stage": stage, "step": step, **values}) + "\n")
