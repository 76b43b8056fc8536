"""Attention over given keys, flash or not, and rotary positions."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worldsim.errors import InvalidInputError
from worldsim.predict.dit import attention
from worldsim.predict.dit.attention import attend, axis_dims, fits_flash, rope_angles, rotate


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


def angles(grid: tuple[int, int, int], dim: int = 16, **kwargs: object) -> torch.Tensor:
    return rope_angles(grid, head_dim=dim, **kwargs).unflatten(0, grid)


@given(dim=st.integers(3, 64).map(lambda n: 2 * n))
def test_axes_share_out_all_channels(dim: int) -> None:
    time, height, width = axis_dims(dim)
    assert time + height + width == dim and height == width == 2 * (dim // 6) and time >= height
    assert rope_angles((2, 3, 4), head_dim=dim).shape == (24, dim // 2)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), by=st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)))
def test_scores_depend_on_relative_places_alone(seed: int, by: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator)
    turn = angles((5, 5, 5))
    a, b = (1, 2, 0), (2, 0, 1)
    moved_a, moved_b = (tuple(i + j for i, j in zip(p, by, strict=True)) for p in (a, b))
    near = (rotate(q, turn[a][None]) * rotate(k, turn[b][None])).sum()
    far = (rotate(q, turn[moved_a][None]) * rotate(k, turn[moved_b][None])).sum()
    assert torch.allclose(near, far, atol=1e-4)


def test_rotation_keeps_lengths_and_the_origin_stands_still() -> None:
    x = torch.randn(2, 24, 3, 16, generator=torch.Generator().manual_seed(0))
    turned = rotate(x, rope_angles((2, 3, 4), head_dim=16))
    assert torch.allclose(turned.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1:], x[:, 1:])


def test_each_axis_turns_its_own_channels() -> None:
    turn = angles((3, 3, 3))  # 16 channels: 4 time pairs, 2 height, 2 width
    assert turn[0, 0, 2, :6].abs().sum() == 0 and (turn[0, 0, 2, 6:] > 0).all()
    assert turn[0, 2, 0, [0, 1, 2, 3, 6, 7]].abs().sum() == 0 and (turn[0, 2, 0, 4:6] > 0).all()
    assert turn[2, 0, 0, 4:].abs().sum() == 0 and (turn[2, 0, 0, :4] > 0).all()


def test_frequencies_are_the_published_ones() -> None:
    time = angles((2, 1, 1))[1, 0, 0, :4]
    assert time.tolist() == pytest.approx([10000 ** (-i / 4) for i in range(4)])
    stretched = angles((2, 1, 1), ratios=(2.0, 1.0, 1.0))[1, 0, 0, :4]
    theta = 10000 * 2 ** (8 / 6)
    assert stretched.tolist() == pytest.approx([theta ** (-i / 4) for i in range(4)])
    assert stretched[-1] < time[-1]


def test_twice_the_frame_rate_halves_the_phase_of_time_only() -> None:
    slow, fast = angles((4, 2, 2), fps_hz=12.0), angles((4, 2, 2), fps_hz=24.0)
    assert torch.allclose(fast[..., :4] * 2, slow[..., :4])
    assert torch.equal(fast[..., 4:], slow[..., 4:])
    assert torch.equal(fast, angles((4, 2, 2)))  # 24 Hz is the base


def test_half_precision_keeps_its_type() -> None:
    x = torch.randn(1, 4, 2, 16)
    turned = rotate(x.bfloat16(), rope_angles((1, 2, 2), head_dim=16))
    assert turned.dtype == torch.bfloat16
    assert torch.allclose(turned.float(), rotate(x, rope_angles((1, 2, 2), head_dim=16)), atol=3e-2)


def test_heads_too_narrow_are_refused() -> None:
    for dim in (4, 7):
        with pytest.raises(InvalidInputError, match="at least 6"):
            axis_dims(dim)
    with pytest.raises(InvalidInputError, match="too narrow"):
        rope_angles((2, 2, 2), head_dim=6, ratios=(1.0, 2.0, 1.0))
    assert math.isclose(float(rope_angles((1, 2, 1), head_dim=6)[1, 1]), 1.0)
