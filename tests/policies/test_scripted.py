import numpy as np
import pytest
import torch

from worldsim.core import STATE, TRUE_STATE
from worldsim.envs.push.env import PushEnv
from worldsim.errors import InvalidInputError, PolicyError
from worldsim.policies.scripted import PushExpert, PushExpertConfig


def play(policy, n=40, seed=5000, steps=50):
    """Success [n], final block position [n, 2] and total turn in rad [n] of `policy` on the true task."""
    envs = [PushEnv("environment_state_agent_pos") for _ in range(n)]
    seen = [env.reset(seed=seed + i)[0] for i, env in enumerate(envs)]
    carry, keys, turn = policy.initial(n), torch.arange(n) + seed, np.zeros(n)
    for _ in range(steps):
        block = np.stack([s["environment_state"] for s in seen])
        observation = {TRUE_STATE: torch.tensor(block), STATE: torch.tensor(np.stack([s["agent_pos"] for s in seen]))}
        action, carry = policy.act(observation, carry, keys)
        seen = [env.step(a)[0] for env, a in zip(envs, action.numpy(), strict=True)]
        after = np.stack([s["environment_state"] for s in seen])
        turn += np.abs(np.arcsin(after[:, 3] * block[:, 2] - after[:, 2] * block[:, 3]))
    return np.array([env.info()["is_success"] for env in envs]), after[:, :2], turn


def test_expert_solves_the_task():
    success, _, _ = play(PushExpert())
    assert success.mean() >= 0.97


def test_offset_turns_the_block_and_mostly_still_solves():
    _, _, straight = play(PushExpert(), n=20)
    success, _, turned = play(PushExpert(PushExpertConfig(offset_m=0.03)), n=20)
    assert turned.mean() > 1.5 * straight.mean()
    assert success.mean() >= 0.7


def test_goal_is_where_the_block_goes():
    _, block, _ = play(PushExpert(PushExpertConfig(goal_m=(0.1, -0.05))), n=20)
    assert np.median(np.linalg.norm(block - [0.1, -0.05], axis=1)) < 0.02


def test_random_goals_are_drawn_once_per_episode_from_its_key():
    policy = PushExpert(PushExpertConfig(goal_spread_m=0.1))
    observation = {TRUE_STATE: torch.zeros(3, 4), STATE: torch.full((3, 2), 0.2)}
    _, first = policy.act(observation, policy.initial(3), torch.tensor([1, 2, 3]))
    _, second = policy.act(observation, first, torch.tensor([9, 9, 9]))
    assert torch.equal(first.goal_m, second.goal_m)
    assert first.goal_m.abs().max() <= 0.1
    assert len(first.goal_m.unique(dim=0)) == 3
    _, alone = policy.act({k: v[1:2] for k, v in observation.items()}, policy.initial(1), torch.tensor([2]))
    assert torch.equal(alone.goal_m, first.goal_m[1:2])


@pytest.mark.parametrize("pusher", [(0.0, 0.0), (0.1, 0.0), (-0.1, 0.0), (0.0, 0.0001)])
def test_degenerate_places_give_finite_limited_velocities(pusher):
    policy = PushExpert()
    for block in [(0.0, 0.0), (0.1, 0.0), (1e-9, 0.0)]:
        observation = {TRUE_STATE: torch.tensor([[*block, 1.0, 0.0]]), STATE: torch.tensor([pusher])}
        action, _ = policy.act(observation, policy.initial(1), torch.tensor([0]))
        assert action.isfinite().all()
        assert action.abs().max() <= 0.4 + 1e-6


def test_missing_state_is_named():
    policy = PushExpert()
    with pytest.raises(PolicyError, match="environment_state"):
        policy.act({STATE: torch.zeros(1, 2)}, policy.initial(1), torch.tensor([0]))


@pytest.mark.parametrize("field", ["speed_m_s", "clear_m", "done_m"])
def test_config_refuses_nonsense(field):
    with pytest.raises(InvalidInputError, match=field):
        PushExpertConfig(**{field: 0.0})
