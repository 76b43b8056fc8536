"""Rectified flow: straight paths from data to noise, and the Euler sampler that walks them back.

x_t = (1 - t) x + t e with e standard normal; the velocity is v = e - x (Liu et al., "Flow straight and fast", ICLR 2023, eq. 1; sign and
direction as Cosmos-Predict2.5, arXiv 2511.00062, section 3.1). Timesteps are logit-normal and shifted towards noise. Functions only;
the model that predicts v is `worldsim.predict.dit.flow`.

Shape legend: B batch, ... any sample shape.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
"""From x_t and t to the velocity at x_t."""


def interpolate(x: Tensor, noise: Tensor, time_B: Tensor) -> Tensor:
    """The point x_t on the straight path of each sample: t = 0 is data, t = 1 is noise."""
    t = time_B.view(-1, *[1] * (x.ndim - 1))
    return (1 - t) * x + t * noise


def shift_time(time: Tensor, shift: float) -> Tensor:
    """Move timesteps in 0..1 towards noise: t' = s t / (1 + (s - 1) t); the ends stay."""
    return shift * time / (1 + (shift - 1) * time)


def time_grid(steps: int, shift: float) -> list[float]:
    """The `steps` + 1 timesteps that the sampler visits, from 1 to 0."""
    return [float(t) for t in shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift)]


def sample_times(
    count: int, *, shift: float, steps: int, grid_share: float, generator: torch.Generator | None = None
) -> Tensor:
    """Draw training timesteps: some where the sampler will stand, the others logit-normal over all of 0..1.

    Args:
        count: How many.
        shift: As in `shift_time`.
        steps: Steps of the sampler.
        grid_share: Probability of drawing one of the sampler's own timesteps.
        generator: Source of randomness.

    Returns:
        float32 [count] on the generator's device, in 0..1.
    """
    device = generator.device if generator is not None else None
    normal = torch.randn(count, generator=generator, device=device)
    spread = shift_time(normal.sigmoid(), shift)
    visited = torch.tensor(time_grid(steps, shift)[:-1], dtype=torch.float32, device=device)
    on_grid = visited[torch.randint(steps, (count,), generator=generator, device=device)]
    return torch.where(torch.rand(count, generator=generator, device=device) < grid_share, on_grid, spread)


def euler(velocity: Velocity, noise: Tensor, grid: list[float]) -> tuple[Tensor, Tensor]:
    """Walk from noise to data along `grid`.

    Args:
        velocity: The field.
        noise: Where to start, standard normal.
        grid: Timesteps from 1 to 0.

    Returns:
        The sample, and the end point that the first step alone aimed at; they agree where the paths are straight, that is where
        the outcome is certain.
    """
    x, aim = noise, noise
    for i, (now, then) in enumerate(itertools.pairwise(grid)):
        v = velocity(x, now)
        if i == 0:
            aim = x - now * v
        x = x + (then - now) * v
    return x, aim
