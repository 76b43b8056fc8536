import math

import pytest
import torch

from worldsim.actions import ActionSpec
from worldsim.core import STATE
from worldsim.errors import InvalidInputError, PolicyError
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.protocols import Policy

SPEC = ActionSpec(names=("x", "y"), units=("m/s", "m/s"), low=(-1.0, -2.0), high=(1.0, 2.0), rate_hz=10)


class Counter:
    """Gives (0.1 * step, 0.2 * step): no two steps have the same action."""

    needs = frozenset({STATE})

    def initial(self, n):
        return 0

    def act(self, observation, carry, keys):
        return torch.tensor([[0.1, 0.2]]).repeat(len(keys), 1) * carry, carry + 1


class Broken(Counter):
    def __init__(self, value):
        self.value = value

    def act(self, observation, carry, keys):
        return self.value, carry


def play(how, steps=6, keys=(1, 2, 3), inner=None):
    policy = DegradedPolicy(inner or Counter(), action=SPEC, how=how)
    assert isinstance(policy, Policy)
    keys = torch.tensor(keys)
    carry, actions = policy.initial(len(keys)), []
    for _ in range(steps):
        action, carry = policy.act({STATE: torch.zeros(len(keys), 2)}, carry, keys)
        actions.append(action)
    return torch.stack(actions, dim=1)


PLAIN = play(Degradation())


def test_default_changes_nothing():
    assert torch.allclose(PLAIN[0, :, 0], torch.arange(6) * 0.1)
    assert torch.allclose(PLAIN[0, :, 1], torch.arange(6) * 0.2)


def test_gain_offset_rotation():
    assert torch.allclose(play(Degradation(gain=0.5)), PLAIN * 0.5)
    assert torch.allclose(play(Degradation(offset=(0.1, -0.1))), PLAIN + torch.tensor([0.1, -0.2]))
    turned = play(Degradation(rotation_rad=math.pi / 2))
    assert torch.allclose(turned, torch.stack([-PLAIN[..., 1], PLAIN[..., 0]], -1), atol=1e-6)


def test_delay_starts_idle_then_shifts():
    late = play(Degradation(delay_steps=2))
    assert (late[:, :2] == 0).all()
    assert torch.equal(late[:, 2:], PLAIN[:, :4])


def test_frozen_repeats_the_last_action():
    frozen = play(Degradation(frozen_after=3))
    assert torch.equal(frozen[:, :3], PLAIN[:, :3])
    assert (frozen[:, 3:] == PLAIN[:, 2:3]).all()
    assert (play(Degradation(frozen_after=0)) == 0).all()


def test_results_are_clipped_into_the_limits():
    wild = play(Degradation(noise=5.0))
    assert wild[..., 0].abs().max() <= 1
    assert wild[..., 1].abs().max() <= 2


@pytest.mark.parametrize(
    "how", [Degradation(noise=0.2), Degradation(random=0.5), Degradation(noise=0.2, noise_memory=0.8)]
)
def test_noise_is_a_function_of_the_episode_key_alone(how):
    together, alone = play(how), play(how, keys=(2,))
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together, play(how))


def test_noise_has_the_asked_spread_and_memory():
    keys = tuple(range(400))
    zero = play(Degradation(gain=0.0, noise=0.1, noise_memory=0.9), steps=12, keys=keys)
    assert zero[..., 0].std().item() == pytest.approx(0.1, rel=0.1)
    assert zero[..., 1].std().item() == pytest.approx(0.2, rel=0.1)
    pairs = torch.stack([zero[:, :-1, 0].flatten(), zero[:, 1:, 0].flatten()])
    assert torch.corrcoef(pairs)[0, 1].item() == pytest.approx(0.9, abs=0.03)


def test_random_replaces_the_asked_share():
    changed = play(Degradation(random=0.25), steps=5, keys=tuple(range(400)))
    plain = PLAIN[:1, :5].expand_as(changed)
    assert (changed != plain).any(-1)[:, 1:].float().mean().item() == pytest.approx(0.25, abs=0.05)


def test_degradations_nest_with_noise_of_their_own():
    inner = DegradedPolicy(Counter(), action=SPEC, how=Degradation(gain=0.0, noise=0.1))
    same = play(Degradation(noise=0.1), inner=inner)
    salted = play(Degradation(noise=0.1, salt=1), inner=inner)
    assert not torch.allclose(same, salted)


@pytest.mark.parametrize("value", [torch.full((3, 2), float("nan")), torch.zeros(3, 3), torch.zeros(2), "no", None])
def test_broken_inner_policy_is_named(value):
    with pytest.raises(PolicyError, match="Broken"):
        play(Degradation(), inner=Broken(value))


@pytest.mark.parametrize(
    "wrong", [{"random": 1.5}, {"noise": -1.0}, {"noise_memory": 1.0}, {"delay_steps": -1}, {"gain": math.nan}]
)
def test_config_refuses_nonsense(wrong):
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        Degradation(**wrong)


def test_offset_of_wrong_width():
    with pytest.raises(InvalidInputError, match="offset"):
        DegradedPolicy(Counter(), action=SPEC, how=Degradation(offset=(0.1,)))
