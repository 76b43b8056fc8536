import pytest
import torch

from worldsim.actions import ActionSpec
from worldsim.policies.pixel import PixelPolicy, PixelPolicyConfig
from worldsim.policies.state import StatePolicy, StatePolicyConfig

SPEC = ActionSpec(names=("vx", "vy"), units=("m/s", "m/s"), low=(-0.4, -0.2), high=(0.4, 0.2), rate_hz=10)


@pytest.fixture
def spec():
    return SPEC


@pytest.fixture
def make_pixel():
    def make(seed=0, **changes):
        torch.manual_seed(seed)
        sizes = {"image_size": (16, 24), "channels": (4, 6), "hidden": 16, **changes}
        return PixelPolicy(
            PixelPolicyConfig(action=SPEC, proprio_mean=(0.1, 0.0), proprio_std=(0.2, 0.3), **sizes)
        ).eval()

    return make


@pytest.fixture
def make_state():
    def make(seed=0, **changes):
        torch.manual_seed(seed)
        config = StatePolicyConfig(
            action=SPEC,
            proprio_mean=(0.1, 0.0),
            proprio_std=(0.2, 0.3),
            state_mean=(0.0,) * 4,
            state_std=(0.5,) * 4,
            **{"hidden": 16, **changes},
        )
        return StatePolicy(config).eval()

    return make
