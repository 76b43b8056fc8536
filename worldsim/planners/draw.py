"""The planners' randomness: one stream per episode, white or smooth in time.

A plan must not change because other episodes share its batch, so every episode draws from its own generator, seeded by
its own key. Smooth noise is white noise times a fixed matrix: a Gaussian is its covariance, and the covariance that a
power spectrum of f^-beta gives is known in closed form (Timmer and Koenig, "On generating power law noise", 1995).

Shape legend: B episodes, N samples, H steps, A action width.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

Noise = Callable[[int, int, int], Tensor]
"""(N, H, A) -> standard normal noise [B, N, H, A]; each call gives fresh numbers."""


def episode_keys(batch: int, seed: int) -> Tensor:
    """Keys of B episodes, int64 [B]: that of episode i depends on i and the seed alone.

    Drawn anew for every plan, so they are mixed in a few operations: twice the finalizer of SplitMix64 (Steele et al.,
    "Fast splittable pseudorandom number generators", 2014, figure 17), over the seed and then over the episodes.
    """
    begin = _mix(np.array([seed & (2**64 - 1)], dtype=np.uint64))
    return torch.from_numpy(_mix(begin + np.arange(batch, dtype=np.uint64)).view(np.int64))


def _mix(number: "np.ndarray[Any, np.dtype[np.uint64]]") -> "np.ndarray[Any, np.dtype[np.uint64]]":
    """uint64 [n] -> [n], one to one."""
    number = (number + _GOLDEN) * _GOLDEN
    for shift, factor in _FINALIZER:
        number = (number ^ (number >> shift)) * factor
    return number ^ (number >> np.uint64(31))


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FINALIZER = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))


class Streams:
    """White noise from one generator per episode.

    Args:
        keys: int64 [B].
        device: Where the noise is drawn.
        dtype: Its float type.
    """

    def __init__(self, keys: Tensor, *, device: torch.device, dtype: torch.dtype) -> None:
        self._generators = [torch.Generator(device).manual_seed(key & (2**63 - 1)) for key in keys.tolist()]
        self._device, self._dtype = device, dtype

    def __call__(self, samples: int, steps: int, width: int) -> Tensor:
        """Fresh standard normal numbers, [B, N, H, A]."""
        shape = (len(self._generators), samples, steps, width)
        noise = torch.empty(shape, device=self._device, dtype=self._dtype)
        for row, generator in zip(noise, self._generators, strict=True):
            row.normal_(generator=generator)
        return noise


@functools.cache
def colour(steps: int, beta: float) -> Tensor:
    """The matrix [H, H] that turns white noise of unit variance into noise with spectrum f^-beta and unit variance.

    A row of white noise w [H] becomes `w @ colour(H, beta).T`. beta = 0 is the identity; 2 is a random walk's
    spectrum. The lowest frequency counts as 1 / H, so that a constant is not infinitely likely.

    Raises:
        InvalidInputError: beta is negative or not finite.
    """
    if not 0 <= beta < float("inf"):
        raise InvalidInputError(f"The noise exponent beta must be finite and at least 0; got {beta}.")
    period = 2 * steps  # drawn over twice the horizon and cut, so that the plan's end does not join its beginning
    frequency = torch.fft.rfftfreq(period, dtype=torch.float64).clamp_min(1.0 / steps)
    covariance = torch.fft.irfft(frequency**-beta, n=period)[:steps]
    lag = (torch.arange(steps)[:, None] - torch.arange(steps)[None, :]).abs()
    correlation = (covariance / covariance[0])[lag]
    value, vector = torch.linalg.eigh(correlation)
    root: Tensor = (vector * value.clamp_min(0).sqrt()) @ vector.T  # the symmetric root, free of the solver's signs
    return root


def smooth(noise: Tensor, beta: float) -> Tensor:
    """Colour white noise [B, N, H, A] along time."""
    if beta == 0:
        return noise
    b, n, h, a = noise.shape
    mixed = noise.view(b, n, a, h) @ _colour(
        h, beta, noise.device, noise.dtype
    )  # independent numbers: any order of them will do
    return mixed.transpose(2, 3)


@functools.cache
def _colour(steps: int, beta: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    return colour(steps, beta).to(device, dtype)
