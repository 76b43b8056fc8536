"""Every policy of this package against the executable contract that users' policies are checked with."""

import pytest

from worldsim.core import STATE, Camera, WorldSpec
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.policies.function import FunctionPolicy
from worldsim.policies.scripted import PushExpert, PushExpertConfig
from worldsim.testing.policies import check_policy

NOISY = Degradation(noise=0.3, noise_memory=0.5, random=0.3, delay_steps=1, frozen_after=4)


@pytest.mark.parametrize("kind", ["pixel", "state", "expert", "goals", "noisy", "function", "chunks"])
def test_contract(kind, spec, make_pixel, make_state):
    policy = {
        "pixel": make_pixel,
        "state": make_state,
        "chunks": lambda: make_pixel(chunk=3, executed=2),
        "expert": PushExpert,
        "goals": lambda: PushExpert(PushExpertConfig(goal_spread_m=0.1, offset_m=0.02)),
        "noisy": lambda: DegradedPolicy(make_pixel(), action=spec, how=NOISY),
        "function": lambda: FunctionPolicy(lambda seen: seen[STATE] * 0.1),
    }[kind]()
    world = WorldSpec(
        action=spec, cameras=(Camera(height=16, width=24),), latent_shape=(1, 1, 1), proprio_dim=2, horizon=10
    )
    check_policy(policy, world)
