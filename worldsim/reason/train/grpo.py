"""`worldsim train reason-grpo`: a critic learns from its own replies, rewarded where the answer is right.

The training is TRL's GRPOTrainer with plain reward functions. The start must answer some items and miss others: a group of
replies that are all right or all wrong teaches nothing.

Shape legend: B replies, L tokens.
"""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from worldsim import storage
from worldsim.compute import one_thread
from worldsim.errors import InvalidInputError, MissingExtraError, missing_extra, unknown_name
from worldsim.progress import Progress, silent
from worldsim.reason.items.item import Item
from worldsim.reason.train.arguments import SCHEDULES, Adapter, Showing, check_frame_mode, freeze_tower, trl_arguments
from worldsim.reason.train.items import ItemsConfig, TrainingItems, open_task_items, split_items
from worldsim.reason.train.rewards import REWARDS, Reward, check_reward, named_rewards, reward_warnings
from worldsim.reason.train.run import TrainingRun, claim_run, is_done, place_model, run_trainer
from worldsim.reason.vlm.model import VLM

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainReasonGrpo:
    """The settings of `train_reason_grpo`.

    Attributes:
        data: Dataset folder (LeRobotDataset v3) or folder of video files, or several: ``data=[data/a,data/b]``. Items of
            one's own only note it.
        out: Folder of results; the model is in ``out/model``.
        model: Folder of the model to begin with, for example ``out/model`` of reason-sft.
        size: Side of the frames in pixels; 0 takes what the folder of reason-sft was trained with.
        items: Which tasks.
        curriculum: ``difficulty`` asks the easy items of each task first.
        steps: Optimiser steps.
        batch: Replies per step.
        group: Replies per item, which are compared with each other.
        lr: Learning rate after the warm-up.
        schedule: After the warm-up: constant or cosine.
        warmup: Steps of the linear warm-up.
        beta2: Of AdamW.
        clip: Largest gradient norm.
        temperature: At which replies are drawn.
        kl: Weight of the divergence from the start (TRL's beta); above 0 a second copy of the model is kept.
        loss: TRL's name of the loss.
        tower: Whether the vision tower learns too: train or freeze. Freeze one that was warmed up: one bit of reward a
            reply teaches little about seeing and can undo it, and a step costs a quarter less.
        rewards: Names out of REWARDS.
        reward_weights: Of each.
        max_new_tokens: Longest reply. The thoughts that the initial model has learned must fit.
        adapter: LoRA.
        evaluate_every: Steps between evaluations on held-out items; 0 for none before the end.
        save_every: Steps between checkpoints.
        vllm: Draw replies with vLLM, where it is installed.
        bf16: Train in bfloat16 autocast.
        cpu: Stay on the CPU where there is an accelerator too.
        seed: Of items and replies.
        shown: How clips are shown: images or video; by default as the initial model was shown them.

    Raises:
        InvalidInputError: A number is out of range, or rewards and weights do not match.
        UnknownNameError: There is no such reward, curriculum, schedule, or way to show frames or treat the tower.
    """

    data: str | tuple[str, ...]
    out: str
    model: str = ""
    size: int = 0
    items: ItemsConfig = dataclasses.field(default_factory=ItemsConfig)
    curriculum: Literal["none", "difficulty"] = "none"
    steps: int = 100
    batch: int = 64
    group: int = 8
    lr: float = 1.5e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup: int = 5
    beta2: float = 0.98
    clip: float = 0.5
    temperature: float = 1.0
    kl: float = 0.0
    loss: str = "dapo"
    tower: Literal["train", "freeze"] = "train"
    rewards: tuple[str, ...] = ("accuracy", "format")
    reward_weights: tuple[float, ...] = (1.0, 0.1)
    max_new_tokens: int = 32
    adapter: Adapter = dataclasses.field(default_factory=Adapter)
    evaluate_every: int = 25
    save_every: int = 25
    vllm: bool = False
    bf16: bool = False
    cpu: bool = True
    seed: int = 0
    shown: Showing = ""

    def __post_init__(self) -> None:
        check_frame_mode(self.shown)
        if min(self.steps, self.save_every) < 1 or self.group < 2 or self.batch < 1 or self.batch % self.group:
            raise InvalidInputError(
                "steps and save_every must be >= 1, group >= 2 and batch a multiple of it; got "
                f"{self.steps}, {self.save_every}, {self.group} and {self.batch}."
            )
        named: list[tuple[str, str, tuple[str, ...]]] = [("reward", name, REWARDS) for name in self.rewards]
        named += [
            ("curriculum", self.curriculum, ("none", "difficulty")),
            ("schedule", self.schedule, tuple(SCHEDULES)),
            ("way to treat the tower", self.tower, ("train", "freeze")),
        ]
        for kind, name, known in named:
            if name not in known:
                raise unknown_name(kind, name, known)
        if not self.rewards or len(self.rewards) != len(self.reward_weights):
            raise InvalidInputError(f"Each reward needs a weight; got {self.rewards} and {self.reward_weights}.")
        if self.temperature <= 0 or self.kl < 0 or self.evaluate_every < 0:
            raise InvalidInputError("temperature must be > 0, kl and evaluate_every >= 0.")


def train_reason_grpo(
    config: TrainReasonGrpo,
    *,
    progress: Progress = silent,
    rewards: Mapping[str, Reward] | None = None,
    items: Sequence[Item] | None = None,
) -> Path:
    """Train a critic by reward, continuing where an earlier run of the same command stopped.

    Args:
        config: What to do.
        progress: Called as it advances.
        rewards: Further rewards by name, with weight 1 each; called as TRL does, with the columns answer,
            task, group, number, row and item.
        items: Items of one's own instead of tasks about `data`, for example `worldsim.reason.items.own_clips.ClipItems`. A share
            of their videos is held out; ``config.items`` says which.

    Returns:
        The model's folder, ``out/model``, with held-out figures of start and end and core-seconds in its manifest.

    Raises:
        MissingExtraError: trl, transformers or peft is not installed, or vllm where it is asked for.
        StorageError: The data or the model cannot be read, or another run holds the folder.
        InvalidInputError: The data does not fit the tasks, the folder belongs to another config, or a reward raised
            or was not finite; the item is named.
        TrainingError: The loss diverged; the last checkpoint stays.
    """
    _installed(config)
    out = Path(config.out)
    own = None if items is None else split_items(items, config.items, seed=config.seed)
    if is_done(out, config, items_digest=own.digest if own else ""):
        return out / "model"
    vlm = _begin(config)
    data = own or open_task_items(config.data, config.items, size=config.size or _size(config.model), seed=config.seed)
    start_digest = storage.folder_digest(Path(config.model))
    with claim_run(config.out, config, digest=start_digest, items_digest=data.digest), one_thread(config.cpu):
        run = TrainingRun(
            folder=out,
            stage="reason-grpo",
            items=data.held_out(config.items.quick_eval),
            max_new_tokens=config.max_new_tokens,
            progress=progress,
        )
        final_eval = data.held_out(config.items.final_eval)
        start = run.first(vlm, final_eval)
        for text in reward_warnings(start, final_eval):
            _LOG.warning(text)
        with freeze_tower(vlm, wanted=config.tower == "freeze"):
            run_trainer(
                lambda: _trainer(config, vlm, data, run, rewards or {}),
                run,
                vlm,
                evaluate_every=config.evaluate_every,
            )
        manifest = {
            "config": storage.to_json(config),
            "core_seconds": _costs(config.model),
            "start_figures": start,
            "skipped_videos": len(data.bad),
            "items_digest": data.digest,
        }
        return run.finish(vlm, final_eval, manifest, step=config.steps)


def _installed(config: TrainReasonGrpo) -> None:
    """Refuse to start where a package is missing."""
    try:
        import trl  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra(error.name or "trl", "reason") from error
    if config.vllm and find_spec("vllm") is None:
        raise MissingExtraError('vllm is not installed. Install it with: pip install "trl[vllm]", or set vllm=false.')


def _begin(config: TrainReasonGrpo) -> VLM:
    """The initial model."""
    if not config.model:
        raise InvalidInputError("GRPO needs a model to begin with: model=FOLDER, for example out/model of reason-sft.")
    vlm = VLM.from_pretrained(config.model, shown=config.shown or None)
    if config.vllm and vlm.encoder.shown == "video":
        raise InvalidInputError("TRL gives vLLM no videos: replies would ignore them. Set vllm=false or shown=images.")
    return place_model(vlm, cpu=config.cpu)


def _trainer(
    config: TrainReasonGrpo, vlm: VLM, data: TrainingItems, run: TrainingRun, own: Mapping[str, Reward]
) -> Any:
    """TRL's trainer over items that are rendered when their turn comes."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    count = config.steps * config.batch // config.group
    asked = data.training(count)
    order = easy_first(asked) if config.curriculum == "difficulty" else list(range(count))
    rows = Dataset.from_dict({"row": order}).with_transform(lambda found: _columns(vlm, asked, found["row"]))
    settings = GRPOConfig(
        **trl_arguments(config, checkpoints=run.checkpoints, logging=5),
        lr_scheduler_type=SCHEDULES[config.schedule],
        num_generations=config.group,
        max_completion_length=config.max_new_tokens,
        temperature=config.temperature,
        beta=config.kl,
        loss_type=config.loss,
        reward_weights=[*config.reward_weights, *[1.0] * len(own)],
        generation_kwargs={"suppress_tokens": vlm.picture_tokens},
        shuffle_dataset=False,
        use_vllm=config.vllm,
    )
    known = named_rewards(config.rewards, limit=config.max_new_tokens, seed=config.seed)
    return (video_grpo_trainer(vlm) if vlm.encoder.shown == "video" else GRPOTrainer)(
        model=vlm.model,
        reward_funcs=[check_reward(f, name=n) for n, f in {**known, **own}.items()],
        args=settings,
        train_dataset=rows,
        processing_class=vlm.processor,
        peft_config=config.adapter.config(blind=config.tower == "freeze"),
    )


def _columns(vlm: VLM, asked: Sequence[Item], rows: Sequence[int]) -> dict[str, list[Any]]:
    """What TRL and the rewards see of some items; one that is asked several times is made once."""
    from PIL import Image

    made = {row: asked[row] for row in dict.fromkeys(rows)}
    items = [made[row] for row in rows]
    pictures = [] if vlm.encoder.shown == "video" else [[Image.fromarray(f) for f in i.frames.numpy()] for i in items]
    return ({"images": pictures} if pictures else {}) | {
        "prompt": [vlm.messages(i) for i in items],
        "item": items,
        "answer": [i.answer for i in items],
        "task": [i.task for i in items],
        "group": [i.group for i in items],
        "number": [i.number for i in items],
        "row": list(rows),
    }


def easy_first(items: Sequence[Item]) -> list[int]:
    """Rows such that each task keeps its places among the others, and fills them from easy to hard."""
    facts = [(i.task, i.difficulty) for i in items]
    places: dict[str, list[int]] = {}
    for row, (task, _) in enumerate(facts):
        places.setdefault(task, []).append(row)
    order = list(range(len(facts)))
    for rows in places.values():
        for place, row in zip(rows, sorted(rows, key=lambda r: facts[r][1]), strict=True):
            order[place] = row
    return order


def _size(model: str) -> int:
    """Frame size that the start was trained with."""
    config = _manifest(model).get("config", {})
    found = config.get("size") if config.get("model") or "tiny" not in config else config["tiny"]["size"]
    return int(found or 64)


def _costs(model: str) -> dict[str, float]:
    """Core-seconds that went into the start."""
    found: dict[str, float] = _manifest(model).get("core_seconds", {})
    return found


def _manifest(model: str) -> dict[str, Any]:
    path = Path(model) / storage.MANIFEST
    found: dict[str, Any] = storage.read_json(path) if path.exists() else {}
    return found


def video_grpo_trainer(vlm: VLM) -> Any:
    """Make the trainer's class.

    Args:
        vlm: Shows the items. Rows of the dataset hold their item in the column ``item``.

    Returns:
        A subclass of `trl.GRPOTrainer`.
    """
    from trl import GRPOTrainer

    class VideoGRPOTrainer(GRPOTrainer):  # type: ignore[misc]
        """See `video_grpo_trainer`."""

        _shown: tuple[Item, ...] = ()  # of the replies that are being sampled

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            """The batch keeps its items under a name that TRL shuffles, splits and passes to the loss unread."""
            self._shown = tuple(row["item"] for row in inputs)
            return {**super()._generate_and_score_completions(inputs), "num_images": list(self._shown)}

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
            """The model's input when it replies."""
            rows, pixels, _ = vlm.encoder.encode(self._shown)
            return (
                rows,
                None,
                {**pixels, "mm_token_type_ids": [vlm.token_types(torch.tensor(r)).tolist() for r in rows]},
            )

        def _get_per_token_logps_and_entropies(
            self,
            model: Any,
            input_ids: Tensor,
            attention_mask: Tensor,
            logits_to_keep: int,
            batch_size: int | None = None,
            num_images: list[Item] | None = None,
            **rest: Any,
        ) -> tuple[Tensor, Tensor | None, Tensor | None]:
            """The model's input when replies are scored, by itself, an earlier copy or a reference."""
            items, scored = num_images or self._shown, []
            score, size = super()._get_per_token_logps_and_entropies, batch_size or len(items)
            for own in (slice(first, first + size) for first in range(0, len(items), size)):
                seeing, ids = _with_pixels(vlm, model, items[own], input_ids[own]), input_ids[own]
                scored.append(score(seeing, ids, attention_mask[own], logits_to_keep, **rest))
            return _join_outputs(scored)

    return VideoGRPOTrainer


def _with_pixels(vlm: VLM, model: Any, items: Sequence[Item], ids_BL: Tensor) -> Any:
    """The model with the frames of B items as further inputs."""
    pixels = {k: v.to(ids_BL.device) for k, v in vlm.encoder.encode(items)[1].items()}
    return partial(model, **pixels, mm_token_type_ids=vlm.token_types(ids_BL))


def _join_outputs(
    parts: list[tuple[Tensor, Tensor | None, Tensor | None]],
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Log-probabilities [B, L], entropies [B, L] and the balance of experts, of several calls; the last two if wanted."""
    logps, entropies, balances = ([t for t in column if t is not None] for column in zip(*parts, strict=True))
    return (
        torch.cat(logps),
        torch.cat(entropies) if entropies else None,
        torch.stack(balances).mean() if balances else None,
    )
