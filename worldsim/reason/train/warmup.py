"""Vision warm-up: the tower of a model made from scratch learns to tell, frame by frame, what items know of their frames.

That is words (`Item.readout`, by cross entropy) and places (`Item.places`, by regression: displacements, which thinks
about motion need, are then differences of what the tower hands on).

Without it a small language model learns to answer from the wording and hardly looks. The heads that read the frames are
thrown away afterwards. Not for models that can see already.

Shape legend: N frames, H heads, D numbers of a frame, C width of a frame's tokens together.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.optimize import Schedule, Watch, fit
from worldsim.reason.item import Item
from worldsim.reason.patches import patches
from worldsim.reason.seen import UNKNOWN, Head, heads, targets
from worldsim.reason.vlm import VLM

_LOOKED_AT = 200
"""Items by which it is known what can be told."""
_NEAR = 0.05
"""Errors of places, whose range is -1..1, below which the loss is a square (Huber's delta)."""
_PLACES = 3.0
"""Weight of the places beside the words."""


def default_schedule() -> Schedule:
    """Settings that were tried on the push task; a batch is counted in items."""
    return Schedule(steps=1200, batch=16, lr=2e-3, warmup=40, weight_decay=0.01, save_every_s=60.0)


class Reader(nn.Module):
    """A vision tower and heads that read what is said of a frame off its tokens.

    Args:
        tower: Of a model of transformers.
        width: Numbers C that all tokens of a frame hold together.
        known: What can be said.
        places: How many numbers D.
    """

    def __init__(self, tower: nn.Module, *, width: int, known: Sequence[Head], places: int) -> None:
        super().__init__()
        self.tower = tower
        self.sizes = [*(len(h.classes) for h in known), places]
        self.heads = nn.Linear(width, sum(self.sizes))

    def forward(self, pixels: Tensor, grid_N3: Tensor) -> tuple[list[Tensor], Tensor]:
        """Logits of each head, float32 [N, classes], and places, float32 [N, D]."""
        *words, places = self.heads(_tokens(self.tower, pixels, grid_N3)).split(self.sizes, dim=1)
        return words, places


def warm_up(
    vlm: VLM, items: Sequence[Item], schedule: Schedule, *, folder: Path, seed: int, watch: Watch | None = None
) -> dict[str, float]:
    """Train the tower of `vlm` in place.

    Args:
        vlm: A model whose tower gives each frame the same number of tokens.
        items: Training items; step k takes the k-th `schedule.batch` of them, and they begin again at their end.
        schedule: Steps; a batch is counted in items.
        folder: For checkpoint and metrics; the same call continues there.
        seed: Of the heads.
        watch: Progress callback.

    Returns:
        `core_seconds`; over the last batches `read_right`, the share of words that was read right, and `misplaced`, the root
        mean square error of places, whose range is -1..1. What items do not tell is left out.

    Raises:
        InvalidInputError: The items tell nothing of their frames.
    """
    looked = [items[k] for k in range(min(_LOOKED_AT, len(items)))]
    known, numbers = heads(looked), _numbers(looked)
    places = numbers.shape[1] if bool(numbers.isfinite().any()) else 0
    if not known and not places:
        raise InvalidInputError(
            "Warm-up learns what items know of their frames, and these know nothing, as where videos have no states. "
            "Set warm.steps=0 to skip it."
        )
    reader = _reader(vlm, items[0], known, places, seed)
    noted: list[dict[str, float]] = []

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        """What is misread of the words and places of a step's items, a pure function of the step and the weights."""
        batch = [items[(step * schedule.batch + k) % len(items)] for k in range(schedule.batch)]
        pixels, grid = patches(torch.cat([i.frames for i in batch]).to(vlm.device), vlm.processor.image_processor)
        words, numbers = reader(pixels, grid)
        said, told = targets(batch, known).to(vlm.device), _numbers(batch, places).to(vlm.device)
        (loss, right), (miss, off) = _judged(words, said), _placed(numbers, told)
        values = ({"read_right": right} if known else {}) | ({"misplaced": off} if places else {})
        noted.append(values)
        return loss + _PLACES * miss, values

    spent = fit(reader, loss_at, schedule, folder=folder, stage="warm-up", watch=watch)
    last = noted[-20:]
    names = last[0] if last else {}
    return {"core_seconds": round(spent, 1), **{n: round(sum(v[n] for v in last) / len(last), 4) for n in names}}


def _reader(vlm: VLM, item: Item, known: Sequence[Head], places: int, seed: int) -> Reader:
    tower = vlm.model.model.visual
    with torch.no_grad():
        width = _tokens(tower, *patches(item.frames[:1].to(vlm.device), vlm.processor.image_processor)).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(tower, width=width, known=known, places=places).to(vlm.device)


def _numbers(items: Sequence[Item], width: int = -1) -> Tensor:
    """Places of all frames, float32 [N, D], nan where items tell none."""
    told = [i.places.shape[1] for i in items if i.places is not None]
    width = max(told, default=0) if width < 0 else width
    blank = [torch.full((len(i.frames), width), torch.nan) if i.places is None else i.places for i in items]
    return torch.cat(blank)


def _tokens(tower: nn.Module, pixels: Tensor, grid_N3: Tensor) -> Tensor:
    """Everything that the tower hands to the language model, float32 [N, C]."""
    seen = tower(pixels, grid_thw=grid_N3, return_dict=True)
    parts = [seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())]
    return torch.cat([p.reshape(len(grid_N3), -1) for p in parts], dim=1)


def _judged(logits: Sequence[Tensor], target_NH: Tensor) -> tuple[Tensor, float]:
    """Cross entropy over all that is said, and the share that is read right."""
    said = target_NH != UNKNOWN
    total, right = target_NH.new_zeros((), dtype=torch.float32), 0
    for head, logit in enumerate(logits):
        total = total + F.cross_entropy(logit, target_NH[:, head], ignore_index=UNKNOWN, reduction="sum")
        right += int((logit.argmax(1) == target_NH[:, head])[said[:, head]].sum())
    count = max(1, int(said.sum()))
    return total / count, right / count


def _placed(guess_ND: Tensor, told_ND: Tensor) -> tuple[Tensor, float]:
    """Huber loss over all numbers that are told, and their root mean square error."""
    known = told_ND.isfinite()
    if not bool(known.any()):
        return guess_ND.new_zeros(()), 0.0
    off = (guess_ND - told_ND.nan_to_num())[known]
    loss = F.smooth_l1_loss(off, torch.zeros_like(off), beta=_NEAR)
    return loss, float(off.detach().square().mean().sqrt())
