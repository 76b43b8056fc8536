"""Several replies that begin alike, laid out as a tree so that one pass over a model weighs them all. Not for models.

Shape legend: B items, L tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Branches:
    """A stem, and one branch per reply.

    Attributes:
        stem: Tokens with which all replies begin.
        leaves: Tokens of all branches one after the other, each without its last, which nothing follows.
        kin: The branch of each leaf, from 1.
        depth: Place of each leaf within its branch.
        steps: (place, token, branch from 0): the token that is to be predicted at a place; place 0 is the end of the
            stem, place i the i-th leaf.
        options: How many branches there are.
    """

    stem: list[int]
    leaves: list[int]
    kin: list[int]
    depth: list[int]
    steps: list[tuple[int, int, int]]
    options: int

    @classmethod
    def of(cls, replies: Sequence[list[int]]) -> Self:
        """Lay out replies.

        Raises:
            InvalidInputError: Two replies are the same.
        """
        if len({tuple(r) for r in replies}) < len(replies):
            raise InvalidInputError("Two options are written with the same tokens. Word them differently.")
        shortest = min(map(len, replies)) - 1  # at least one token must be left to be weighed
        shared = 0
        while shared < shortest and len({r[shared] for r in replies}) == 1:
            shared += 1
        leaves, kin, depth, steps = [], [], [], []
        for number, reply in enumerate(replies):
            before = 0
            for place, token in enumerate(reply[shared:]):
                steps.append((before, token, number))
                if shared + place + 1 < len(reply):
                    leaves.append(token)
                    kin.append(number + 1)
                    depth.append(place)
                    before = len(leaves)
        return cls(stem=replies[0][:shared], leaves=leaves, kin=kin, depth=depth, steps=steps, options=len(replies))


def family(kin_BL: Tensor) -> Tensor:
    """Who may look at whom: at earlier tokens of the stem and of one's own branch, and at oneself.

    Args:
        kin_BL: Branch of each token from 1, 0 for the stem, -1 for padding.

    Returns:
        bool [B, 1, L, L], first who looks, then at whom.
    """
    length = kin_BL.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool).tril()
    same = (kin_BL[:, None, :] == 0) | (kin_BL[:, None, :] == kin_BL[:, :, None])
    return ((same & (kin_BL >= 0)[:, None, :] & earlier) | torch.eye(length, dtype=torch.bool))[:, None]
