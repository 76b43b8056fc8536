"""Keyed choices of one item: numbers below n, orders, shares. A thin face of `worldsim.noise`; nothing is global."""

import hashlib

import torch

from worldsim.noise import uniform


def make_key(*parts: object) -> int:
    """A noise key from what identifies a run: names, seeds, numbers."""
    digest = hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


class KeyedChoices:
    """Choices in a row; two with one key give the same row.

    Args:
        parts: What the key is made of.
    """

    def __init__(self, *parts: object) -> None:
        self._key = torch.tensor([make_key(*parts)], dtype=torch.int64)
        self._step = 0

    def uniform(self, count: int) -> list[float]:
        """Numbers in [0, 1)."""
        self._step += 1
        drawn: list[float] = uniform(self._key, self._step, (count,))[0].tolist()
        return drawn

    def below(self, n: int) -> int:
        """A number in 0..n-1."""
        return min(int(self.uniform(1)[0] * n), n - 1)

    def order(self, n: int) -> list[int]:
        """A permutation of 0..n-1."""
        drawn = self.uniform(n)
        return sorted(range(n), key=lambda i: (drawn[i], i))


def balanced_label(key: int, k: int, n: int) -> int:
    """Label of item k among n: every run of n items from a multiple of n on has each label once."""
    return KeyedChoices(key, "label", k // n).order(n)[k % n]
