"""Behaviours: within limits, keyed, independent of the batch, different from each other, and they do what they say."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data import toys
from worldsim.actions import ActionPart, ActionSpec
from worldsim.core import IMAGE, STATE
from worldsim.data.collect.goal_exploration import contact_seeking, sweep, varied_behaviours
from worldsim.data.collect.random_exploration import BLOCK, Behaviour, Corrupted, Corruption, Hold, Switching, Wander
from worldsim.errors import InvalidInputError
from worldsim.noise import fold
from worldsim.protocols import Policy

SKEWED = ActionSpec(names=("a", "b", "c"), units=("1",) * 3, low=(-1.0, 0.0, 2.0), high=(1.0, 5.0, 3.0), rate_hz=5)


def acts(policy: Policy, keys: Tensor, steps: int, *, seed: int = 0) -> Tensor:
    """Actions [n, T, A] on made-up observations that depend on key and step alone."""
    carry, actions = policy.initial(len(keys)), []
    for t in range(steps):
        frames, states = [], []
        for key in keys.tolist():
            r = np.random.default_rng([key, t])
            frames.append(r.integers(0, 256, (16, 24, 3)))
            states.append(r.normal(size=3))
        seen = {
            IMAGE: torch.tensor(np.array(frames), dtype=torch.uint8),
            STATE: torch.tensor(np.array(states), dtype=torch.float32),
        }
        action, carry = policy.act({k: seen[k] for k in policy.needs}, carry, fold(keys, t))
        actions.append(action)
    return torch.stack(actions, dim=1)


def policies(action: ActionSpec) -> list[Any]:
    return [*(b.policy for b in varied_behaviours(action)), Corrupted(Hold(action), action), Wander(action)]


@pytest.mark.parametrize("index", range(7))
@pytest.mark.parametrize("action", [toys.ACTION, SKEWED])
def test_a_policy_is_keyed_and_does_not_see_its_neighbours(index: int, action: ActionSpec) -> None:
    policy, keys, steps = policies(action)[index], torch.arange(3) + 50, BLOCK + 6
    together = acts(policy, keys, steps)
    assert together.shape == (3, steps, action.dim) and together.dtype == torch.float32
    low, high = torch.tensor(action.low), torch.tensor(action.high)
    assert bool(((together >= low - 1e-6) & (together <= high + 1e-6)).all())
    assert torch.equal(together, acts(policy, keys, steps))
    assert torch.allclose(together[1:2], acts(policy, keys[1:2], steps), atol=1e-4)
    assert not torch.allclose(together[0], together[1])
    assert float(together.std(1).min()) > 0


def test_wandering_has_the_spread_and_memory_asked_for() -> None:
    wide = ActionSpec(names=("a",), units=("1",), low=(-1.0,), high=(1.0,), rate_hz=5)
    noise = acts(Wander(wide, spread=(0.2, 0.2), memory=(0.8, 0.8)), torch.arange(300), 60)[:, :, 0]
    assert abs(float(noise.std()) - 0.2) < 0.01
    assert abs(float((noise[:, 1:] * noise[:, :-1]).mean() / noise.square().mean()) - 0.8) < 0.03


def test_holding_holds_about_as_long_as_asked() -> None:
    held = acts(Hold(toys.ACTION, steps=(5, 5)), torch.arange(200), 60)
    changes = (held[:, 1:] != held[:, :-1]).any(2).float().mean()
    assert abs(float(changes) - 1 / 5) < 0.02


def test_no_corruption_changes_nothing() -> None:
    none = Corruption(rotation_rad=0, gain=(1, 1), offset=0, noise=0, random=0)
    keys = torch.arange(4)
    clean = acts(Hold(toys.ACTION), keys, 20)
    assert torch.allclose(acts(Corrupted(Hold(toys.ACTION), toys.ACTION, none), keys, 20), clean, atol=1e-6)
    assert not torch.allclose(acts(Corrupted(Hold(toys.ACTION), toys.ACTION), keys, 20), clean, atol=1e-2)


def test_corruption_draws_its_amounts_per_episode() -> None:
    how = Corruption(rotation_rad=0, gain=(0.5, 1.0), offset=0, noise=0, random=0)
    keys = torch.arange(100)
    ratio = acts(Corrupted(Hold(toys.ACTION), toys.ACTION, how), keys, 5) / acts(Hold(toys.ACTION), keys, 5)
    assert torch.allclose(ratio, ratio[:, :1, :1].expand_as(ratio), atol=1e-3)
    assert float(ratio.min()) < 0.55 and float(ratio.max()) > 0.95


def test_switching_takes_turns() -> None:
    class Constant:
        needs: frozenset[str] = frozenset()

        def __init__(self, value: float) -> None:
            self.value = value

        def initial(self, n: int) -> None:
            return None

        def act(self, observation: Any, carry: None, keys: Tensor) -> tuple[Tensor, None]:
            return torch.full((len(keys), 2), self.value), None

    actions = acts(Switching([Constant(0.1), Constant(0.2)], steps=5), torch.arange(100), 50)[:, :, 0]
    assert 0.4 < float((actions == 0.1).float().mean()) < 0.6
    assert abs(float((actions[:, 1:] != actions[:, :-1]).float().mean()) - 0.5 / 5) < 0.02


def played(policy: Policy, episodes: int = 12, steps: int = 40) -> tuple[float, float]:
    """Share of steps that move the block, and the area that the dot covers."""
    moved, covered = [], []
    for i in range(episodes):
        env = toys.DotEnv(steps=steps)
        observation, _ = env.reset(seed=i)
        carry, dots = policy.initial(1), []
        for t in range(steps):
            before = env.block
            seen = {
                IMAGE: torch.from_numpy(observation["pixels"])[None],
                STATE: torch.from_numpy(observation["agent_pos"])[None],
            }
            action, carry = policy.act(seen, carry, fold(torch.tensor([i]), t))
            observation, *_ = env.step(action[0].numpy())
            moved.append(not np.array_equal(before, env.block))
            dots.append(env.dot)
        covered.append(float(np.ptp(dots, axis=0).prod()))
    return float(np.mean(moved)), float(np.mean(covered))


def test_contact_is_sought_with_frames_alone() -> None:
    noise, seeking = played(Wander(toys.ACTION)), played(contact_seeking(toys.ACTION))
    assert contact_seeking(toys.ACTION).needs == {IMAGE}
    assert seeking[0] > 1.5 * noise[0]


def test_a_sweep_covers_the_space() -> None:
    assert played(sweep(toys.ACTION, noise=0.1))[1] > 0.25


@pytest.mark.parametrize(
    "make",
    [
        lambda: Wander(toys.ACTION, memory=(0.5, 1.0)),
        lambda: Wander(toys.ACTION, spread=(0.5, 0.1)),
        lambda: Hold(toys.ACTION, steps=(0.0, 3.0)),
        lambda: Switching([]),
        lambda: Corruption(random=1.5),
        lambda: Corruption(gain=(1.0, 0.5)),
        lambda: Behaviour(name="x", policy=Hold(toys.ACTION), weight=0.0),
        lambda: Behaviour(name="", policy=Hold(toys.ACTION)),
    ],
)
def test_nonsense_is_refused(make: Any) -> None:
    with pytest.raises(InvalidInputError):
        make()


def test_a_gripper_opens_or_closes_fully() -> None:
    parts = (ActionPart(name="arm", shape=(2,)), ActionPart(name="grip", shape=(1,), role="gripper"))
    spec = ActionSpec(names=("x", "y", "g"), units=("m",) * 3, low=(-1, -1, 0), high=(1, 1, 4), rate_hz=5, parts=parts)
    policy = Wander(spec)
    carry, seen = policy.initial(3), []
    for t in range(30):
        action, carry = policy.act({}, carry, torch.arange(3) + 10 * t)
        seen.append(action)
    assert set(torch.cat(seen)[:, 2].tolist()) == {0.0, 4.0}
    assert len(torch.cat(seen)[:, 0].unique()) > 20
