"""A quadratic with a target per episode that notes how it was called; its sum has one order, whatever the batch."""

import dataclasses
import functools
from typing import Self

import torch
from torch import Tensor

from worldsim.planners import Bounds

BOUNDS = Bounds(torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 1.5]))


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """Squared distance of a plan from `target` [B, H, A]."""

    target: Tensor
    asked: list[tuple[int, ...]] = dataclasses.field(default_factory=list)  # [B, N] of every call

    def __call__(self, actions: Tensor) -> Tensor:
        self.asked.append(tuple(actions.shape[:2]))
        return functools.reduce(torch.add, (actions - self.target[:, None]).square().flatten(2).unbind(2))

    def rows(self, index: Tensor) -> Self:
        return dataclasses.replace(self, target=self.target[index])


def quadratic(batch: int, horizon: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Quadratic:
    """Targets anywhere inside BOUNDS."""
    share = torch.rand(batch, horizon, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return Quadratic(BOUNDS.low.to(dtype) + share * (BOUNDS.high - BOUNDS.low).to(dtype))
