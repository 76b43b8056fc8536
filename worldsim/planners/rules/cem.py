"""Cross-entropy method: the mean moves to the elites, plainly or weighted by cost.

`CEM(beta=2, keep=5)` is iCEM (Pinneri et al., "Sample-efficient cross-entropy method for real-time planning", 2020),
`CEM(beta=0, keep=0)` the plain method (Rubinstein, 1999), `Weighted` the elite-weighted update that TD-MPC2 calls MPPI
(Hansen et al., 2024, section 3.2).
"""

import dataclasses

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners.evaluate import Scored
from worldsim.planners.rules.base import Sampler, spread
from worldsim.planners.search import Search


@dataclasses.dataclass(frozen=True, kw_only=True)
class CEM(Sampler):
    """Mean and standard deviation of the elites."""

    def refit(self, search: Search, best: Scored, scored: Scored) -> tuple[Tensor, Tensor]:
        """See `Sampler.refit`."""
        return best.candidates.mean(dim=1), spread(best.candidates, search.std)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weighted(Sampler):
    """Mean and standard deviation of the elites, each weighted by how much better it is than their average.

    The defaults explore widely and rely on what is kept: with a plan remade at every step, that finds detours and still
    settles (`benchmarks/plan_quality.py`). For a single plan of a convex cost, `beta=0, std=1` is more exact.

    Attributes:
        temperature: In units of the gap between the elites' mean cost and the best, so that the scale of the cost does
            not matter: small is greedy, large is plain CEM.
    """

    elites: int | float = 1 / 8
    std: float = 2.0
    beta: float = 3.0
    keep: int = 4
    temperature: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.temperature > 0:
            raise InvalidInputError(f"A temperature is positive; got {self.temperature}.")

    def refit(self, search: Search, best: Scored, scored: Scored) -> tuple[Tensor, Tensor]:
        """See `Sampler.refit`."""
        rank, first = best.rank, best.rank[:, :1]  # finite, but for episodes of which nothing is kept
        gap = rank.mean(1, keepdim=True).sub_(first).mul_(self.temperature).clamp_(1e-30, torch.finfo(rank.dtype).max)
        weight = torch.softmax((first - rank).div_(gap), dim=1).to(best.candidates)[:, :, None, None]
        mean = (weight * best.candidates).sum(1)
        std = (best.candidates - mean[:, None]).square_().mul_(weight).sum(1).sqrt_()
        return mean, std if best.candidates.shape[1] > 1 else search.std
