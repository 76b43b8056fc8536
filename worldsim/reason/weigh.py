"""How likely a model finds each option of its questions, in one pass and without generating.

Questions about the same frames share that pass. Not for replies (`worldsim.reason.vlm`).

Shape legend: B rows, L tokens, O options, Q questions, C width.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.reason.branches import Branches, alike, laid_out
from worldsim.reason.item import Item

if TYPE_CHECKING:
    from worldsim.reason.display import Encoded
    from worldsim.reason.vlm import VLM


@torch.no_grad()
def weigh(vlm: "VLM", rows: Sequence[Sequence[Item]], *, thinks: Sequence[str] | None = None) -> list[Tensor]:
    """Log-probability of each option as the answer.

    Args:
        vlm: The model.
        rows: B rows of Q questions each; those of a row are about the same frames, which are looked at once.
        thinks: What stands between the think tags, per row; nothing by default, which needs no generation.

    Returns:
        Q tensors float32 [B, O], -inf past an item's own options. Their sum over options is at most 1; the rest is the
        probability of replies in other words.

    Raises:
        InvalidInputError: No rows, rows of different length, frames that differ within a row or are shown otherwise,
            another number of thinks, or a video of unknown frame rate.
    """
    said = [""] * len(rows) if thinks is None else thinks
    if not rows or not all(rows) or len({len(r) for r in rows}) > 1 or len(said) != len(rows):
        raise InvalidInputError(
            f"Expected rows with the same number of questions each, and a think for each row; got "
            f"{[len(r) for r in rows][:8]} and {len(said)} thinks."
        )
    for row in rows:
        if not all(_alike(vlm, i, row[0]) for i in row[1:]):
            raise InvalidInputError(
                f"The questions of a row must be about the same frames; item {row[0].number}'s differ."
            )
    pixels, own = vlm.display.pixels([r[0] for r in rows])
    trees = [_tree(vlm, row, grids, think) for row, grids, think in zip(rows, own, said, strict=True)]
    found = _weighed(vlm, _hidden(vlm, trees, pixels, own), trees)
    counts = [len(i.options) for i in rows[0]]
    if any([len(i.options) for i in row] != counts for row in rows):
        return _ragged(found, rows)
    return list(found.split(counts, dim=1))


def _alike(vlm: "VLM", item: Item, other: Item) -> bool:
    """Whether two items show the same frames in the same way."""
    if item.frames is not other.frames and not torch.equal(item.frames, other.frames):
        return False
    films = [vlm.display.is_film(i) for i in (item, other)]
    return item.times_s == other.times_s if all(films) else not any(films)


def _tree(vlm: "VLM", row: Sequence[Item], own: "Encoded", think: str) -> Branches:
    """All options of all questions about the same frames; their tokens count from where a question's options part."""
    replies, given = [], []
    for item in row:
        prompt = vlm.display.prompt(item, own)
        options = [vlm.words(f"<think>{think}</think><answer>{o}</answer>") for o in item.options]
        replies += [(*prompt, *o) for o in options]
        given += [len(prompt) + alike(options)] * len(options)
    return laid_out(tuple(replies), tuple(given))


def _hidden(vlm: "VLM", trees: Sequence[Branches], pixels: "Encoded", own: Sequence["Encoded"]) -> Tensor:
    """Last hidden states, [B, L, C]."""
    whole = vlm.padded([[*t.stem, *t.leaves] for t in trees], left=False)
    length, stem = whole["input_ids"].shape[1], vlm.padded([list(t.stem) for t in trees], left=False)
    places = vlm.positions(stem, own)
    places = torch.cat([places, places.new_zeros(3, len(trees), length - places.shape[2])], dim=2)
    sight = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        first, end = len(tree.stem), len(tree.stem) + len(tree.leaves)
        places[:, row, first:end] = places[:, row, first - 1, None] + 1 + torch.tensor(tree.depth, dtype=torch.int64)
        sight[row, :end, :end] = tree.sight
    call = {k: whole[k] for k in ("input_ids", "mm_token_type_ids")} | pixels | {"position_ids": places}
    hidden: Tensor = vlm.plain.model(
        **{k: v.to(vlm.device) for k, v in call.items()},
        attention_mask=sight[:, None].to(vlm.device),
        use_cache=False,
    ).last_hidden_state
    return hidden


def _weighed(vlm: "VLM", hidden_BLC: Tensor, trees: Sequence[Branches]) -> Tensor:
    """Sum each option's tokens, float32 [B, O]."""
    rows, places, tokens, owner = [], [], [], []
    options = max(t.options for t in trees)
    for row, tree in enumerate(trees):
        for place, token, option in tree.steps:
            rows.append(row)
            places.append(len(tree.stem) - 1 + place)
            tokens.append(token)
            owner.append(row * options + option)
    logits = vlm.plain.get_output_embeddings()(hidden_BLC[rows, places]).float()
    step = logits.log_softmax(-1).gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].cpu()
    total = torch.zeros(len(trees) * options).index_add_(0, torch.tensor(owner), step)
    seen = torch.zeros(len(trees) * options, dtype=torch.bool)
    seen[owner] = True
    return total.masked_fill(~seen, float("-inf")).reshape(len(trees), options)


def _ragged(found_BO: Tensor, rows: Sequence[Sequence[Item]]) -> list[Tensor]:
    """Part the options by question where rows have different numbers of them."""
    parts = []
    for question in range(len(rows[0])):
        most = max(len(r[question].options) for r in rows)
        part = torch.full((len(rows), most), float("-inf"))
        for row, items in enumerate(rows):
            first = sum(len(i.options) for i in items[:question])
            own = len(items[question].options)
            part[row, :own] = found_BO[row, first : first + own]
        parts.append(part)
    return parts
