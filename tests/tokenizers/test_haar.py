import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.haar import haar_2d, haar_2d_inverse, haar_3d, haar_3d_inverse


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(levels=st.integers(0, 3), rows=st.integers(1, 3), columns=st.integers(1, 3), seed=st.integers(0, 99))
def test_images_come_back_exactly_and_keep_their_energy(levels: int, rows: int, columns: int, seed: int) -> None:
    x = noise(2, 3, rows * 2**levels, columns * 2**levels, seed=seed)
    y = haar_2d(x, levels=levels)
    assert y.shape == (2, 3 * 4**levels, rows, columns)
    assert torch.allclose(y.square().sum(), x.square().sum())
    assert torch.allclose(haar_2d_inverse(y, levels=levels), x, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(levels=st.integers(0, 2), groups=st.integers(0, 3), seed=st.integers(0, 99))
def test_videos_come_back_exactly(levels: int, groups: int, seed: int) -> None:
    x = noise(1, 3, 1 + groups * 2**levels, 8, 4, seed=seed)
    y = haar_3d(x, levels=levels)
    assert y.shape == (1, 3 * 8**levels, 1 + groups, 8 // 2**levels, 4 // 2**levels)
    assert torch.allclose(haar_3d_inverse(y, levels=levels), x, atol=1e-12)


def test_single_precision_reconstruction_is_within_a_millionth() -> None:
    x = noise(1, 3, 9, 16, 16).float().clamp(-1, 1)
    assert (haar_3d_inverse(haar_3d(x, levels=2), levels=2) - x).abs().max() < 1e-6
    assert (haar_2d_inverse(haar_2d(x[:, :, 0], levels=3), levels=3) - x[:, :, 0]).abs().max() < 1e-6


def test_bands_are_low_to_high_with_height_before_width() -> None:
    flat, rows, columns = (
        torch.ones(1, 1, 2, 2),
        torch.tensor([[[[1.0, 1], [-1, -1]]]]),
        torch.tensor([[[[1.0, -1], [1, -1]]]]),
    )
    assert haar_2d(flat, levels=1).flatten().tolist() == pytest.approx([2, 0, 0, 0])
    assert haar_2d(columns, levels=1).flatten().tolist() == pytest.approx([0, 2, 0, 0])
    assert haar_2d(rows, levels=1).flatten().tolist() == pytest.approx([0, 0, 2, 0])


def test_later_frames_leave_earlier_groups_alone() -> None:
    x = noise(1, 3, 9, 8, 8)
    changed = x.clone()
    changed[:, :, 5:] += 1  # group 2 of groups {0}, {1..4}, {5..8}
    before, after = haar_3d(x, levels=2), haar_3d(changed, levels=2)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.allclose(before[:, :, 2], after[:, :, 2])
    assert torch.equal(haar_3d(x[:, :, :1], levels=2), before[:, :, :1])


def test_sizes_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="multiples of 8"):
        haar_2d(torch.zeros(1, 3, 12, 16), levels=3)
    with pytest.raises(InvalidInputError, match=r"1 \+ k \* 4 frames; got 4"):
        haar_3d(torch.zeros(1, 3, 4, 8, 8), levels=2)
