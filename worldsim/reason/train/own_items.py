"""Items of one's own, parted into those to learn from and those to examine on. Not for tasks (`worldsim.reason.train.items`)."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import overload

from worldsim import storage
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.reason.draw import Draw
from worldsim.reason.item import Item
from worldsim.reason.split import group, parted
from worldsim.reason.train.items import AskedItems, Colour, Lessons, colours

_LOG = logging.getLogger(__name__)


class Chosen(Sequence[Item]):
    """Some of a sequence's items, in the order given.

    Args:
        items: All of them.
        rows: Which; any may come several times.
    """

    def __init__(self, items: Sequence[Item], rows: Sequence[int]) -> None:
        self._items, self._rows = items, tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...

    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        """An item, or some."""
        if isinstance(index, slice):
            return Chosen(self._items, self._rows[index])
        return self._items[self._rows[index]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnLessons:
    """Items of one's own, of which no video is on both sides; as `worldsim.reason.train.items.Lessons`.

    Attributes:
        train: To learn from.
        held: To examine on.
        seed: Of the order.
        bad: What was skipped, and why.
        digest: Of what is asked about which frames, and of the answers.
    """

    train: Chosen
    held: Chosen
    seed: int
    bad: tuple[str, ...]
    digest: str

    def to_learn(self, count: int) -> Chosen:
        """Training items in an order of their own each time round."""
        each = len(self.train)
        rounds = range(-(-count // each))
        order = [row for n in rounds for row in Draw("own items", self.seed, n).order(each)]
        return Chosen(self.train, order[:count])

    def to_examine(self, each: int) -> list[Item]:
        """Held-out items, at most `each` of every task; the same whatever the training."""
        found: dict[str, list[Item]] = {}
        for row in Draw("own exam").order(len(self.held)):
            item = self.held[row]
            kin = found.setdefault(item.task, [])
            if len(kin) < each:
                kin.append(item)
        return [item for task in sorted(found) for item in found[task]]

    def texts(self, count: int = 600) -> list[str]:
        """Prompts and replies of some training items, for a tokenizer."""
        return [text for item in self.to_learn(count) for text in (item.prompt, item.completion)]

    def pixels(self, count: int = 200) -> tuple[Colour, Colour]:
        """Mean and deviation of each colour, 0..1, over the frames of some training items."""
        return colours(self.to_learn(count))


Taught = Lessons | OwnLessons
"""What trainings are given."""


def own_lessons(items: Sequence[Item], asked: AskedItems, *, seed: int) -> OwnLessons:
    """Look at every item once, skip and count bad ones, and part the others.

    Args:
        items: Anybody's; an index may raise a WorldsimError where an item is bad, and must give the same item every time.
        asked: Its `by`, `share` and `bad_share` are read here.
        seed: Of the order of training.

    Raises:
        InvalidInputError: Too many are bad, or they do not part.
    """
    facts: list[str] = []
    good, groups = [], []
    bad: list[str] = []
    for number in range(len(items)):
        try:
            item = items[number]
        except WorldsimError as error:
            bad.append(f"{number}: {error}")
            _LOG.warning("Skipped item %s", bad[-1])
            continue
        good.append(number)
        groups.append(group(item.provenance, asked.by, number=number))
        facts.append(_facts(item))
    if not good or len(bad) > asked.bad_share * len(items):
        raise InvalidInputError(
            f"{len(bad)} of {len(items)} items are bad, more than the share of {asked.bad_share} that may be skipped: "
            f"{'; '.join(bad[:3])}{' ...' if len(bad) > 3 else ''}. Repair them, or raise items.bad_share."
        )
    train, held = parted(groups, by=asked.by, share=asked.share)
    return OwnLessons(
        train=Chosen(items, [good[r] for r in train]),
        held=Chosen(items, [good[r] for r in held]),
        seed=seed,
        bad=(*getattr(items, "bad", ()), *bad),
        digest=storage.digest_bytes("\n".join(facts).encode()),
    )


def _facts(item: Item) -> str:
    """What makes an item what it is, but for the look of its frames."""
    shown = (list(item.frames.shape), item.taken, item.provenance.episode)
    return json.dumps([item.task, item.prompt, item.options, item.answer, item.think, *shown])
