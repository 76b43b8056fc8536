import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worldsim.actions import ActionSpec
from worldsim.core import Camera, WorldSpec
from worldsim.errors import PolicyError
from worldsim.policies.checks import check_fits, checked_action
from worldsim.policies.scripted import PushExpert

SPEC = ActionSpec(names=("vx", "vy"), units=("m/s", "m/s"), low=(-0.4, -0.2), high=(0.4, 0.2), rate_hz=10)


def world(**changes):
    values = {
        "action": SPEC,
        "cameras": (Camera(height=16, width=24),),
        "latent_shape": (1, 1, 1),
        "proprio_dim": 2,
        "horizon": 5,
    }
    return WorldSpec(**{**values, **changes})


def test_fitting_policies_pass(make_pixel, make_state):
    for policy in (make_pixel(), make_state(), PushExpert()):
        check_fits(policy, world(), name="p")


def test_what_does_not_fit_is_named(make_pixel, make_state):
    with pytest.raises(PolicyError, match=r"run1.*proprio_dim is 2, the world's is 3; image_size is \(16, 24\)"):
        check_fits(make_pixel(), world(cameras=(Camera(height=64, width=64),), proprio_dim=3), name="run1")
    check_fits(make_state(), world(cameras=(Camera(height=64, width=64),)), name="it looks at no image")
    one = ActionSpec(names=("v",), units=("m/s",), low=(-1.0,), high=(1.0,), rate_hz=10)
    with pytest.raises(PolicyError, match="action_dim is 2, the world's is 1"):
        check_fits(make_state(), world(action=one), name="run1")


@given(st.lists(st.lists(st.floats(-1024, 1024, width=32), min_size=2, max_size=2), min_size=1, max_size=4))
def test_finite_numbers_pass_unchanged(rows):
    action = checked_action(rows, policy="p", n=len(rows), dim=2)
    assert torch.equal(action, torch.tensor(rows, dtype=torch.float32))


@given(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4), st.integers(1, 4))
def test_every_other_shape_is_refused(rows, columns, n, dim):
    value = torch.zeros(rows, columns)
    if (rows, columns) == (n, dim):
        checked_action(value, policy="p", n=n, dim=dim)
    else:
        with pytest.raises(PolicyError, match="shape"):
            checked_action(value, policy="p", n=n, dim=dim)
