import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from worldsim.envs.push.vector import PushVectorEnv
from worldsim.errors import InvalidInputError


def test_episodes_are_those_of_the_single_environment() -> None:
    many = gymnasium.make_vec("worldsim/Push-v0", num_envs=3, obs_type="all")
    single = gymnasium.make("worldsim/Push-v0", obs_type="all")
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 3, 2)).astype(np.float32)
    for seeds, row in ((7, 1), ([3, 20, 5], 2)):
        seen, _ = many.reset(seed=seeds)
        alone, _ = single.reset(seed=8 if seeds == 7 else 5)
        for action in actions:
            for key in alone:
                np.testing.assert_array_equal(seen[key][row], alone[key])
            seen, rewards, _, _, infos = many.step(action)
            alone, reward, _, _, info = single.step(action[row])
            assert rewards[row] == reward
            assert infos["is_success"][row] == info["is_success"]
            np.testing.assert_array_equal(infos["environment_state"][row], info["environment_state"])


def test_evaluators_find_what_they_ask_for() -> None:
    envs = gymnasium.make_vec("worldsim/Push-v0", num_envs=2, render_mode="rgb_array", render_px=32)
    assert isinstance(envs, PushVectorEnv)
    envs.reset(seed=[1, 2], options={"lerobot_new_rollout": True})
    assert envs.call("_max_episode_steps") == (50, 50)
    assert (
        envs.call("task_description")[0] == envs.get_attr("task")[0] == "Push the T-shaped block onto the green disc."
    )
    assert np.stack(envs.call("render")).shape == (2, 32, 32, 3)
    assert envs.unwrapped.metadata["render_fps"] == 10
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    assert envs.metadata["success_at"] == "end"


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_is_declared_and_kept(mode: AutoresetMode) -> None:
    envs = PushVectorEnv(2, obs_type="environment_state_agent_pos", max_episode_steps=3, autoreset_mode=mode)
    assert envs.metadata["autoreset_mode"] is mode
    envs.reset(seed=0)
    ends = []
    for _ in range(3):
        _, _, _, truncated, info = envs.step(np.zeros((2, 2), np.float32))
        ends.append(truncated.all())
    assert ends == [False, False, True]
    assert ("final_info" in info) == (mode is AutoresetMode.SAME_STEP)


def test_bad_sizes_are_answered() -> None:
    with pytest.raises(InvalidInputError, match="at least 1"):
        PushVectorEnv(0)
    with pytest.raises(InvalidInputError, match="at least 1"):
        PushVectorEnv(1, max_episode_steps=0)
