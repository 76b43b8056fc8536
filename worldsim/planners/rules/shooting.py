"""The simplest rules: take the best of many. Baselines, and good ones where a plan is remade at every step.

`Predictive` samples around the plan at hand and keeps the best (Howell et al., "Predictive sampling", 2022, section 3.3);
`Random` samples the full box and learns nothing from one iteration for the next.
"""

import dataclasses
import math

import torch
from torch import Tensor

from worldsim.planners.evaluate import Scored
from worldsim.planners.noise import smooth
from worldsim.planners.rules.base import Sampler, Setting
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
