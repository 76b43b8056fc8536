"""`worldsim train reason-sft`: a critic learns to describe frames and to answer, from items with known answers.

From scratch: vision warm-up first. From a folder: as it is, with an adapter if wanted. The training is TRL's SFTTrainer with
a weight per token; items are rendered when they are needed, so only checkpoints are on disk.

Shape legend: B items, L tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim import storage
from worldsim.compute import one_thread
from worldsim.errors import InvalidInputError, missing_extra, unknown_name
from worldsim.optimize import Schedule
from worldsim.progress import Progress, silent
from worldsim.reason.items.item import Item, KeyedChoices
from worldsim.reason.train.arguments import SCHEDULES, Adapter, Showing, check_frame_mode, freeze_tower, trl_arguments
from worldsim.reason.train.items import ItemsConfig, TrainingItems, open_task_items, split_items
from worldsim.reason.train.run import Keep, TrainingRun, claim_run, is_done, place_model, run_trainer
from worldsim.reason.train.warmup import default_schedule, warm_up
from worldsim.reason.vlm.model import IGNORED, VLM
from worldsim.reason.vlm.tiny import TinyConfig

TOWERS = ("auto", "train", "freeze")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainReasonSft:
    """The settings of `train_reason_sft`.

    Attributes:
        data: Dataset folder (LeRobotDataset v3) or folder of video files, or several: ``data=[data/a,data/b]``. Items of
            one's own only note it.
        out: Folder of results; the model is in ``out/model``.
        model: Folder of the initial model; empty makes a tiny one.
        tiny: Sizes of the tiny one.
        size: Side of the frames a loaded model is shown, in pixels; a tiny one has its own.
        items: Which tasks.
        warm: Vision warm-up of a tiny model; ``warm.steps=0`` leaves it out.
        steps: Optimiser steps.
        batch: Items per step.
        lr: Peak learning rate, reached by a short linear warm-up.
        schedule: After the warm-up: cosine to zero, or constant, for a model that is to be trained further.
        warmup: Steps of the linear warm-up.
        beta2: Of AdamW.
        weight_decay: Of AdamW.
        clip: Largest gradient norm.
        tower: Whether the vision tower learns too: train, freeze, or auto, which freezes it after a warm-up of its own. Answers that
            are still guesses then do not undo what it learned, and a step costs a quarter less.
        fast: Share of items learned with an empty think, so that answers without generation are good too.
        answer_weight: Weight of the answer's tokens in the loss; those of the think and the tags weigh 1. A think has many tokens
            and an answer few, and the link between them is learned from those few alone.
        adapter: LoRA.
        evaluate_every: Steps between evaluations on held-out items; 0 for none before the end.
        save_every: Steps between checkpoints.
        keep: Steps whose models are kept as ``out/kept/STEP``, for example as starts of reason-grpo that have something left
            to learn.
        max_new_tokens: Longest reply in evaluations.
        bf16: Train in bfloat16 autocast.
        cpu: Stay on the CPU where there is an accelerator too.
        seed: Of weights and items.
        shown: How clips are shown: images or video; by default as the initial model was shown them.

    Raises:
        InvalidInputError: A number is out of range.
        UnknownNameError: There is no such way to show frames.
    """

    data: str | tuple[str, ...]
    out: str
    model: str = ""
    tiny: TinyConfig = dataclasses.field(default_factory=TinyConfig)
    size: int = 64
    items: ItemsConfig = dataclasses.field(default_factory=ItemsConfig)
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
    answer_weight: float = 1.0
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
        check_frame_mode(self.shown)
        if self.tower not in TOWERS:
            raise unknown_name("way to treat the tower", self.tower, TOWERS)
        if self.schedule not in SCHEDULES:
            raise unknown_name("schedule", self.schedule, SCHEDULES)
        if self.keep and (self.adapter.rank or not all(0 < step <= self.steps for step in self.keep)):
            raise InvalidInputError(f"keep takes steps in 1..{self.steps}, and no adapter beside it; got {self.keep}.")
        if self.answer_weight <= 0:
            raise InvalidInputError(f"answer_weight must be > 0; got {self.answer_weight}.")
        if min(self.steps, self.batch, self.save_every) < 1 or not 0 <= self.fast <= 1 or self.evaluate_every < 0:
            raise InvalidInputError("steps, batch and save_every must be >= 1, evaluate_every >= 0, fast in 0..1.")


def train_reason_sft(
    config: TrainReasonSft, *, progress: Progress = silent, items: Sequence[Item] | None = None
) -> Path:
    """Train a critic, continuing where an earlier run of the same command stopped.

    Args:
        config: What to do.
        progress: Called as it advances.
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
    own = None if items is None else split_items(items, config.items, seed=config.seed)
    if is_done(out, config, items_digest=own.digest if own else ""):
        return out / "model"
    size = config.size if config.model else config.tiny.size
    data = own or open_task_items(config.data, config.items, size=size, seed=config.seed)
    with claim_run(config.out, config, digest=_digest(config), items_digest=data.digest), one_thread(config.cpu):
        run = TrainingRun(
            folder=out,
            stage="reason-sft",
            items=data.held_out(config.items.quick_eval),
            max_new_tokens=config.max_new_tokens,
            progress=progress,
        )
        vlm, warm = _begin(config, data, out / ".training", progress)
        frozen = config.tower == "freeze" or (config.tower == "auto" and bool(warm))
        with freeze_tower(vlm, wanted=frozen):
            run_trainer(
                lambda: _trainer(config, vlm, data, run, blind=frozen),
                run,
                vlm,
                evaluate_every=config.evaluate_every,
                keep=Keep(steps=config.keep, manifest=_facts(config, data, warm)),
            )
        facts = _facts(config, data, warm)
        return run.finish(vlm, data.held_out(config.items.final_eval), facts, step=config.steps)


def _facts(config: TrainReasonSft, data: TrainingItems, warm: dict[str, float]) -> dict[str, Any]:
    """What the manifest says beside figures and costs."""
    return {
        "config": storage.to_json(config),
        "core_seconds": {"warm-up": warm["core_seconds"]} if warm else {},
        "warm_up": {k: v for k, v in warm.items() if k != "core_seconds"},
        "skipped_videos": len(data.bad),
        "items_digest": data.digest,
    }


def _begin(config: TrainReasonSft, data: TrainingItems, work: Path, progress: Progress) -> tuple[VLM, dict[str, float]]:
    """The model to begin with, and what came of its warm-up."""
    if config.model:
        return place_model(VLM.from_pretrained(config.model, shown=config.shown or None), cpu=config.cpu), {}
    mean, deviation = data.pixels()
    sizes = dataclasses.replace(config.tiny, mean=mean, deviation=deviation)
    vlm = VLM.tiny(data.texts(), sizes, seed=config.seed, shown=config.shown or "images")
    place_model(vlm, cpu=config.cpu)
    if not config.warm.steps:
        return vlm, {}
    items = data.training(config.warm.steps * config.warm.batch)
    return vlm, warm_up(vlm, items, config.warm, folder=work / "warm", seed=config.seed, progress=progress)


def _trainer(config: TrainReasonSft, vlm: VLM, data: TrainingItems, run: TrainingRun, *, blind: bool) -> Any:
    """TRL's trainer over items that are rendered when their turn comes."""
    from datasets import Dataset
    from trl import SFTConfig

    count = config.steps * config.batch
    learned = data.training(count)
    empty = [s < config.fast for s in KeyedChoices("fast", config.seed).uniform(count)]
    rows = Dataset.from_dict({"row": list(range(count))})

    def collate(batch: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        found = [(learned[b["row"]], empty[b["row"]]) for b in batch]
        encoded = vlm.encode([i for i, _ in found], [target_reply(i, fast=f) for i, f in found])
        return {
            **encoded,
            "weights": answer_weights(vlm, encoded["labels"], [i.answer for i, _ in found], config.answer_weight),
        }

    settings = SFTConfig(
        **trl_arguments(config, checkpoints=run.checkpoints, logging=10),
        lr_scheduler_type=SCHEDULES[config.schedule],
        weight_decay=config.weight_decay,
        max_length=None,  # truncation would separate pictures from their tokens
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


def target_reply(item: Item, *, fast: bool) -> str:
    """The reply to learn: think and answer, or the answer alone."""
    return f"<think></think><answer>{item.answer}</answer>" if fast else item.completion


def _digest(config: TrainReasonSft) -> str:
    """Of the model to begin with."""
    return storage.folder_digest(Path(config.model)) if config.model else ""


def answer_weights(vlm: VLM, labels_BL: Tensor, answers: Sequence[str], weight: float) -> Tensor:
    """Weight of each label, float32 [B, L]: 0 where there is none, `weight` from each row's answer on, else 1."""
    found = (labels_BL != IGNORED).float()
    for row, answer in enumerate(answers):
        labelled = found[row].nonzero()[:, 0]
        found[row, labelled[-len(vlm.reply_tokens(f"{answer}</answer>")) :]] = weight
    return found


def weighted_loss(logits_BLV: Tensor, labels_BL: Tensor, weights_BL: Tensor) -> Tensor:
    """Mean cross entropy of the labels, each predicted from the token before it.

    Args:
        logits_BLV: float [B, L, V].
        labels_BL: int64 [B, L]; those of weight 0 are not read.
        weights_BL: float32 [B, L].
    """
    weight = weights_BL[:, 1:]
    each = F.cross_entropy(
        logits_BLV[:, :-1].float().flatten(0, 1), labels_BL[:, 1:].clamp(min=0).flatten(), reduction="none"
    )
    return (each * weight.flatten()).sum() / weight.sum().clamp(min=1e-6)


def trainer_class() -> Any:
    """TRL's SFTTrainer with `weighted_loss` as its loss; batches hold `weights` beside labels."""
    from trl import SFTTrainer

    class WeightedTrainer(SFTTrainer):  # type: ignore[misc]
        """See `trainer_class`."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """The mean over this batch; TRL calls it in training and evaluation."""
            batch = {k: v for k, v in inputs.items() if k not in ("labels", "weights")}
            outputs = model(**batch, use_cache=False)
            loss = weighted_loss(outputs.logits, inputs["labels"], inputs["weights"])
            return (loss, outputs) if return_outputs else loss

    return WeightedTrainer
