"""Policies on actions of which one is a choice: trained, degraded and functions."""

from pathlib import Path

import pytest
import torch
from gymnasium import spaces

from worldsim.core import STATE, TRUE_STATE
from worldsim.errors import PolicyError
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.policies.state import StatePolicy, StatePolicyConfig
from worldsim.spaces import action_spec, to_env

SPACE = spaces.Dict({"arm": spaces.Box(-1, 1, (2,)), "tool": spaces.Discrete(4)})
SPEC = action_spec(SPACE, rate_hz=10)
SEEN = {STATE: torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), TRUE_STATE: torch.ones(5, 3)}


def policy() -> StatePolicy:
    torch.manual_seed(0)
    return StatePolicy(
        StatePolicyConfig(
            action=SPEC,
            proprio_mean=(0.0,) * 2,
            proprio_std=(1.0,) * 2,
            state_mean=(0.0,) * 3,
            state_std=(1.0,) * 3,
            chunk=3,
        )
    )


def test_a_trained_policy_chooses(tmp_path: Path) -> None:
    made = policy()
    made.save_pretrained(tmp_path / "p")
    loaded = StatePolicy.from_pretrained(tmp_path / "p")
    assert loaded.net[-1].out_features == 3 * 6
    action, _ = loaded.act(SEEN, loaded.initial(5), torch.arange(5))
    assert action.shape == (5, 3)
    assert all(SPACE.contains(to_env(SPEC, row)) for row in action)


def test_a_network_that_breaks_is_not_taken_for_a_choice() -> None:
    broken = policy()
    with torch.no_grad():
        broken.net[-1].bias.fill_(float("nan"))
    with pytest.raises(PolicyError, match="NaN"):
        broken.act(SEEN, broken.initial(5), torch.arange(5))


def test_degraded_policies_still_choose() -> None:
    worse = DegradedPolicy(policy(), action=SPEC, how=Degradation(noise=0.5, random=0.5))
    carry, chosen = worse.initial(5), []
    for t in range(20):
        action, carry = worse.act(SEEN, carry, torch.arange(5) + 100 * t)
        chosen += SPEC.check(action)[:, 2].tolist()
    assert set(chosen) == {0.0, 1.0, 2.0, 3.0}
