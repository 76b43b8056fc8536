"""Several replies with a common beginning, laid out as a tree so that one pass over a model scores them all.

Shape legend: L tokens of all of the tree: the stem's, then the leaves.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionTree:
    """A stem, and the tree that grows from it: what replies share is there once.

    Attributes:
        stem: Tokens with which all replies begin.
        leaves: Tokens of the tree, each after the one it follows; a reply's last token, which nothing follows, is left out.
        parent: The place that each leaf follows; place 0 is the end of the stem, place i the i-th leaf.
        depth: How many leaves stand between each leaf and the stem.
        steps: (place, token, reply): the token that is to be predicted at a place.
        options: How many replies there are.
    """

    stem: tuple[int, ...]
    leaves: tuple[int, ...]
    parent: tuple[int, ...]
    depth: tuple[int, ...]
    steps: tuple[tuple[int, int, int], ...]
    options: int

    @classmethod
    def of(cls, replies: Sequence[Sequence[int]], *, given: Sequence[int] | None = None) -> Self:
        """Lay out replies.

        Args:
            replies: Tokens of each, at least one.
            given: How many leading tokens of each reply are not scored; by default the stem.

        Raises:
            InvalidInputError: Two replies are the same.
        """
        if len({tuple(r) for r in replies}) < len(replies):
            raise InvalidInputError("Two options are written with the same tokens. Word them differently.")
        shared = shared_prefix(replies)
        places: dict[tuple[int, int], int] = {}
        leaves, parent, depth, steps = [], [], [], []
        for number, reply in enumerate(replies):
            here = 0
            for place, token in enumerate(reply[shared:], start=shared):
                if place >= (shared if given is None else given[number]):
                    steps.append((here, token, number))
                if place + 1 < len(reply):
                    if (here, token) not in places:
                        leaves.append(token)
                        parent.append(here)
                        depth.append(place - shared)
                        places[here, token] = len(leaves)
                    here = places[here, token]
        return cls(
            stem=tuple(replies[0][:shared]),
            leaves=tuple(leaves),
            parent=tuple(parent),
            depth=tuple(depth),
            steps=tuple(steps),
            options=len(replies),
        )

    @functools.cached_property
    def mask(self) -> Tensor:
        """Attention mask: a token attends to the stem's earlier tokens, to the leaves it follows, and to itself.

        Returns:
            bool [L, L], query then key.
        """
        stem, length = len(self.stem), len(self.stem) + len(self.leaves)
        seen = torch.zeros(length, length, dtype=torch.bool)
        seen[:, :stem] = torch.ones(length, stem, dtype=torch.bool).tril()
        for leaf, before in enumerate(self.parent, start=stem):
            if before:
                seen[leaf] = seen[stem + before - 1]
            seen[leaf, leaf] = True
        return seen


def shared_prefix(replies: Sequence[Sequence[int]]) -> int:
    """How many tokens all replies begin with; of the shortest, one is left to be scored."""
    shortest = min(map(len, replies)) - 1
    shared = 0
    while shared < shortest and len({r[shared] for r in replies}) == 1:
        shared += 1
    return shared


@functools.lru_cache(maxsize=1024)
def build_tree(replies: tuple[tuple[int, ...], ...], given: tuple[int, ...]) -> OptionTree:
    """`OptionTree.of`, remembered: the same questions are asked again and again."""
    return OptionTree.of(replies, given=given)
