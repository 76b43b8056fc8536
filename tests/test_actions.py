import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.actions import ActionSpec
from worldsim.errors import InvalidInputError

SPEC = ActionSpec(names=("a", "b"), units=("m/s", "rad"), low=(-1, 0.5), high=(3, 2), rate_hz=10)


def test_idle_is_zero_clipped_into_the_limits() -> None:
    assert SPEC.idle == (0.0, 0.5)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=2))
def test_checking_clips_and_normalising_inverts(values: list[float]) -> None:
    action = SPEC.check(torch.tensor([values]))
    low, high = torch.tensor(SPEC.low), torch.tensor(SPEC.high)
    assert bool(((action >= low) & (action <= high)).all())
    unit = SPEC.normalize(action)
    assert bool((unit.abs() <= 1 + 1e-6).all())
    assert torch.allclose(SPEC.denormalize(unit), action, atol=1e-5)


@pytest.mark.parametrize(
    "action", [torch.zeros(3), torch.zeros(2, 1), torch.tensor(0.0), torch.tensor([float("nan"), 1])]
)
def test_bad_actions_are_refused(action: torch.Tensor) -> None:
    with pytest.raises(InvalidInputError, match="expected|finite"):
        SPEC.check(action)


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("a", "a")},
        {"names": ()},
        {"units": ("m",)},
        {"low": (3, 0.5)},
        {"high": (float("inf"), 2)},
        {"rate_hz": 0.0},
        {"idle": (9.0, 1.0)},
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    fields = {"names": ("a", "b"), "units": ("m", "m"), "low": (-1, 0.5), "high": (3, 2), "rate_hz": 10.0}
    with pytest.raises(InvalidInputError):
        ActionSpec(**{**fields, **change})
