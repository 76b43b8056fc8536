"""How often a model is right on held-out items: by task and kind of clip, with and without thinking, and blind.

The blind control shows each item with the frames of another of its task: a model that answers from the wording alone is as
good with those. It is reported beside every accuracy.
"""

import dataclasses
from collections.abc import Sequence

from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import Item, parse_reply
from worldsim.reason.vlm.model import VLM


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model's answers, item by item.

    Attributes:
        items: What was asked.
        right: Whether the greedy reply holds the right answer, and no other.
        formatted: Whether the greedy reply holds one answer at all.
        fast: Whether the likeliest option after an empty think is right; nothing was generated for it.
        blind: `right` when each item is shown with the frames of another of its task.
    """

    items: tuple[Item, ...]
    right: tuple[bool, ...]
    formatted: tuple[bool, ...]
    fast: tuple[bool, ...]
    blind: tuple[bool, ...]

    def figures(self) -> dict[str, float]:
        """Shares by task, and of `right` by kind of clip; `items/TASK` is how many there were."""
        found: dict[str, float] = {}
        for task in sorted({i.task for i in self.items}):
            rows = [r for r, i in enumerate(self.items) if i.task == task]
            found |= {
                f"accuracy/{task}": _share(self.right, rows),
                f"format/{task}": _share(self.formatted, rows),
                f"fast/{task}": _share(self.fast, rows),
                f"blind/{task}": _share(self.blind, rows),
                f"items/{task}": float(len(rows)),
            }
            groups = sorted({self.items[r].group for r in rows})
            for group in groups if len(groups) > 1 else ():
                found[f"accuracy/{task}/{group}"] = _share(
                    self.right, [r for r in rows if self.items[r].group == group]
                )
        return found


def evaluate_items(vlm: VLM, items: Sequence[Item], *, max_new_tokens: int = 64, batch: int = 128) -> Evaluation:
    """Ask all items, greedily.

    Args:
        vlm: The model; it is left in the mode (training or evaluation) it was in.
        items: Held-out items.
        max_new_tokens: Longest reply.
        batch: Items per call.

    Raises:
        InvalidInputError: No items.
    """
    if not items:
        raise InvalidInputError("An evaluation needs items; got none.")
    asked = sorted(
        items, key=lambda i: (i.task, len(i.frames), i.options, i.prompt)
    )  # alike, so that batches need no padding
    training = vlm.model.training
    vlm.model.eval()
    try:
        replies = vlm.generate(asked, max_new_tokens=max_new_tokens, batch=batch)
        blind = vlm.generate(shuffle_frames(asked), max_new_tokens=max_new_tokens, batch=batch)
        fast: list[bool] = []
        for first in range(0, len(asked), batch):
            part = asked[first : first + batch]
            best = vlm.option_logprobs(part).argmax(1).tolist()
            fast += [i.options[b] == i.answer for i, b in zip(part, best, strict=True)]
    finally:
        vlm.model.train(training)
    return Evaluation(
        items=tuple(asked),
        right=tuple(parse_reply(r) == i.answer for r, i in zip(replies, asked, strict=True)),
        formatted=tuple(parse_reply(r) is not None for r in replies),
        fast=tuple(fast),
        blind=tuple(parse_reply(r) == i.answer for r, i in zip(blind, asked, strict=True)),
    )


def shuffle_frames(items: Sequence[Item]) -> list[Item]:
    """Each item with the frames of another item of its task and number of frames, where there is one."""
    same: dict[tuple[str, int], list[int]] = {}
    for row, item in enumerate(items):
        same.setdefault((item.task, len(item.frames)), []).append(row)
    found = list(items)
    for rows in same.values():
        half = (len(rows) + 1) // 2
        for place, row in enumerate(rows):
            found[row] = dataclasses.replace(items[row], frames=items[rows[(place + half) % len(rows)]].frames)
    return found


def _share(values: Sequence[bool], rows: Sequence[int]) -> float:
    return round(sum(values[r] for r in rows) / max(1, len(rows)), 4)
