"""Categorical cross-entropy method, for actions that are choices: one-hot candidates, one distribution per step.

Use it with `Bounds.categorical(n)`: actions are one-hot float [B, N, H, n], `plan.actions.argmax(-1)` gives the choices.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.planners.evaluate import Scored
from worldsim.planners.rules.base import Sampler, Setting
from worldsim.planners.search import Search


@dataclasses.dataclass(frozen=True, kw_only=True)
class CategoricalCEM(Sampler):
    """Refits the probability of each choice to the elites' frequencies.

    Attributes:
        floor: Share of uniform choice that always remains.
    """

    elites: int | float = 1 / 8
    beta: float = 0.0
    floor: float = 0.05

    def begin(self, search: Search, setting: Setting) -> tuple[Search, Tensor]:
        """A uniform distribution, tilted towards the plan at hand where one is given."""
        uniform = torch.full_like(search.mean, 1 / search.mean.shape[-1])
        given = _one_hot(search.mean)
        warm = search.elites.shape[1] > 0
        mean = uniform.lerp(given, 0.5) if warm else uniform
        return dataclasses.replace(search, mean=mean), torch.cat([given[:, None], setting.prior], dim=1)

    def propose(self, memory: tuple[Search, Tensor], setting: Setting) -> Tensor:
        """Choices by the Gumbel-max trick, after those already known."""
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
        """The search, and the likeliest choices."""
        return memory[0], _one_hot(memory[0].mean)[:, None]


def _one_hot(score: Tensor) -> Tensor:
    """One-hot of the largest along the last axis."""
    return F.one_hot(score.argmax(-1), score.shape[-1]).to(score.dtype)
