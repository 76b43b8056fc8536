"""Vision warm-up: the tower of a model made from scratch learns to read off each frame what items know about it.

That is labels (by cross entropy) and numbers such as positions (by regression: displacements, which thinks about motion
need, are then differences of what the tower outputs). Without it a small language model learns to answer from the wording
and hardly uses the frames. The heads that read the frames are thrown away afterwards.

Shape legend: N frames, K classes, D numbers of a frame, C width of a frame's tokens together.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.optimize import Schedule, fit
from worldsim.progress import Progress, silent
from worldsim.reason.items.item import Item
from worldsim.reason.vlm.encode import image_patches
from worldsim.reason.vlm.model import VLM

UNKNOWN = -100
"""Class of a frame without a label."""
_SURVEYED = 200
"""Items from which classes and the number of numbers are found."""
_NEAR = 0.05
"""Errors of numbers, whose range is -1..1, below which the loss is a square (Huber's delta)."""
_NUMBERS = 3.0
"""Weight of the numbers beside the labels."""


def default_schedule() -> Schedule:
    """Settings that were tried on the push task; a batch is counted in items."""
    return Schedule(steps=1200, batch=16, lr=2e-3, warmup=40, weight_decay=0.01, save_every_s=60.0)


def label_classes(items: Sequence[Item]) -> tuple[str, ...]:
    """All labels of frames in some items, sorted."""
    return tuple(sorted({label for item in items for label in _labels(item) if label is not None}))


def label_targets(items: Sequence[Item], classes: Sequence[str]) -> Tensor:
    """Class of every frame, int64 [N]; UNKNOWN where it has no label, or one that is not among the classes."""
    number = {label: n for n, label in enumerate(classes)}
    return torch.tensor(
        [number.get(label or "", UNKNOWN) for item in items for label in _labels(item)], dtype=torch.int64
    )


class Reader(nn.Module):
    """A vision tower, and a head that reads labels and numbers off the tokens of a frame.

    Args:
        tower: Of a model of transformers.
        width: Numbers C that all tokens of a frame hold together.
        classes: How many classes K.
        numbers: How many numbers D.
    """

    def __init__(self, tower: nn.Module, *, width: int, classes: int, numbers: int) -> None:
        super().__init__()
        self.tower = tower
        self.sizes = [classes, numbers]
        self.heads = nn.Linear(width, sum(self.sizes))

    def forward(self, pixels: Tensor, grid_N3: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, float32 [N, K], and numbers, float32 [N, D]."""
        logits_NK, numbers_ND = self.heads(_tokens(self.tower, pixels, grid_N3)).split(self.sizes, dim=1)
        return logits_NK, numbers_ND


def warm_up(
    vlm: VLM, items: Sequence[Item], schedule: Schedule, *, folder: Path, seed: int, progress: Progress = silent
) -> dict[str, float]:
    """Train the tower of `vlm` in place.

    Args:
        vlm: A model whose tower gives each frame the same number of tokens.
        items: Training items; step k takes the k-th `schedule.batch` of them, and they begin again at their end.
        schedule: Steps; a batch is counted in items.
        folder: For checkpoint and metrics; the same call continues there.
        seed: Of the head's first weights.
        progress: Called as it advances.

    Returns:
        `core_seconds`; over the last batches `read_right`, the share of labels that was read right, and `misplaced`, the
        root mean square error of numbers, whose range is -1..1. What the items do not know is left out.

    Raises:
        InvalidInputError: The items know nothing of their frames.
        TrainingError: The loss diverged.
    """
    surveyed = [items[k] for k in range(min(_SURVEYED, len(items)))]
    classes, known = label_classes(surveyed), _numbers(surveyed)
    width = known.shape[1] if bool(known.isfinite().any()) else 0
    if not classes and not width:
        raise InvalidInputError(
            "Warm-up learns what items know of their frames, and these know nothing: the videos have no states, or their "
            "task's layout is not known. Give the layout (items.layout.agent=[0,1]), or set warm.steps=0 to skip it."
        )
    reader = _reader(vlm, items[0], len(classes), width, seed)
    noted: list[dict[str, float]] = []

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        """Loss on labels and numbers of a step's items, a pure function of the step and the weights."""
        batch = [items[(step * schedule.batch + k) % len(items)] for k in range(schedule.batch)]
        pixels, grid = image_patches(torch.cat([i.frames for i in batch]).to(vlm.device), vlm.processor.image_processor)
        logits_NK, numbers_ND = reader(pixels, grid)
        label_N, true_ND = label_targets(batch, classes).to(vlm.device), _numbers(batch, width).to(vlm.device)
        (loss, right), (miss, off) = _label_loss(logits_NK, label_N), _number_loss(numbers_ND, true_ND)
        values = ({"read_right": right} if classes else {}) | ({"misplaced": off} if width else {})
        noted.append(values)
        return loss + _NUMBERS * miss, values

    spent = fit(reader, loss_at, schedule, folder=folder, stage="warm-up", progress=progress)
    last = noted[-20:]
    names = last[0] if last else {}
    return {"core_seconds": round(spent, 1), **{n: round(sum(v[n] for v in last) / len(last), 4) for n in names}}


def _reader(vlm: VLM, item: Item, classes: int, numbers: int, seed: int) -> Reader:
    tower = vlm.model.model.visual
    with torch.no_grad():
        pixels, grid = image_patches(item.frames[:1].to(vlm.device), vlm.processor.image_processor)
        width = _tokens(tower, pixels, grid).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(tower, width=width, classes=classes, numbers=numbers).to(vlm.device)


def _labels(item: Item) -> tuple[str | None, ...]:
    """A label or None for each of the item's frames."""
    facts = item.frame_facts
    return (None,) * len(item.frames) if facts is None or not facts.labels else facts.labels


def _numbers(items: Sequence[Item], width: int = -1) -> Tensor:
    """Numbers of all frames, float32 [N, D], nan where items have none."""
    known = [None if i.frame_facts is None else i.frame_facts.numbers for i in items]
    width = max((k.shape[1] for k in known if k is not None), default=0) if width < 0 else width
    blank = [
        torch.full((len(i.frames), width), torch.nan) if k is None else k for i, k in zip(items, known, strict=True)
    ]
    return torch.cat(blank)


def _tokens(tower: nn.Module, pixels: Tensor, grid_N3: Tensor) -> Tensor:
    """Everything that the tower passes to the language model, float32 [N, C]."""
    found = tower(pixels, grid_thw=grid_N3, return_dict=True)
    parts = [found.pooler_output, *(getattr(found, "deepstack_features", None) or ())]
    return torch.cat([p.reshape(len(grid_N3), -1) for p in parts], dim=1)


def _label_loss(logits_NK: Tensor, label_N: Tensor) -> tuple[Tensor, float]:
    """Mean cross entropy over the frames with a label, and the share of them that is read right."""
    known = label_N != UNKNOWN
    count = max(1, int(known.sum()))
    if not logits_NK.shape[1]:
        return logits_NK.new_zeros(()), 0.0
    right = int((logits_NK.argmax(1) == label_N)[known].sum())
    return F.cross_entropy(logits_NK, label_N, ignore_index=UNKNOWN, reduction="sum") / count, right / count


def _number_loss(guess_ND: Tensor, true_ND: Tensor) -> tuple[Tensor, float]:
    """Huber loss over all numbers that are known, and their root mean square error."""
    known = true_ND.isfinite()
    if not bool(known.any()):
        return guess_ND.new_zeros(()), 0.0
    off = (guess_ND - true_ND.nan_to_num())[known]
    loss = F.smooth_l1_loss(off, torch.zeros_like(off), beta=_NEAR)
    return loss, float(off.detach().square().mean().sqrt())
