"""Vision warm-up: the tower of a model made from scratch learns to tell, frame by frame, what the items' thinks say.

Without it a small language model learns to answer from the wording and hardly looks. The heads that read the frames are
thrown away afterwards. Not for models that can see already.

Shape legend: N frames, H heads, K classes of all heads, C width of a frame's tokens together.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.reason.item import Item
from worldsim.reason.patches import patches
from worldsim.reason.seen import UNKNOWN, Head, heads, targets
from worldsim.reason.vlm import VLM
from worldsim.train.loop import Schedule, Watch, fit

_LOOKED_AT = 200
"""Items by which it is known what can be told."""


def default_schedule() -> Schedule:
    """Settings that were tried on the push task; a batch is counted in items."""
    return Schedule(steps=400, batch=16, lr=2e-3, warmup=40, weight_decay=0.01, save_every_s=60.0)


class Reader(nn.Module):
    """A vision tower and heads that read what is said of a frame off its tokens.

    Args:
        tower: Of a model of transformers.
        width: Numbers C that all tokens of a frame hold together.
        known: What can be said.
    """

    def __init__(self, tower: nn.Module, *, width: int, known: Sequence[Head]) -> None:
        super().__init__()
        self.tower = tower
        self.sizes = [len(h.classes) for h in known]
        self.heads = nn.Linear(width, sum(self.sizes))

    def forward(self, pixels: Tensor, grid_N3: Tensor) -> list[Tensor]:
        """Logits of each head, float32 [N, classes]."""
        return list(self.heads(_tokens(self.tower, pixels, grid_N3)).split(self.sizes, dim=1))


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
        `core_seconds`, and `read_right`: the share of what is said that was read right in the last batches.

    Raises:
        InvalidInputError: The items' thinks say nothing of frames.
    """
    known = heads([items[k] for k in range(min(_LOOKED_AT, len(items)))])
    if not known:
        raise InvalidInputError(
            "Warm-up learns what thinks say of frames, and those of these items say nothing, as where videos have no "
            "states. Set warm.steps=0 to skip it."
        )
    reader = _reader(vlm, items[0], known, seed)
    right: list[float] = []

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = [items[(step * schedule.batch + k) % len(items)] for k in range(schedule.batch)]
        pixels, grid = patches(torch.cat([i.frames for i in batch]).to(vlm.device), vlm.processor.image_processor)
        loss, share = _judged(reader(pixels, grid), targets(batch, known).to(vlm.device))
        right.append(share)
        return loss, {"read_right": share}

    spent = fit(reader, loss_at, schedule, folder=folder, stage="warm-up", watch=watch)
    last = right[-20:]
    return {"core_seconds": round(spent, 1), "read_right": round(sum(last) / max(1, len(last)), 4)}


def _reader(vlm: VLM, item: Item, known: Sequence[Head], seed: int) -> Reader:
    tower = vlm.model.model.visual
    with torch.no_grad():
        width = _tokens(tower, *patches(item.frames[:1].to(vlm.device), vlm.processor.image_processor)).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Reader(tower, width=width, known=known).to(vlm.device)


def _tokens(tower: nn.Module, pixels: Tensor, grid_N3: Tensor) -> Tensor:
    """Everything that the tower hands to the language model, float32 [N, C]."""
    seen = tower(pixels, grid_thw=grid_N3, return_dict=True)
    parts = [seen.pooler_output, *(getattr(seen, "deepstack_features", None) or ())]
    return torch.cat([p.reshape(len(grid_N3), -1) for p in parts], dim=1)


def _judged(logits: Sequence[Tensor], target_NH: Tensor) -> tuple[Tensor, float]:
    """Cross entropy over all that is said, and the share that is read right."""
    said = target_NH != UNKNOWN
    total, right = logits[0].new_zeros(()), 0
    for head, logit in enumerate(logits):
        total = total + F.cross_entropy(logit, target_NH[:, head], ignore_index=UNKNOWN, reduction="sum")
        right += int((logit.argmax(1) == target_NH[:, head])[said[:, head]].sum())
    count = max(1, int(said.sum()))
    return total / count, right / count
