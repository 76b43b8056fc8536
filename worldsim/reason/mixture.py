"""Several tasks mixed into one indexable sequence, made when asked for. Not for batches (that is the trainer's)."""

from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.reason.draw import Draw
from worldsim.reason.item import Item


class Mixture(Sequence[Item]):
    """Items of several tasks in a keyed order, in the wanted shares exactly (up to one), each task's in its own order.

    Args:
        parts: Items of each task; a part that runs out begins again.
        weights: How much of each, in any unit; equal by default.
        count: How many items in all; by default what all parts have together.
        seed: Of the order.

    Raises:
        InvalidInputError: No parts, an empty one, or weights that do not fit or are not positive.
    """

    def __init__(
        self,
        parts: Sequence[Sequence[Item]],
        *,
        weights: Sequence[float] | None = None,
        count: int | None = None,
        seed: int = 0,
    ) -> None:
        shares = np.array(weights if weights is not None else [1.0] * len(parts), np.float64)
        total = sum(len(p) for p in parts) if count is None else count
        if not parts or not all(len(p) for p in parts) or total < 1:
            raise InvalidInputError(f"A mixture needs parts with items; got lengths {[len(p) for p in parts]}.")
        if len(shares) != len(parts) or not np.isfinite(shares).all() or not (shares > 0).all():
            raise InvalidInputError(f"Expected {len(parts)} positive weights; got {shares.tolist()}.")
        self._parts = tuple(parts)
        self._part, self._place = _arranged(shares / shares.sum(), total, seed)

    def __len__(self) -> int:
        return len(self._part)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Make an item, or several."""
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Item {index} of {len(self)}")
        part = self._parts[self._part[index]]
        return part[int(self._place[index]) % len(part)]


def _arranged(share: NDArray[np.float64], total: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Part and place within the part, int64 [total] each."""
    counts = np.floor(share * total).astype(np.int64)
    for i in np.argsort(-(share * total - counts), kind="stable")[: total - counts.sum()]:
        counts[i] += 1
    part = np.repeat(np.arange(len(share)), counts)[Draw("mixture", seed).order(total)]
    place = np.zeros(total, np.int64)
    for i in range(len(share)):
        mine = part == i
        place[mine] = np.arange(int(mine.sum()))
    return part, place
