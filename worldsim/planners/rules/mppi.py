"""MPPI: every candidate pulls the mean, weighted by exp(-cost / temperature) (Williams et al., 2017, equation 34).

The temperature is not in units of cost, where it would have to be tuned for every task: it is chosen so that a given
share of the candidates effectively counts.
"""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners.evaluate import Scored
from worldsim.planners.rules.base import Sampler, softmin
from worldsim.planners.search import Search

_HALVINGS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPPI(Sampler):
    """Cost-weighted mean of all candidates.

    Attributes:
        temperature: ``"auto"`` targets `effective`; a number is in units of cost, as in the paper.
        effective: Share of the candidates that shall count: effective sample size (Kish) over N.
        adapt: Refit the spread as well. Without, the method is the paper's, and does not converge by iterating.
    """

    temperature: float | Literal["auto"] = "auto"
    effective: float = 0.1
    adapt: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.effective <= 1 or (self.temperature != "auto" and not self.temperature > 0):
            raise InvalidInputError(
                f"effective is in (0, 1] and a temperature positive; got {self.effective} and {self.temperature}."
            )

    def refit(self, search: Search, best: Scored, scored: Scored) -> tuple[Tensor, Tensor]:
        """See `Sampler.refit`."""
        rank = scored.rank
        if self.temperature == "auto":
            scale = _scale_for(rank, max(2.0, self.effective * rank.shape[1]))
        else:
            scale = torch.full_like(rank[:, :1], self.temperature)
        weight = softmin(rank, scale).to(scored.candidates)[:, :, None, None]
        mean = (weight * scored.candidates).sum(1)
        if not self.adapt:
            return mean, search.std
        return mean, (weight * (scored.candidates - mean[:, None]).square()).sum(1).sqrt()


def _scale_for(rank: Tensor, target: float) -> Tensor:
    """The temperature [B, 1] whose weights have an effective sample size of `target`, by halving in its logarithm.

    The effective size rises with the temperature, from the number of ties for best to the number of finite candidates.
    """
    finite = rank.isfinite()
    best = rank.amin(1, keepdim=True)
    gap = torch.where(finite, rank - best, 0).sum(1, keepdim=True) / finite.sum(1, keepdim=True).clamp_min(1)
    gap = torch.nan_to_num(gap, nan=1.0, posinf=1.0).clamp_min(1e-30)
    low, high = torch.full_like(gap, -16.0), torch.full_like(gap, 6.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        weight = softmin(rank, gap * middle.exp())
        wide = 1 / weight.square().sum(1, keepdim=True).clamp_min(1e-30) > target
        low, high = torch.where(wide, low, middle), torch.where(wide, middle, high)
    return gap * ((low + high) / 2).exp()
