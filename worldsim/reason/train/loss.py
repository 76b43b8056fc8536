"""The loss of supervised training: TRL's, but each token has a weight. Not for rewards.

Shape legend: B items, L tokens, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from worldsim.reason.vlm import UNSAID, VLM


def stressed(vlm: VLM, labels_BL: Tensor, answers: Sequence[str], weight: float) -> Tensor:
    """Weight of each label, float32 [B, L]: 0 where there is none, `weight` from each row's answer on, else 1."""
    found = (labels_BL != UNSAID).float()
    for row, answer in enumerate(answers):
        said = found[row].nonzero()[:, 0]
        found[row, said[-len(vlm.reply_tokens(f"{answer}</answer>")) :]] = weight
    return found


def weighed(logits_BLV: Tensor, labels_BL: Tensor, weights_BL: Tensor) -> Tensor:
    """Mean cross entropy of the labels, each predicted from the token before it.

    Args:
        logits_BLV: float [B, L, V].
        labels_BL: int64 [B, L]; what weighs nothing is not read.
        weights_BL: float32 [B, L].
    """
    weight = weights_BL[:, 1:]
    each = F.cross_entropy(
        logits_BLV[:, :-1].float().flatten(0, 1), labels_BL[:, 1:].clamp(min=0).flatten(), reduction="none"
    )
    return (each * weight.flatten()).sum() / weight.sum().clamp(min=1e-6)


def trainer_class() -> Any:
    """TRL's SFTTrainer with `weighed` as its loss; batches hold `weights` beside labels."""
    from trl import SFTTrainer

    class WeighedTrainer(SFTTrainer):  # type: ignore[misc]
        """See `trainer_class`."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            """The mean over this batch; TRL calls it in training and evaluation."""
            batch = {k: v for k, v in inputs.items() if k not in ("labels", "weights")}
            outputs = model(**batch, use_cache=False)
            loss = weighed(outputs.logits, inputs["labels"], inputs["weights"])
            return (loss, outputs) if return_outputs else loss

    return WeighedTrainer
