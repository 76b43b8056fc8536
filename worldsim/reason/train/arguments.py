"""Settings that both trainings of a critic pass to TRL, and which weights are trained."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from worldsim.errors import InvalidInputError, missing_extra, unknown_name
from worldsim.reason.vlm.attention import TOWER
from worldsim.reason.vlm.encode import FRAME_MODES
from worldsim.reason.vlm.model import VLM

Showing = Literal["", "images", "video"]
"""How clips are shown; empty leaves it to the model to begin with, and is images for a new one."""


def check_frame_mode(shown: str) -> None:
    """Refuse an unknown way to show frames.

    Raises:
        UnknownNameError: There is no such way.
    """
    if shown and shown not in FRAME_MODES:
        raise unknown_name("way to show frames", shown, FRAME_MODES)


SCHEDULES = {"cosine": "cosine", "constant": "constant_with_warmup"}
"""The learning rate's schedule after the warm-up, and what transformers call that."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """LoRA through peft: small matrices are trained instead of the weights, and merged into them at the end.

    Attributes:
        rank: 0 trains all weights.
        alpha: Scale.
        targets: Names of layers; "all-linear" for every one of them.
    """

    rank: int = 0
    alpha: float = 32.0
    targets: str = "all-linear"

    def config(self, *, blind: bool) -> Any:
        """A `peft.LoraConfig`, or None for rank 0.

        Args:
            blind: Leave the vision tower out, because it is frozen.

        Raises:
            MissingExtraError: peft is not installed.
        """
        if not self.rank:
            return None
        try:
            from peft import LoraConfig
        except ModuleNotFoundError as error:
            raise missing_extra("peft", "reason") from error
        return LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules=self.targets,
            exclude_modules=rf"(.*\.)?{TOWER}\..*" if blind else None,
            task_type="CAUSAL_LM",
        )


@contextmanager
def freeze_tower(vlm: VLM, *, wanted: bool) -> Iterator[None]:
    """Freeze the vision tower for the length of the block, where that is wanted.

    Raises:
        InvalidInputError: The model has none of the name that Qwen-VL and Cosmos models give it.
    """
    found = getattr(vlm.base_model.model, TOWER, None)
    if found is None and wanted:
        raise InvalidInputError(
            f"This model's vision tower is not called {TOWER}, so it is not found. Set tower=train."
        )
    frozen = [] if found is None or not wanted else list(found.parameters())
    for weight in frozen:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in frozen:
            weight.requires_grad_(True)


class OptimizerSettings(Protocol):
    """The settings of optimiser and machine that both recipes have."""

    @property
    def steps(self) -> int:
        """Optimiser steps."""

    @property
    def batch(self) -> int:
        """Rows per step."""

    @property
    def lr(self) -> float:
        """Peak learning rate."""

    @property
    def warmup(self) -> int:
        """Steps of the linear warm-up."""

    @property
    def beta2(self) -> float:
        """Of AdamW."""

    @property
    def clip(self) -> float:
        """Largest gradient norm."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def bf16(self) -> bool:
        """Autocast."""

    @property
    def cpu(self) -> bool:
        """Stay on the CPU."""

    @property
    def seed(self) -> int:
        """Of everything."""


def trl_arguments(config: OptimizerSettings, *, checkpoints: Path, logging: int) -> dict[str, Any]:
    """What TRL's two configs have in common."""
    return {
        "output_dir": str(checkpoints),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch,
        "learning_rate": config.lr,
        "warmup_steps": config.warmup,
        "adam_beta2": config.beta2,
        "max_grad_norm": config.clip,
        "logging_steps": min(logging, config.steps),
        "logging_nan_inf_filter": False,
        "save_steps": config.save_every,
        "save_total_limit": 2,
        "seed": config.seed,
        "use_cpu": config.cpu,
        "bf16": config.bf16,
        "activation_checkpointing": False,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
