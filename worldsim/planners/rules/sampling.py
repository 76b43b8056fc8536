"""The rules that sample candidates and refit their distribution; they differ in how.

`Predictive` keeps the best of many (Howell et al., "Predictive sampling", 2022, section 3.3), `Random` samples the full box and
learns nothing. `CEM(beta=2, keep=5)` is iCEM (Pinneri et al., "Sample-efficient cross-entropy method for real-time planning",
2020), `CEM(beta=0, keep=0)` the plain method (Rubinstein, 1999), `Weighted` the elite-weighted update that TD-MPC2 calls MPPI
(Hansen et al., 2024, section 3.2). In `MPPI` every candidate pulls the mean (Williams et al., 2017, equation 34).
`CategoricalCEM` is for actions that are choices.
"""

import dataclasses
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.planners.evaluate import Scored
from worldsim.planners.noise import smooth
from worldsim.planners.rules.base import Sampler, Setting, softmin, spread
from worldsim.planners.search import Search


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predictive(Sampler):
    """The mean becomes the best candidate, itself included, so a plan is never given up for a worse one."""

    elites: int | float = 1
    std: float = 0.3

    def refit(self, search: Search, best: Scored, scored: Scored) -> tuple[Tensor, Tensor]:
        """See `Sampler.refit`."""
        return best.candidates[:, 0], search.std


@dataclasses.dataclass(frozen=True, kw_only=True)
class Random(Predictive):
    """Candidates uniform in the bounds at every step, smooth in time as `beta` says."""

    beta: float = 0.0
    keep: int = 0

    def propose(self, memory: tuple[Search, Tensor], setting: Setting) -> Tensor:
        """See `Sampler.propose`; the Gaussian's own distribution function makes it uniform."""
        search, prior = memory
        noise = smooth(setting.noise(setting.samples, *search.mean.shape[1:]), self.beta)
        share = (1 + torch.erf(noise / math.sqrt(2))) / 2
        candidates = setting.bounds.low + share * (setting.bounds.high - setting.bounds.low)
        known = torch.cat([search.mean[:, None], prior], dim=1)[:, : setting.samples]
        return setting.bounds.clip(torch.cat([known, candidates[:, known.shape[1] :]], dim=1))


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


_HALVINGS = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class MPPI(Sampler):
    """Cost-weighted mean of all candidates.

    A temperature in units of cost would have to be tuned for every task; by default it is chosen so that a given share of the
    candidates effectively counts.

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoricalCEM(Sampler):
    """Refits the probability of each choice to the elites' frequencies.

    For `Bounds.categorical(n)`: actions are one-hot float [B, N, H, n], `plan.actions.argmax(-1)` gives the choices.

    Attributes:
        floor: Share of uniform choice that always remains.
    """

    elites: int | float = 1 / 8
    beta: float = 0.0
    floor: float = 0.05

    def begin(self, search: Search, setting: Setting) -> tuple[Search, Tensor]:
        """A uniform distribution [B, H, n], tilted towards the plan at hand where one is given."""
        uniform = torch.full_like(search.mean, 1 / search.mean.shape[-1])
        given = _one_hot(search.mean)
        warm = search.elites.shape[1] > 0
        mean = uniform.lerp(given, 0.5) if warm else uniform
        return dataclasses.replace(search, mean=mean), torch.cat([given[:, None], setting.prior], dim=1)

    def propose(self, memory: tuple[Search, Tensor], setting: Setting) -> Tensor:
        """Choices [B, N, H, n] by the Gumbel-max trick, after those already known."""
        search, prior = memory
        known = torch.cat([_one_hot(search.mean)[:, None], search.elites[:, : self.keep], prior], dim=1)
        noise = setting.noise(setting.samples, *search.mean.shape[1:])
        share = ((1 + torch.erf(noise / math.sqrt(2))) / 2).clamp(1e-6, 1 - 1e-6)
        drawn = _one_hot(search.mean.clamp_min(1e-12).log()[:, None] - (-share.log()).log())
        return torch.cat([known, drawn], dim=1)[:, : setting.samples]

    def refit(self, search: Search, best: Scored, scored: Scored) -> tuple[Tensor, Tensor]:
        """See `Sampler.refit`."""
        frequency = best.candidates.mean(dim=1)
        return frequency.lerp(torch.full_like(frequency, 1 / frequency.shape[-1]), self.floor), search.std

    def finish(self, memory: tuple[Search, Tensor]) -> tuple[Search, Tensor]:
        """The search, and the likeliest choices [B, 1, H, n]."""
        return memory[0], _one_hot(memory[0].mean)[:, None]


def _one_hot(score: Tensor) -> Tensor:
    """One-hot of the largest along the last axis."""
    return F.one_hot(score.argmax(-1), score.shape[-1]).to(score.dtype)
