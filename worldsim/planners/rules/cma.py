"""CMA-ES, through the library `cmaes`: learns how the steps of a plan go together, for many iterations of few candidates.

Its full covariance pays where a plan has at most some hundred numbers; above that the diagonal variant is used.

Shape legend: B episodes, N candidates, H steps, A action width.
"""

import dataclasses
import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError, missing_extra
from worldsim.planners.evaluate import Scored
from worldsim.planners.rules.base import Setting
from worldsim.planners.search import Search

_LARGEST_FULL = 128


@dataclasses.dataclass(frozen=True, kw_only=True)
class CMA:
    """Covariance matrix adaptation (Hansen, "The CMA evolution strategy: a tutorial", 2016), one search per episode.

    Attributes:
        std: Initial step size, in half ranges of the bounds.
    """

    gradient = False

    std: float = 0.5

    def check(self, samples: int) -> None:
        """See `Rule.check`."""
        if samples < 4 or not self.std > 0:
            raise InvalidInputError(f"CMA-ES needs at least 4 samples and std > 0; got {samples} and {self.std}.")
        _library()

    def begin(self, search: Search, setting: Setting) -> tuple[Search, Tensor, list[Any]]:
        """One optimiser per episode in the unit box; what is already known, [B, K, H, A], is tried first."""
        unit = (search.mean - setting.bounds.centre) / setting.bounds.half
        flat = unit.flatten(1).double().cpu().numpy()
        kind = _library().CMA if flat.shape[1] <= _LARGEST_FULL else _library().SepCMA
        draw = setting.noise(1, 1, 1).flatten().double().cpu().numpy()
        box = np.stack([-np.ones(flat.shape[1]), np.ones(flat.shape[1])], axis=1)
        searches = [
            kind(mean=mean, sigma=self.std, bounds=box, seed=_seed(z), population_size=setting.samples)
            for mean, z in zip(flat, draw, strict=True)
        ]
        known = torch.cat([search.mean[:, None], search.elites, setting.prior], dim=1)[:, : setting.samples]
        return search, known, searches

    def propose(self, memory: tuple[Search, Tensor, list[Any]], setting: Setting) -> Tensor:
        """Candidates [B, N, H, A]: what is known, then samples of each episode's own optimiser."""
        search, known, searches = memory
        count = setting.samples - known.shape[1]
        asked = np.stack([[one.ask() for _ in range(count)] for one in searches]) if count else np.empty(0)
        unit = torch.from_numpy(asked).to(search.mean).view(len(searches), count, *search.mean.shape[1:])
        return setting.bounds.clip(torch.cat([known, setting.bounds.centre + unit * setting.bounds.half], dim=1))

    def update(
        self, memory: tuple[Search, Tensor, list[Any]], scored: Scored, setting: Setting
    ) -> tuple[Search, Tensor, list[Any]]:
        """Tell every optimiser the order of its candidates [N, H, A]; costs themselves do not matter to it."""
        search, known, searches = memory
        unit = ((scored.candidates - setting.bounds.centre) / setting.bounds.half).flatten(2).double().cpu().numpy()
        order = scored.rank.argsort(dim=1, stable=True).argsort(dim=1).double().cpu().numpy()
        for one, points, places in zip(searches, unit, order, strict=True):
            one.tell(list(zip(points, places, strict=True)))
        mean = torch.from_numpy(np.stack([one.mean for one in searches])).to(search.mean).view_as(search.mean)
        row = torch.arange(len(searches), device=mean.device)[:, None]
        best = scored.candidates[row, scored.rank.argmin(1, keepdim=True)]
        after = Search(
            mean=setting.bounds.clip(setting.bounds.centre + mean * setting.bounds.half), std=search.std, elites=best
        )
        return after, known[:, :0], searches

    def finish(self, memory: tuple[Search, Tensor, list[Any]]) -> tuple[Search, Tensor]:
        """The search, and its mean as one candidate [B, 1, H, A]."""
        return memory[0], memory[0].mean[:, None]


def _library() -> Any:
    """The library, or an error that says how to get it."""
    try:
        return importlib.import_module("cmaes")
    except ImportError as error:
        raise missing_extra("cmaes", "planners") from error


def _seed(number: float) -> int:
    """A seed from a normal number: its bits, so that every stream gives another."""
    return int(np.float64(number).view(np.uint64) >> np.uint64(21)) & 0x7FFFFFFF
