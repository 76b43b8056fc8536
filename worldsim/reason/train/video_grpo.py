"""TRL's GRPOTrainer with eyes for video.

TRL 1.16 samples replies with the videos of its prompts in view, and then computes the loss without them: no error, and the
visual weights never move. This subclass carries the items to every place where TRL calls the model and shows them as
`worldsim.reason.display` does, videos and pictures alike. It overrides three private methods, so TRL is pinned, and a test
holds that visual weights move and that sampling and training agree. Not for pictures alone, which TRL shows by itself.

Shape legend: B replies, L tokens.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from worldsim.reason.item import Item
from worldsim.reason.vlm import VLM


def sighted(vlm: VLM) -> Any:
    """Make the trainer's class.

    Args:
        vlm: Shows the items. Rows of the dataset hold their item in the column ``item``.

    Returns:
        A subclass of `trl.GRPOTrainer`.
    """
    from trl import GRPOTrainer

    class SightedTrainer(GRPOTrainer):  # type: ignore[misc]
        """See `sighted`."""

        _shown: tuple[Item, ...] = ()
        """Items of the replies that are being drawn."""

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            """The batch keeps its items under a name that TRL shuffles, splits and hands to the loss, unread."""
            self._shown = tuple(row["item"] for row in inputs)
            return {**super()._generate_and_score_completions(inputs), "num_images": list(self._shown)}

        def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
            """What the model sees when it replies."""
            rows, pixels, _ = vlm.display.show(self._shown)
            return rows, None, {**pixels, "mm_token_type_ids": [vlm.kinds(torch.tensor(r)).tolist() for r in rows]}

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
            """What the model sees when its replies are weighed, by itself, by its past or by a reference."""
            items, weighed = num_images or self._shown, []
            size = batch_size or len(items)
            for first in range(0, len(items), size):
                own = slice(first, first + size)
                pixels = {k: v.to(input_ids.device) for k, v in vlm.display.show(items[own])[1].items()}
                seeing = partial(model, **pixels, mm_token_type_ids=vlm.kinds(input_ids[own]))
                weigh = super()._get_per_token_logps_and_entropies
                weighed.append(weigh(seeing, input_ids[own], attention_mask[own], logits_to_keep, **rest))
            return _joined(weighed)

    return SightedTrainer


def _joined(parts: list[tuple[Tensor, Tensor | None, Tensor | None]]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Log-probabilities [B, L], entropies [B, L] and the balance of experts, of several calls; the last two if wanted."""
    logps, entropies, balances = ([t for t in column if t is not None] for column in zip(*parts, strict=True))
    return (
        torch.cat(logps),
        torch.cat(entropies) if entropies else None,
        torch.stack(balances).mean() if balances else None,
    )
