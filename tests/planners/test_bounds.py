import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.actions import ActionSpec
from worldsim.errors import InvalidInputError
from worldsim.planners import Bounds

SPEC = ActionSpec(names=("a", "b"), units=("m", "rad"), low=(-1, 2), high=(3, 4), rate_hz=10)
ASKEW = Bounds(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 4.0]))


@pytest.mark.parametrize(
    "value",
    [
        ASKEW,
        SPEC,
        gymnasium.spaces.Box(np.array([-1, 2], np.float32), np.array([3, 4], np.float32)),
        ([-1, 2], [3, 4]),
        (torch.tensor([-1, 2]), np.array([3.0, 4.0], np.float32)),
    ],
    ids=["bounds", "spec", "box", "lists", "mixed"],
)
def test_bounds_are_read_from_what_is_at_hand(value: object) -> None:
    box = Bounds.of(value)
    assert box.low.tolist() == [-1, 2] and box.high.tolist() == [3, 4]
    assert box.low.is_floating_point() and box.dim == 2


def test_a_number_is_a_box_of_one_dimension() -> None:
    assert Bounds.of((-2.0, 2.0)).dim == 1


@pytest.mark.parametrize(
    "value",
    [
        ([1.0], [1.0]),
        ([2.0], [1.0]),
        ([0.0], [torch.inf]),
        ([-torch.inf], [0.0]),
        ([torch.nan], [1.0]),
        ([0.0, 0.0], [1.0]),
        ([[0.0]], [[1.0]]),
        (["low"], ["high"]),
        [1.0],
        3,
        None,
    ],
    ids=str,
)
def test_what_is_no_box_is_refused(value: object) -> None:
    with pytest.raises(InvalidInputError):
        Bounds.of(value)


@pytest.mark.parametrize("limit", [np.inf, np.finfo(np.float32).max])
def test_an_unbounded_space_has_to_give_a_range(limit: float) -> None:
    with pytest.raises(InvalidInputError, match="finite.*range that the robot may use"):
        Bounds.of(gymnasium.spaces.Box(-limit, limit, (2,)))


def test_half_centre_and_clip() -> None:
    assert ASKEW.half.tolist() == [2, 1] and ASKEW.centre.tolist() == [1, 3]
    assert ASKEW.clip(torch.tensor([[-9.0, 2.5], [9.0, 9.0]])).tolist() == [[-1, 2.5], [3, 4]]


@given(
    scale=st.tuples(*[st.sampled_from([-2.5, -0.1, 0.3, 4.0])] * 2),
    offset=st.tuples(*[st.floats(-3, 3)] * 2),
    share=st.tuples(*[st.floats(0, 1)] * 2),
)
def test_the_scaled_box_holds_exactly_the_scaled_actions(scale: tuple, offset: tuple, share: tuple) -> None:
    mean, std = torch.tensor(offset), torch.tensor(scale)
    box = ASKEW.scaled(offset, scale)
    action = ASKEW.low + torch.tensor(share) * (ASKEW.high - ASKEW.low)
    there = (action - mean) / std
    assert bool((box.low - 1e-4 <= there).all() and (there <= box.high + 1e-4).all())
    assert torch.allclose(box.half, ASKEW.half / std.abs(), rtol=1e-4)
    assert torch.allclose(box.centre * std + mean, ASKEW.centre, atol=1e-4)


@pytest.mark.parametrize(("mean", "std"), [([0, 0], [1, 0]), ([0, 0, 0], [1, 1, 1]), ([0, 0], [1, 1, 1])])
def test_a_scaler_that_does_not_fit_is_refused(mean: list, std: list) -> None:
    with pytest.raises((InvalidInputError, RuntimeError)):
        ASKEW.scaled(mean, std)


def test_a_block_is_several_actions_side_by_side() -> None:
    block = ASKEW.block(3)
    assert block.low.tolist() == [-1, 2] * 3 and block.high.tolist() == [3, 4] * 3
    with pytest.raises(InvalidInputError):
        ASKEW.block(0)


def test_choices_are_a_box_of_one_hot_actions() -> None:
    assert Bounds.categorical(3).low.tolist() == [0, 0, 0]
    assert Bounds.categorical(3).high.tolist() == [1, 1, 1]
    with pytest.raises(InvalidInputError):
        Bounds.categorical(1)


def test_another_float_type() -> None:
    box = ASKEW.to(torch.float64)
    assert box.low.dtype == box.high.dtype == box.half.dtype == torch.float64
