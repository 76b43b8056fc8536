"""A model's own rotary positions of text, pictures and videos, worked out once per layout. Not for attention.

Shape legend: B items, L tokens.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from worldsim.reason.display import Encoded

_MOST = 4096
"""Layouts that are remembered."""


class Positions:
    """Positions by layout of text and pictures."""

    def __init__(self) -> None:
        self._known: dict[bytes, Tensor] = {}

    def of(self, model: Any, batch: Encoded, own: Sequence[Encoded]) -> Tensor:
        """Positions of a batch.

        Args:
            model: With `get_rope_index`.
            batch: `input_ids`, `attention_mask` and `mm_token_type_ids`, int64 [B, L], on the CPU.
            own: Grids and times of each item, as `worldsim.reason.display.Display.show` gives them.

        Returns:
            int64 [3, B, L].
        """
        found = []
        for row, facts in enumerate(own):
            types, mask = batch["mm_token_type_ids"][row], batch["attention_mask"][row]
            key = b"".join(t.numpy().tobytes() for t in (types, mask, *facts.values()))
            if key not in self._known:
                if len(self._known) > _MOST:
                    self._known.clear()
                places, _ = model.get_rope_index(
                    input_ids=batch["input_ids"][row, None],
                    mm_token_type_ids=types[None],
                    attention_mask=mask[None],
                    **facts,
                )
                self._known[key] = places[:, 0]
            found.append(self._known[key])
        return torch.stack(found, dim=1)
