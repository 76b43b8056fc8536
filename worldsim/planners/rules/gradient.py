"""Gradient descent through the world: Adam on several plans at once, projected into the bounds after every step.

Refining the best few of a wide sample is the strongest thing a planner can do with a differentiable world; on its own it
starts from smooth random plans (several, because costs have basins).

Shape legend: B episodes, S starts, H steps, A action width.
"""

import dataclasses
import math

import torch
from torch import Tensor

from worldsim.core import Rows
from worldsim.errors import InvalidInputError
from worldsim.planners.evaluate import Scored
from worldsim.planners.noise import smooth
from worldsim.planners.rules.base import Setting
from worldsim.planners.search import Search


@dataclasses.dataclass(frozen=True, kw_only=True)
class Descent(Rows):
    """Where the descent of B episodes stands, S points each."""

    points: Tensor  # [B, S, H, A]
    first: Tensor  # [B, S, H, A], running mean of the gradient
    second: Tensor  # [B, S, H, A], running mean of its square
    cost: Tensor  # [B, S], rank of the points before the last step
    std: Tensor  # [B, H, A], of the search it came from
    tick: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gradient:
    """Adam (Kingma and Ba, 2015, algorithm 1) with a cosine schedule.

    Attributes:
        lr: Step length at the start, in half ranges of the bounds.
        final: Share of `lr` that is left at the end of the schedule.
        std: Spread of random starts in half ranges, `beta` the exponent of their spectrum.
        betas: Decay of the two running means. Short memories: a plan is refined in tens of steps, and the customary
            0.9 and 0.999 overshoot for most of them.
    """

    gradient = True

    lr: float = 0.07
    final: float = 0.0
    std: float = 1.0
    beta: float = 2.0
    betas: tuple[float, float] = (0.7, 0.8)

    def __post_init__(self) -> None:
        if not (self.lr > 0 and all(0 <= b < 1 for b in self.betas)):
            raise InvalidInputError(f"lr is positive and betas are in [0, 1); got {self.lr} and {self.betas}.")

    def check(self, samples: int) -> None:
        """See `Rule.check`; any number of starts will do."""

    def begin(self, search: Search, setting: Setting) -> Descent:
        """Start from the best known plans, then from the mean, then from random ones."""
        s = setting.samples
        known = torch.cat([setting.prior, search.elites, search.mean[:, None]], dim=1)[:, :s]
        noise = (
            smooth(setting.noise(s - known.shape[1], *search.mean.shape[1:]), self.beta)
            if known.shape[1] < s
            else known[:, :0]
        )
        points = torch.cat([known, search.mean[:, None] + noise * self.std * setting.bounds.half], dim=1)
        points = setting.bounds.clip(points)
        zero = torch.zeros_like(points)
        return Descent(points=points, first=zero, second=zero, cost=zero[..., 0, 0], std=search.std, tick=0)

    def propose(self, memory: Descent, setting: Setting) -> Tensor:
        """The points themselves, [B, N, H, A]."""
        return memory.points

    def update(self, memory: Descent, scored: Scored, setting: Setting) -> Descent:
        """One step downhill; where the gradient is not finite a point stays."""
        assert scored.gradient is not None
        slope = torch.where(scored.gradient.isfinite(), scored.gradient, 0)
        tick, (b1, b2) = memory.tick + 1, self.betas
        first, second = memory.first.lerp(slope, 1 - b1), memory.second.lerp(slope.square(), 1 - b2)
        share = (1 + math.cos(math.pi * memory.tick / setting.iterations)) / 2
        rate = self.lr * (self.final + (1 - self.final) * share)
        direction = first / (1 - b1**tick) / ((second / (1 - b2**tick)).sqrt() + 1e-12)
        points = setting.bounds.clip(memory.points - rate * setting.bounds.half * direction)
        return dataclasses.replace(memory, points=points, first=first, second=second, cost=scored.rank, tick=tick)

    def finish(self, memory: Descent) -> tuple[Search, Tensor]:
        """The points [B, N, H, A], best first by the last cost known; all of them are worth a last look."""
        order = memory.cost.argsort(dim=1, stable=True)
        row = torch.arange(order.shape[0], device=order.device)[:, None]
        points = memory.points[row, order]
        return Search(mean=points[:, 0], std=memory.std, elites=points), points
