"""Keyed noise: a pure function of (episode key, step, stream), never a global generator.

Counter-based Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) in integer tensor
arithmetic, so the same key gives the same bits on every device, alone or inside a batch.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10.

    Args:
        counter: Four int64 tensors of equal shape [...], each value in 0..2**32-1.
        key: Two int64 tensors that broadcast with the counter, same range.

    Returns:
        Four int64 tensors [...] of random 32-bit words.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # 64-bit products wrap into int64: the bits are right
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def _words(keys: Tensor, step: Tensor | int, stream: int, count: int) -> Tensor:
    """Random 32-bit words, int64 [B, count]."""
    keys = keys.to(torch.int64)
    if keys.device.type == "cpu":
        return _words_numpy(keys, step, stream, count)
    blocks = (count + 3) // 4
    index = torch.arange(blocks, device=keys.device)[None, :].expand(keys.shape[0], blocks)
    steps = torch.as_tensor(step, dtype=torch.int64, device=keys.device).expand(keys.shape[0])[:, None]
    counter = (index, steps & _MASK, torch.full_like(index, stream & _MASK), (steps >> 32) & _MASK)
    counter = tuple(c.expand_as(index) for c in counter)  # type: ignore[assignment]
    words = philox(counter, ((keys & _MASK)[:, None], ((keys >> 32) & _MASK)[:, None]))
    return torch.stack(words, dim=-1).flatten(1)[:, :count]


def _words_numpy(keys: Tensor, step: Tensor | int, stream: int, count: int) -> Tensor:
    """The same words by numpy, whose operations on few numbers cost a quarter of torch's."""
    b, blocks = keys.shape[0], (count + 3) // 4
    key = keys.numpy().view(np.uint64)[:, None]
    steps = torch.as_tensor(step, dtype=torch.int64).expand(b).numpy().view(np.uint64)[:, None]
    mask, half = np.uint64(_MASK), np.uint64(32)
    multipliers, weyl = [np.uint64(m) for m in _MULTIPLIERS], [np.uint64(w) for w in _WEYL]
    c0, c1 = (
        np.broadcast_to(np.arange(blocks, dtype=np.uint64), (b, blocks)),
        np.broadcast_to(steps & mask, (b, blocks)),
    )
    c2, c3 = np.full((b, blocks), stream & _MASK, np.uint64), np.broadcast_to(steps >> half, (b, blocks))
    k0, k1 = key & mask, key >> half
    for _ in range(_ROUNDS):
        p0, p1 = c0 * multipliers[0], c2 * multipliers[1]
        c0, c1, c2, c3 = (p1 >> half) ^ c1 ^ k0, p1 & mask, (p0 >> half) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + weyl[0]) & mask, (k1 + weyl[1]) & mask
    words = np.stack((c0, c1, c2, c3), axis=-1).reshape(b, 4 * blocks)[:, :count]
    return torch.from_numpy(words.astype(np.int64))


def uniform(keys: Tensor, step: Tensor | int, shape: Sequence[int], *, stream: int = 0) -> Tensor:
    """Uniform noise in [0, 1).

    Args:
        keys: int64 [B], one per episode.
        step: int64 [B] or a number, the episode's step.
        shape: Shape of one episode's sample.
        stream: Separates uses of noise within one step.

    Returns:
        float32 [B, *shape].
    """
    words = _words(keys, step, stream, math.prod(shape))
    return ((words >> 8).to(torch.float32) * 2.0**-24).reshape(keys.shape[0], *shape)


def normal(keys: Tensor, step: Tensor | int, shape: Sequence[int], *, stream: int = 0) -> Tensor:
    """Standard normal noise by the Box-Muller transform, float32 [B, *shape]; arguments as `uniform`."""
    count = math.prod(shape)
    words = _words(keys, step, stream, 2 * count)
    u1 = ((words[:, :count] >> 8).to(torch.float64) + 1) * 2.0**-24  # in (0, 1]
    u2 = (words[:, count:] >> 8).to(torch.float64) * 2.0**-24
    value = torch.sqrt(-2 * torch.log(u1)) * torch.cos(2 * math.pi * u2)
    return value.to(torch.float32).reshape(keys.shape[0], *shape)


def fold(keys: Tensor, data: Tensor | int) -> Tensor:
    """Derive fresh keys, int64 [B], from `keys` and a number, for example a seed or a policy-side stream.

    `data` may be int64 [B], one number per key, for example the step of each episode.
    """
    words = _words(keys, data, 0x5EED, 2)
    return (words[:, 0] & 0x7FFFFFFF) << 32 | words[:, 1]


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside the context and leave them as they were, for code that draws from them.

    Modules draw their first weights that way.
    """
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield
