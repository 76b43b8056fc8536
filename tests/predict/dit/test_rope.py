import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.predict.dit.rope import axis_dims, rope_angles, rotate


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
