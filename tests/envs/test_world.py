import copy

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from worldsim.core import STATE
from worldsim.envs.simulator import SimulatorWorld
from worldsim.envs.world import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.testing import check_env, check_world

RIGHT = np.array([0.1, 0.0], np.float32)


def test_faces_keep_the_contract_of_environments(dots, push_world: SimulatorWorld) -> None:
    check_world(dots)
    for world in (dots, push_world):
        check_env(gymnasium.make("worldsim/World-v0", world=world, render_mode="rgb_array"))
    check_env(gymnasium.make("worldsim/World-v0", world=push_world, obs_type="all"))


def test_a_simulator_seen_through_a_world_is_the_simulator(push_world: SimulatorWorld) -> None:
    inside = gymnasium.make("worldsim/World-v0", world=push_world)
    outside = gymnasium.make("worldsim/Push-v0")
    (seen, _), (true, _) = inside.reset(seed=12), outside.reset(seed=12)
    for _ in range(50):
        for key in ("pixels", "agent_pos"):
            np.testing.assert_array_equal(seen[key], true[key])
        action = outside.action_space.sample()
        (seen, reward, _, truncated, info), (true, true_reward, _, ended, true_info) = (
            inside.step(action),
            outside.step(action),
        )
        assert reward == pytest.approx(true_reward, abs=1e-6)
        assert (truncated, info["is_success"]) == (ended, true_info["is_success"])
    assert truncated


def test_rows_are_the_single_episodes(dots) -> None:
    many, single = WorldVectorEnv(3, world=dots), WorldEnv(dots)
    seen, _ = many.reset(seed=[3, 50, 8])
    alone, _ = single.reset(seed=50)
    for t in range(6):
        for key in alone:
            np.testing.assert_array_equal(seen[key][1], alone[key])
        seen, reward, _, truncated, info = many.step(np.stack([RIGHT, -RIGHT, RIGHT * t]))
        alone, own_reward, _, own_truncated, own_info = single.step(-RIGHT)
        assert (reward[1], truncated[1], info["is_success"][1]) == (own_reward, own_truncated, own_info["is_success"])
    assert own_truncated


def test_all_episodes_take_one_pass(dots) -> None:
    envs = gymnasium.make_vec("worldsim/World-v0", num_envs=5, world=dots)
    assert isinstance(envs, WorldVectorEnv)
    envs.reset(seed=0)
    assert dots.decodes == 0
    for _ in range(4):
        envs.step(np.zeros((5, 2), np.float32))
    assert (dots.steps, dots.decodes) == (4, 4)


def test_without_pixels_nothing_is_decoded(push_world: SimulatorWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatorWorld, "decode", lambda *_: pytest.fail("decoded"))
    env = WorldEnv(push_world, obs_type="environment_state_agent_pos")
    seen, _ = env.reset(seed=0)
    assert seen.keys() == {"environment_state", "agent_pos"}
    env.step(np.zeros(2, np.float32))


def test_next_step_spends_a_step_on_the_reset(dots) -> None:
    envs = WorldVectorEnv(2, world=dots, max_episode_steps=2)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    envs.reset(seed=[10, 20])
    envs.step(np.zeros((2, 2), np.float32))
    assert envs.step(np.zeros((2, 2), np.float32))[3].all()
    seen, reward, _, truncated, info = envs.step(np.zeros((2, 2), np.float32))
    assert not truncated.any()
    assert not reward.any()
    assert "progress" not in info
    again = WorldVectorEnv(2, world=dots, max_episode_steps=2)
    again.reset(seed=[10, 20])
    for _ in range(3):
        same, *_ = again.step(np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(seen["agent_pos"], same["agent_pos"])  # fresh starts come from the seeds


def test_rows_may_end_at_different_times() -> None:
    from tests.envs.conftest import DotWorld

    envs = WorldVectorEnv(3, world=DotWorld(success_at="any", horizon=9))
    envs.reset(seed=[48, 0, 30])
    _, _, terminated, _, info = envs.step(np.stack([RIGHT, RIGHT, RIGHT]))
    assert terminated.tolist() == [True, False, False]
    assert info["is_success"].tolist() == [True, False, False]
    seen, reward, terminated, _, info = envs.step(np.stack([RIGHT, RIGHT, RIGHT]))
    assert terminated.tolist() == [False, False, False]
    assert reward[0] == 0
    assert info["_progress"].tolist() == [False, True, True]
    assert info["_is_success"].all()
    assert seen["agent_pos"][1, 0] == pytest.approx(0.2, abs=0.01)
    assert (envs._elapsed == [0, 2, 2]).all()
    assert envs._episodes._state.step.tolist() == [0, 2, 2]


def test_same_step_keeps_what_episodes_ended_with(dots) -> None:
    envs = WorldVectorEnv(2, world=dots, max_episode_steps=3, autoreset_mode="SameStep")
    envs.reset(seed=[10, 20])
    for _ in range(3):
        seen, _, _, truncated, info = envs.step(np.stack([RIGHT, RIGHT]))
    assert truncated.all()
    assert info["final_obs"][1]["agent_pos"][0] == pytest.approx(0.5, abs=0.01)
    assert info["final_info"]["is_success"].shape == (2,)
    assert info["final_info"]["progress"][1] == pytest.approx(0.5, abs=0.01)
    assert seen["agent_pos"][1, 0] == pytest.approx(dots.starts(envs._episodes._state.key)[STATE][1, 0])


def test_disabled_leaves_resets_to_the_caller(dots) -> None:
    envs = WorldVectorEnv(2, world=dots, max_episode_steps=1, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=0)
    envs.step(np.zeros((2, 2), np.float32))
    with pytest.raises(InvalidInputError, match="are over"):
        envs.step(np.zeros((2, 2), np.float32))
    seen, info = envs.reset(seed=[7, 8], options={"reset_mask": np.array([False, True])})
    assert info["_is_success"].tolist() == [False, True]
    assert seen["agent_pos"][1, 0] == pytest.approx(0.08)
    with pytest.raises(InvalidInputError, match=r"Episodes \[0\] are over"):
        envs.step(np.zeros((2, 2), np.float32))


def test_evaluators_find_what_they_ask_for(dots) -> None:
    envs = gymnasium.make_vec("worldsim/World-v0", num_envs=2, world=dots, render_mode="rgb_array")
    envs.reset(seed=[0, 1], options={"lerobot_new_rollout": True})
    assert envs.call("_max_episode_steps") == (6, 6)
    assert envs.call("task") == envs.get_attr("task_description") == ("Move the dot to the right.",) * 2
    assert envs.get_attr("action_space") == (envs.single_action_space,) * 2
    assert envs.get_attr("observation_space") == (envs.single_observation_space,) * 2
    assert np.stack(envs.call("render")).shape == (2, 8, 6, 3)
    assert envs.unwrapped.metadata["render_fps"] == 5
    with pytest.raises(AttributeError):
        envs.get_attr("nothing_like_this")


def test_the_step_limit_can_be_asked_for(dots) -> None:
    for env in (
        gymnasium.make("worldsim/World-v0", world=dots, max_episode_steps=3),
        WorldEnv(dots, max_episode_steps=9),
    ):
        env.reset(seed=0)
        limit = 9 if isinstance(env, WorldEnv) else 3
        assert [env.step(RIGHT)[3] for _ in range(limit)] == [False] * (limit - 1) + [True]
    envs = gymnasium.make_vec("worldsim/World-v0", num_envs=1, world=dots, max_episode_steps=9)
    assert envs.call("_max_episode_steps") == (9,)


def test_seedless_episodes_differ_and_repeat(dots) -> None:
    def play() -> list[float]:
        env = WorldEnv(dots)
        first = env.reset(seed=5)[0]["agent_pos"][0]
        return [first, *(env.reset()[0]["agent_pos"][0] for _ in range(3))]

    assert play() == play()
    assert len(set(play())) > 1


def test_frames_given_out_are_the_callers_own(dots) -> None:
    env = WorldEnv(dots, render_mode="rgb_array")
    first, _ = env.reset(seed=30)
    kept = copy.deepcopy(first)
    env.step(RIGHT)
    np.testing.assert_array_equal(first["pixels"], kept["pixels"])
    assert env.render()[0, 0, 0] == pytest.approx(0.4 * 255, abs=2)


def test_nothing_is_rendered_where_nothing_is_drawn(push_world: SimulatorWorld) -> None:
    env = gymnasium.make("worldsim/World-v0", world=push_world, obs_type="environment_state_agent_pos")
    assert env.metadata["render_modes"] == []
    check_env(env)
    with pytest.raises(InvalidInputError, match="needs an obs_type that has pixels"):
        WorldEnv(push_world, obs_type="environment_state_agent_pos", render_mode="rgb_array")


def test_bad_requests_are_answered(dots) -> None:
    with pytest.raises(InvalidInputError, match="got a int"):
        WorldEnv(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="nowhere"):
        gymnasium.make("worldsim/World-v0", world="nowhere")
    with pytest.raises(InvalidInputError, match="starts lack observation.environment_state"):
        WorldEnv(dots, obs_type="all")
    with pytest.raises(UnknownNameError, match="obs_type"):
        WorldEnv(dots, obs_type="pixel")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'rgb_array'"):
        WorldEnv(dots, render_mode="rgb_arry")
    with pytest.raises(InvalidInputError, match="at least 1"):
        WorldVectorEnv(0, world=dots)
    env = WorldEnv(dots)
    with pytest.raises(InvalidInputError, match="Call reset"):
        env.step(RIGHT)
    env.reset(seed=0)
    steps = dots.steps
    with pytest.raises(InvalidInputError, match="NaN"):
        env.step(RIGHT * np.nan)
    assert dots.steps == steps  # a world on an accelerator does not look: it is never asked
    with pytest.raises(InvalidInputError, match="expected"):
        env.step(np.zeros(3, np.float32))
    with pytest.raises(InvalidInputError, match="2 seeds"):
        WorldVectorEnv(2, world=dots).reset(seed=[1])
    with pytest.raises(InvalidInputError, match="obs_type that has pixels"):
        WorldEnv(dots, render_mode="rgb_array").render()


def test_one_seed_numbers_the_episodes_from_it_on(dots) -> None:
    envs, alone = WorldVectorEnv(3, world=dots), WorldEnv(dots)
    seen, _ = envs.reset(seed=5)
    for row in range(3):
        own, _ = alone.reset(seed=5 + row)
        np.testing.assert_array_equal(seen["agent_pos"][row], own["agent_pos"])


def test_episodes_begun_again_among_others_take_their_own_places(dots) -> None:
    envs = WorldVectorEnv(3, world=dots, autoreset_mode=AutoresetMode.DISABLED)
    seen, _ = envs.reset(seed=[10, 20, 30])
    kept = copy.deepcopy(seen)
    later, _ = envs.reset(seed=[40, 50, 60], options={"reset_mask": np.array([False, True, True])})
    np.testing.assert_array_equal(seen["agent_pos"], kept["agent_pos"])  # what was given out stays
    stepped, *_ = envs.step(np.zeros((3, 2), np.float32))
    for row, seed in enumerate((10, 50, 60)):
        alone = WorldEnv(dots)
        first, _ = alone.reset(seed=seed)
        np.testing.assert_array_equal(later["agent_pos"][row], first["agent_pos"])
        np.testing.assert_array_equal(stepped["agent_pos"][row], alone.step(np.zeros(2, np.float32))[0]["agent_pos"])


def test_first_observations_are_the_callers_own(dots, monkeypatch: pytest.MonkeyPatch) -> None:
    table = dots.starts(torch.arange(1))
    monkeypatch.setattr(dots, "starts", lambda indices: table)
    for env in (WorldEnv(dots), WorldVectorEnv(1, world=dots)):
        seen, _ = env.reset(seed=0)
        kept = copy.deepcopy(seen)
        for name in seen:
            seen[name] += 1
        again, _ = env.reset(seed=0)
        for name, value in kept.items():
            np.testing.assert_array_equal(again[name], value)
