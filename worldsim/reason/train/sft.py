"""`worldsim train reason-sft`: a critic learns to read frames off and to answer, from items with known answers.

From scratch: vision warm-up first. From a folder: as it is, with an adapter if wanted. The training is TRL's SFTTrainer;
items are rendered when they are needed, so nothing but checkpoints lies on disk. Not for learning by reward
(`worldsim.reason.train.grpo`).
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from worldsim import storage
from worldsim.compute import one_thread
from worldsim.errors import InvalidInputError, missing_extra, unknown_name
from worldsim.optimize import Schedule, Watch
from worldsim.reason.draw import Draw
from worldsim.reason.item import Item
from worldsim.reason.tiny import TinyConfig
from worldsim.reason.train.arguments import SCHEDULES, Adapter, Showing, arguments, checked, tower
from worldsim.reason.train.items import AskedItems, lessons
from worldsim.reason.train.loss import stressed, trainer_class
from worldsim.reason.train.own_items import OwnLessons, Taught, own_lessons
from worldsim.reason.train.run import Keep, Results, is_done, placed, results, trained
from worldsim.reason.train.warmup import default_schedule, warm_up
from worldsim.reason.vlm import VLM

TOWERS = ("auto", "train", "freeze")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainReasonSft:
    """Everything `train_reason_sft` is told.

    Attributes:
        data: Dataset folder (LeRobotDataset v3) or folder of video files, or several: ``data=[data/a,data/b]``. Items of
            one's own only note it.
        out: Folder of results; the model is in ``out/model``.
        model: Folder of a model to begin with; empty makes a tiny one.
        tiny: Sizes of the tiny one.
        size: Side of the frames a loaded model is shown, in pixels; a tiny one has its own.
        items: Which tasks.
        warm: Vision warm-up of a tiny model; ``warm.steps=0`` leaves it out.
        steps: Optimiser steps.
        batch: Items per step.
        lr: Peak learning rate, reached by a short linear warm-up.
        schedule: How it goes on: cosine to zero, or constant, for a model that is to be trained further.
        warmup: Steps of the linear warm-up.
        beta2: Of AdamW.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        tower: Whether the vision tower learns too: train, freeze, or auto, which freezes it after a warm-up of its own. What
            it learned there is then not undone by answers that are still guesses, and a step costs a quarter less.
        fast: Share of items learned with an empty think, so that answers without generation are good too.
        stress: Weight of the answer's tokens in the loss; those of the think and the tags weigh 1. A think has many tokens
            and an answer few, and what the answer has to do with the think is learned from the few alone.
        adapter: LoRA.
        evaluate_every: Steps between evaluations on held-out items; 0 for none before the end.
        save_every: Steps between checkpoints.
        keep: Steps whose models are kept as ``out/kept/STEP``, for example as starts of reason-grpo that have something left
            to learn.
        max_new_tokens: Longest reply in evaluations.
        bf16: Train in bfloat16 autocast.
        cpu: Stay on the CPU where there is an accelerator too.
        seed: Of weights and items.
        shown: How clips are shown: images or video; empty shows them as the model to begin with was shown them.

    Raises:
        InvalidInputError: A number is out of range.
        UnknownNameError: There is no such way to show frames.
    """

    data: str | tuple[str, ...]
    out: str
    model: str = ""
    tiny: TinyConfig = dataclasses.field(default_factory=TinyConfig)
    size: int = 64
    items: AskedItems = dataclasses.field(default_factory=AskedItems)
    warm: Schedule = dataclasses.field(default_factory=default_schedule)
    steps: int = 2200
    batch: int = 32
    lr: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: int = 30
    beta2: float = 0.98
    weight_decay: float = 0.01
    clip: float = 1.0
    tower: Literal["auto", "train", "freeze"] = "auto"
    fast: float = 0.0
    stress: float = 1.0
    adapter: Adapter = dataclasses.field(default_factory=Adapter)
    evaluate_every: int = 400
    save_every: int = 200
    keep: tuple[int, ...] = ()
    max_new_tokens: int = 32
    bf16: bool = False
    cpu: bool = True
    seed: int = 0
    shown: Showing = ""

    def __post_init__(self) -> None:
        checked(self.shown)
        if self.tower not in TOWERS:
            raise unknown_name("way to treat the tower", self.tower, TOWERS)
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.keep and (self.adapter.rank or not all(0 < step <= self.steps for step in self.keep)):
            raise InvalidInputError(f"keep takes steps in 1..{self.steps}, and no adapter beside it; got {self.keep}.")
        if self.stress <= 0:
            raise InvalidInputError(f"stress must be > 0; got {self.stress}.")
        if min(self.steps, self.batch, self.save_every) < 1 or not 0 <= self.fast <= 1 or self.evaluate_every < 0:
            raise InvalidInputError("steps, batch and save_every must be >= 1, evaluate_every >= 0, fast in 0..1.")


def train_reason_sft(
    config: TrainReasonSft, *, watch: Watch | None = None, items: Sequence[Item] | None = None
) -> Path:
    """Train a critic, continuing where an earlier run of the same command stopped.

    Args:
        config: What to do.
        watch: Progress callback.
        items: Items of one's own instead of tasks about `data`; as for `worldsim.reason.train.grpo.train_reason_grpo`.

    Returns:
        The model's folder, ``out/model``, with held-out figures and core-seconds in its manifest.

    Raises:
        MissingExtraError: trl, transformers or peft is not installed.
        StorageError: The data or the model cannot be read, or another run holds the folder.
        InvalidInputError: The data does not fit the tasks, or the folder belongs to another config.
        TrainingError: The loss diverged; the last checkpoint stays.
    """
    try:
        import trl  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "trl", "reason") from error
    out = Path(config.out)
    own = None if items is None else own_lessons(items, config.items, seed=config.seed)
    if is_done(out, config, own=own):
        return out / "model"
    size = config.size if config.model else config.tiny.size
    taught = own or lessons(config.data, config.items, size=size, seed=config.seed)
    with results(config.out, config, digest=_digest(config), own=own), one_thread(config.cpu):
        run = Results(
            folder=out,
            stage="reason-sft",
            items=taught.to_examine(config.items.glance),
            max_new_tokens=config.max_new_tokens,
            watch=watch,
        )
        vlm, warm = _begin(config, taught, out / ".training", watch)
        frozen = config.tower == "freeze" or (config.tower == "auto" and bool(warm))
        with tower(vlm, frozen=frozen):
            trained(
                lambda: _trainer(config, vlm, taught, run, blind=frozen),
                run,
                vlm,
                evaluate_every=config.evaluate_every,
                keep=Keep(steps=config.keep, manifest=_facts(config, taught, warm)),
            )
        facts = _facts(config, taught, warm)
        return run.finish(vlm, taught.to_examine(config.items.exam), facts, step=config.steps)


def _facts(config: TrainReasonSft, taught: Taught, warm: dict[str, float]) -> dict[str, Any]:
    """What the manifest says beside figures and costs."""
    return {
        "config": storage.to_json(config),
        "core_seconds": {"warm-up": warm["core_seconds"]} if warm else {},
        "warm_up": {k: v for k, v in warm.items() if k != "core_seconds"},
        "skipped_videos": len(taught.bad),
        "items_digest": taught.digest if isinstance(taught, OwnLessons) else "",
    }


def _begin(config: TrainReasonSft, taught: Taught, work: Path, watch: Watch | None) -> tuple[VLM, dict[str, float]]:
    """The model to begin with, and what came of its warm-up."""
    if config.model:
        return placed(VLM.from_pretrained(config.model, shown=config.shown or None), cpu=config.cpu), {}
    mean, deviation = taught.pixels()
    sizes = dataclasses.replace(config.tiny, mean=mean, deviation=deviation)
    vlm = VLM.tiny(taught.texts(), sizes, seed=config.seed, shown=config.shown or "images")
    placed(vlm, cpu=config.cpu)
    if not config.warm.steps:
        return vlm, {}
    items = taught.to_learn(config.warm.steps * config.warm.batch)
    return vlm, warm_up(vlm, items, config.warm, folder=work / "warm", seed=config.seed, watch=watch)


def _trainer(config: TrainReasonSft, vlm: VLM, taught: Taught, run: Results, *, blind: bool) -> Any:
    """TRL's trainer over items that are rendered when their turn comes."""
    from datasets import Dataset
    from trl import SFTConfig

    count = config.steps * config.batch
    learned = taught.to_learn(count)
    empty = [s < config.fast for s in Draw("fast", config.seed).shares(count)]
    rows = Dataset.from_dict({"row": list(range(count))})

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found = [(learned[b["row"]], empty[b["row"]]) for b in batch]
        encoded = vlm.encode([i for i, _ in found], [reply(i, fast=f) for i, f in found])
        return {**encoded, "weights": stressed(vlm, encoded["labels"], [i.answer for i, _ in found], config.stress)}

    settings = SFTConfig(
        **arguments(config, checkpoints=run.checkpoints, logging=10),
        lr_scheduler_type=SCHEDULES[config.schedule],
        weight_decay=config.weight_decay,
        max_length=None,  # cutting would part pictures from their tokens
        packing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return trainer_class()(
        model=vlm.model,
        args=settings,
        train_dataset=rows,
        data_collator=collate,
        processing_class=vlm.processor,
        peft_config=config.adapter.config(blind=blind),
    )


def reply(item: Item, *, fast: bool) -> str:
    """What is to be said: the read-out and the answer, or the answer alone."""
    return f"<think></think><answer>{item.answer}</answer>" if fast else item.completion


def _digest(config: TrainReasonSft) -> str:
    """Of the model to begin with."""
    return storage.folder_digest(Path(config.model)) if config.model else ""
