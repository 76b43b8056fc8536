"""A rule by itself: a setting, a fresh search, and candidates with given costs."""

import torch
from torch import Tensor

from tests.planners.toy import BOUNDS
from worldsim.planners import Bounds, Search
from worldsim.planners.evaluate import Scored
from worldsim.planners.noise import Streams
from worldsim.planners.rules.base import Setting


def setting(
    batch: int = 2, samples: int = 16, horizon: int = 3, *, bounds: Bounds = BOUNDS, prior: Tensor | None = None
) -> Setting:
    draw = Streams(torch.arange(batch), device=bounds.low.device, dtype=bounds.low.dtype)
    none = bounds.low.new_zeros(batch, 0, horizon, bounds.dim)
    return Setting(bounds=bounds, noise=draw, samples=samples, iterations=10, prior=none if prior is None else prior)


def search(batch: int = 2, horizon: int = 3, *, bounds: Bounds = BOUNDS, elites: int = 0) -> Search:
    mean = bounds.centre.expand(batch, horizon, bounds.dim)
    return Search(mean=mean, std=bounds.half.expand_as(mean), elites=mean[:, None].repeat(1, elites, 1, 1))


def scored(candidates: Tensor, cost: Tensor, gradient: Tensor | None = None) -> Scored:
    return Scored(candidates=candidates, cost=cost, violation=None, rank=cost, gradient=gradient)


def inside(actions: Tensor, bounds: Bounds = BOUNDS) -> bool:
    return torch.equal(bounds.clip(actions), actions)
