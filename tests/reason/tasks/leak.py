"""Does an item give its answer away without its clip being understood? Two models that cannot understand it try.

One reads only the prompt, one sees only a single frame, shrunk. Both are ridge regressions onto the options, in closed
form. Where a task is about motion, neither may be surely better than guessing.

Shape legend: N items, D features, K labels.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from worldsim.errors import InvalidInputError
from worldsim.reason.items.item import Item
from worldsim.reason.items.video import resize_frames

Floats = NDArray[np.float64]
_RIDGES = (1e-3, 1e-1, 1e1, 1e3)
_WORDS = 2000
"""Most word groups that the reader knows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leak:
    """How often such a model is right on held-out items.

    Attributes:
        model: "text" or "frame".
        accuracy: Share of right answers.
        low: Lower end of the exact (Clopper-Pearson) 95 % interval.
        high: Upper end.
        chance: What guessing the most frequent answer of each question reaches.
        items: How many answers were judged.
        frame: The frame that was looked at, -1 for text.
    """

    model: str
    accuracy: float
    low: float
    high: float
    chance: float
    items: int
    frame: int = -1

    @property
    def leaks(self) -> bool:
        """Surely better than chance."""
        return self.low > self.chance


def text_leak(train: Sequence[Item], test: Sequence[Item]) -> Leak:
    """What the prompts alone give away.

    Args:
        train: Items to learn from, at least 32.
        test: Held-out items, at least 32.

    Raises:
        InvalidInputError: Too few items.
    """
    groups = _word_groups([i.prompt for i in train])
    known = {g: n for n, g in enumerate(groups)}

    def read(items: Sequence[Item]) -> Floats:
        """How often each known group of words stands in each prompt, and a constant: [items, groups + 1]."""
        counts = np.zeros((len(items), len(known) + 1))
        counts[:, -1] = 1.0
        for row, item in enumerate(items):
            for group in _groups_of(item.prompt):
                if group in known:
                    counts[row, known[group]] += 1
        return counts

    return _judged("text", train, test, {-1: read})


def frame_leak(train: Sequence[Item], test: Sequence[Item], *, look_px: int = 12) -> Leak:
    """What one frame gives away: the frame place that promises most on a part of `train` is judged on `test`.

    Args:
        train: Items to learn from, at least 32, of one number of frames.
        test: Held-out items, at least 32.
        look_px: Side to which frames are shrunk.

    Raises:
        InvalidInputError: Too few items.
    """
    looks = {id(items): np.stack([_look(i, look_px) for i in items]) for items in (train, test)}

    def at(place: int) -> Callable[[Sequence[Item]], Floats]:
        return lambda items: looks[id(items)][:, place]

    return _judged("frame", train, test, {p: at(p) for p in range(len(train[0].frames))})


def _judged(
    model: str, train: Sequence[Item], test: Sequence[Item], views: dict[int, Callable[[Sequence[Item]], Floats]]
) -> Leak:
    """Choose view and ridge on a third of `train`, fit on all of it, count on `test`."""
    from scipy.stats import binomtest

    if min(len(train), len(test)) < 32:
        raise InvalidInputError(f"A leak check needs 32 items on each side; got {len(train)} and {len(test)}.")
    options = sorted({o for i in train for o in i.options})
    label = np.array([options.index(i.answer) for i in train])
    truth = np.array([options.index(i.answer) if i.answer in options else -1 for i in test])
    cut = 2 * len(train) // 3
    best, chosen = -1.0, (next(iter(views)), _RIDGES[-1])
    for place, view in views.items():
        x_ND = view(train)
        for ridge in _RIDGES:
            guess = _predict(x_ND[:cut], label[:cut], x_ND[cut:], ridge, len(options))
            score = float((guess == label[cut:]).mean())
            if score > best:
                best, chosen = score, (place, ridge)
    guess = _predict(views[chosen[0]](train), label, views[chosen[0]](test), chosen[1], len(options))
    right = int((guess == truth).sum())
    interval = binomtest(right, len(test)).proportion_ci(method="exact")
    return Leak(
        model=model,
        accuracy=right / len(test),
        low=float(interval.low),
        high=float(interval.high),
        chance=_chance(test),
        items=len(test),
        frame=chosen[0],
    )


def _chance(items: Sequence[Item]) -> float:
    """Share of right answers for who knows the question and guesses its most frequent answer."""
    counts: dict[tuple[str, ...], dict[str, int]] = {}
    for item in items:
        own = counts.setdefault(item.options, {})
        own[item.answer] = own.get(item.answer, 0) + 1
    return sum(max(own.values()) for own in counts.values()) / len(items)


def _predict(x_ND: Floats, label_N: NDArray[np.int64], new_MD: Floats, ridge: float, kinds: int) -> NDArray[np.int64]:
    """Ridge regression onto one-hot labels, through the smaller of the two normal equations."""
    mean_D = x_ND.mean(axis=0)
    scale = max(float(np.square(x_ND - mean_D).sum(axis=1).mean()), 1e-12)
    x_ND, new_MD = (x_ND - mean_D) / np.sqrt(scale), (new_MD - mean_D) / np.sqrt(scale)
    target_NK = np.eye(kinds)[label_N]
    share_K = target_NK.mean(axis=0)
    kernel_NN = x_ND @ x_ND.T
    weight_NK = np.linalg.solve(kernel_NN + ridge * np.eye(len(x_ND)), target_NK - share_K)
    score_MK: Floats = new_MD @ (x_ND.T @ weight_NK) + share_K
    return score_MK.argmax(axis=1)


def _look(item: Item, look_px: int) -> Floats:
    """Shrunk frames, [F, D] in 0..1."""
    return resize_frames(item.frames, look_px).numpy().reshape(len(item.frames), -1).astype(np.float64) / 255


def _groups_of(prompt: str) -> list[str]:
    """Runs of one, two and three words."""
    words = prompt.lower().split()
    return [" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)]


def _word_groups(prompts: Sequence[str]) -> list[str]:
    counts: dict[str, int] = {}
    for prompt in prompts:
        for group in _groups_of(prompt):
            counts[group] = counts.get(group, 0) + 1
    return sorted(counts, key=lambda g: (-counts[g], g))[:_WORDS]
