"""What the checkers share: clauses that are collected, and comparisons."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.core import WorldState
from worldsim.errors import InvalidInputError, WorldsimError

TOLERANCE = 1e-4
"""Of one row alone against the same row in a batch, relative and absolute."""
STEPS = 3


class ContractError(WorldsimError, AssertionError):
    """Clauses of a contract that were broken.

    Attributes:
        broken: One sentence per broken clause.
    """

    def __init__(self, what: str, broken: list[str]) -> None:
        super().__init__(f"{what} breaks {len(broken)} clause(s):\n" + "\n".join(f"- {b}" for b in broken))
        self.broken = tuple(broken)


class Clauses:
    """Collects the clauses that fail; a clause that raises counts as broken, with the error as its reason."""

    def __init__(self) -> None:
        self.broken: list[str] = []

    def hold(self, sentence: str, kept: Callable[[], bool]) -> bool:
        """Note the clause as broken unless `kept` returns True; returns whether it held."""
        try:
            if kept():
                return True
            self.broken.append(sentence)
        except Exception as error:
            self.broken.append(f"{sentence} ({type(error).__name__}: {error})")
        return False

    def refuses(self, sentence: str, call: Callable[[], object]) -> None:
        """The clause that a call is refused with the typed error."""

        def refused() -> bool:
            try:
                call()
            except InvalidInputError:
                return True
            return False

        self.hold(f"{sentence} raises InvalidInputError", refused)

    def settle(self, what: object) -> None:
        """Raise what has been collected, if anything."""
        if self.broken:
            raise ContractError(type(what).__name__, self.broken)


def random_state() -> tuple[bytes, bytes, bytes]:
    """Fingerprint of the three global generators."""
    numpy = np.random.get_state(legacy=True)
    return torch.get_rng_state().numpy().tobytes(), repr(numpy).encode(), repr(random.getstate()).encode()


def frozen(state: WorldState) -> bool:
    """Whether the state refuses assignment."""
    try:
        state.step = state.step  # type: ignore[misc]
    except dataclasses.FrozenInstanceError:
        return True
    return False


def equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors [...] agree, on whatever device each is."""
    return torch.equal(one.cpu(), other.cpu())


def same(one: Any, other: Any, *, tolerance: float = 0.0) -> bool:
    """Whether two dataclasses of tensors agree in every field."""
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, Tensor) and not (
            torch.equal(a, b) if tolerance == 0 else torch.allclose(a, b, atol=tolerance, rtol=tolerance)
        ):
            return False
    return True
