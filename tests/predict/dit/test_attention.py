import math

import pytest
import torch
from torch import Tensor

from worldsim.predict.dit import attention
from worldsim.predict.dit.attention import attend, fits_flash


def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bshd,blhd->bhsl", q, k) / math.sqrt(q.shape[-1])
    return torch.einsum("bhsl,blhd->bshd", scores.softmax(-1), v)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("queries", "keys", "heads", "dim"), [(5, 5, 1, 8), (3, 7, 4, 6), (1, 1, 2, 32)])
def test_equals_naive_softmax(queries: int, keys: int, heads: int, dim: int) -> None:
    q, k, v = (random(2, n, heads, dim, seed=i) for i, n in enumerate((queries, keys, keys)))
    assert torch.allclose(attend(q, k, v), naive(q, k, v), atol=1e-12)
    half = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.double(), naive(q, k, v), atol=3e-2)


def test_flash_is_called_where_it_fits_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        calls.append(tuple(q.shape))
        return naive(q, k, v)

    monkeypatch.setattr(attention, "_flash", lambda: flash)
    q = random(2, 4, 2, 8, seed=0)
    plain = attend(q, q, q)
    assert not calls  # on the CPU
    monkeypatch.setattr(attention, "fits_flash", lambda _: True)
    assert torch.allclose(attend(q, q, q), plain, atol=1e-12)
    assert calls == [(2, 4, 2, 8)]
    monkeypatch.setattr(attention, "_flash", lambda: None)
    assert torch.equal(attend(q, q, q), plain)
    assert len(calls) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_devices_and_types_that_fit() -> None:
    def at(dtype: torch.dtype, dim: int) -> bool:
        return fits_flash(torch.zeros(1, 2, 1, dim, dtype=dtype, device="cuda"))

    assert at(torch.bfloat16, 64) and at(torch.float16, 8)
    assert not at(torch.float32, 64) and not at(torch.bfloat16, 12) and not at(torch.bfloat16, 264)
    q = torch.randn(2, 16, 4, 32, dtype=torch.bfloat16, device="cuda")
    assert torch.allclose(attend(q, q, q).float(), naive(q.float(), q.float(), q.float()), atol=3e-2)


def test_the_cpu_never_fits_flash() -> None:
    assert not fits_flash(torch.zeros(1, 2, 1, 64, dtype=torch.bfloat16))
