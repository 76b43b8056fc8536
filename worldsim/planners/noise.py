"""The planners' randomness: one stream per episode, white or smooth in time.

A plan must not change because other episodes share its batch, so every episode draws from its own generator, seeded by
its own key. Smooth noise is white noise times a fixed matrix: a Gaussian is its covariance, and the covariance that a
power spectrum of f^-beta gives is known in closed form (Timmer and Koenig, "On generating power law noise", 1995).

Shape legend: B episodes, N samples, H steps, A action width.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from worldsim.errors import InvalidInputError

Noise = Callable[[int, int, int], Tensor]
"""(N, H, A) -> standard normal noise [B, N, H, A]; each call gives fresh numbers."""


def episode_keys(batch: int, seed: int) -> Tensor:
    """Keys of B episodes, int64 [B]: that of episode i depends on i and the seed alone.

    Made for every plan again, so they are mixed in a few operations: twice the finalizer of SplitMix64 (Steele et al.,
    "Fast splittable pseudorandom number generators", 2014, figure 17), over the seed and then over the episodes.
    """
    begin = _mix(seed)
    return torch.tensor([(_mix(begin + episode) ^ 2**63) - 2**63 for episode in range(batch)])  # as signed numbers


def _mix(number: int) -> int:
    """A number of 64 bits that any change of the given one changes all over."""
    number = (number + _GOLDEN) * _GOLDEN & _MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & _MASK
    return number ^ number >> 31


_MASK = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15


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
        self._scratch: Tensor | None = None

    def __call__(self, samples: int, steps: int, width: int) -> Tensor:
        """Fresh standard normal numbers, [B, N, H, A]."""
        noise = torch.empty(len(self._generators), samples, steps, width, device=self._device, dtype=self._dtype)
        half = (samples + 1) // 2
        torch.neg(self.fill(noise[:, :half])[:, : samples - half], out=noise[:, half:])
        return noise

    def scratch(self, like: Tensor) -> Tensor:
        """Memory of the shape of `like` [B, K, H, A], the same at every call: what is in it does not last."""
        if self._scratch is None or self._scratch.shape != like.shape:
            self._scratch = torch.empty_like(like, memory_format=torch.contiguous_format)
        return self._scratch

    def fill(self, out: Tensor) -> Tensor:
        """Fresh numbers in place of `out` [B, K, H, A], the first half of N samples; the second is its mirror image."""
        for row, generator in enumerate(self._generators):
            out[row].normal_(generator=generator)
        return out


def samples_around(mean: Tensor, std: Tensor, noise: Noise, *, samples: int, beta: float) -> Tensor:
    """Fresh candidates mean + std * noise, [B, N, H, A].

    Of `Streams` only the first half is coloured and scaled; the second is its mirror image, in the same bits.

    Args:
        mean: [B, H, A].
        std: [B, H, A].
        noise: Where numbers come from.
        samples: N.
        beta: Exponent of the noise's spectrum over time.
    """
    std_B1HA, mean_B1HA = std[:, None], mean[:, None]
    if not isinstance(noise, Streams):
        white = noise(samples, *mean.shape[1:])
        return torch.mul(smooth(white, beta), std_B1HA, out=white).add_(mean_B1HA)
    half = (samples + 1) // 2
    candidates = mean.new_empty(len(mean), samples, *mean.shape[1:])
    first, second = candidates[:, :half], candidates[:, half:]
    white = noise.fill(noise.scratch(first) if beta else first)
    torch.mul(smooth(white, beta), std_B1HA, out=first)
    torch.sub(mean_B1HA, first[:, : samples - half], out=second)
    first.add_(mean_B1HA)
    return candidates


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
