"""LeRobot's own evaluation script drives worldsim's planners on worldsim's environments, offline."""

import functools
import importlib
import json
import subprocess
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim.core import STATE, TRUE_STATE
from worldsim.envs.push.env import PushVectorEnv
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.noise import fold
from worldsim.planners import make_planner
from worldsim.planners.mpc import MPC
from worldsim.worlds import load_world

PLUGIN = "worldsim.integrations.lerobot.plugin"
SMALL = {"horizon": 6, "samples": 16, "iterations": 1, "repeat": 3}
EPISODES, SEED, START = 3, 4, 1000


def test_without_lerobot_the_extra_is_named() -> None:
    code = f"import sys; sys.modules['lerobot'] = None; import {PLUGIN}.environment"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "worldsim[lerobot]"' in done.stderr


@functools.cache
def plugin() -> types.SimpleNamespace:
    """The plugin's names and LeRobot's own, whose imports warn."""
    pytest.importorskip("lerobot", reason="the lerobot extra is not installed")
    found = {
        "parse": "draccus",
        "PreTrainedConfig": "lerobot.configs.policies",
        "make_policy": "lerobot.policies.factory",
        "make_pre_post_processors": "lerobot.policies.factory",
        "rollout": "lerobot.scripts.lerobot_eval",
        "WorldsimPlannerConfig": f"{PLUGIN}.configuration_planner",
        "WorldsimEnv": f"{PLUGIN}.environment",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return types.SimpleNamespace(**{k: getattr(importlib.import_module(v), k) for k, v in found.items()})


def direct() -> tuple[np.ndarray, np.ndarray]:
    """Rewards and success [steps, episodes] of the same planner in the same episodes, without LeRobot."""
    mpc = MPC(
        make_planner("weighted", **{k: v for k, v in SMALL.items() if k != "repeat"}),
        load_world("push_state"),
        repeat=3,
    )
    env = PushVectorEnv(EPISODES, obs_type="environment_state_agent_pos", autoreset_mode="Disabled")
    seen, _ = env.reset(seed=START)
    carry, key, outcomes = mpc.initial(EPISODES), fold(torch.arange(EPISODES), SEED), []
    for step in range(50):
        now = {STATE: torch.tensor(seen["agent_pos"]), TRUE_STATE: torch.tensor(seen["environment_state"])}
        action, carry = mpc.act(now, carry, fold(key, step))
        seen, reward, _, _, info = env.step(action.numpy())
        outcomes.append((reward.copy(), info["is_success"].copy()))
    reward, success = zip(*outcomes, strict=True)
    return np.stack(reward), np.stack(success)


@pytest.mark.integration
def test_the_script_gives_what_the_planner_does(tmp_path: Path) -> None:
    pytest.importorskip("lerobot", reason="the lerobot extra is not installed")
    options = {
        "policy.discover_packages_path": PLUGIN,
        "policy.type": "worldsim_planner",
        "policy.world": "push_state",
        "policy.seed": SEED,
        "env.discover_packages_path": PLUGIN,
        "env.type": "worldsim",
        "eval.n_episodes": EPISODES,
        "eval.batch_size": 2,
        "seed": START,
        "output_dir": tmp_path / "out",
    } | {f"policy.{name}": value for name, value in SMALL.items()}
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_eval", *(f"--{k}={v}" for k, v in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    saved = json.loads((tmp_path / "out/eval_info.json").read_text())
    metrics, reward_TN, success_TN = saved["per_task"][0]["metrics"], *direct()
    np.testing.assert_allclose(metrics["sum_rewards"], reward_TN.sum(0), rtol=1e-9)  # the same actions, in batches of 2
    np.testing.assert_allclose(metrics["max_rewards"], reward_TN.max(0), rtol=1e-9)
    assert metrics["successes"] == success_TN[-1].tolist()
    assert saved["overall"]["pc_success"] == pytest.approx(100 * success_TN[-1].mean())
    assert saved["overall"]["pc_success"] > 60
    assert len(metrics["video_paths"]) >= EPISODES
    assert all((tmp_path / path).stat().st_size > 1000 for path in metrics["video_paths"])


@pytest.mark.integration
def test_a_world_is_an_environment_and_a_saved_planner_a_checkpoint(tmp_path: Path) -> None:
    p = plugin()
    env_config = p.WorldsimEnv(task="worldsim/World-v0", episode_length=4)
    config = p.WorldsimPlannerConfig(world="push", **SMALL)
    policy, around = p.make_policy(config, env_cfg=env_config), p.make_pre_post_processors(config)
    env = env_config.create_envs(2, use_async_envs=True)["worldsim"][0]
    nothing = env_config.get_env_processors()
    first = p.rollout(env, policy, *nothing, *around, seeds=[1, 2])
    assert first["action"].shape == (2, 4, 2)
    assert first["done"].all(1).tolist() == [False, False]
    assert first["done"][:, -1].all()

    for part in (policy, *around):
        part.save_pretrained(tmp_path)
    known = p.PreTrainedConfig.from_pretrained(tmp_path)
    known.pretrained_path = tmp_path
    loaded = p.make_policy(known, env_cfg=env_config)
    overrides = {
        "device_processor": {"device": "cpu"},
        "rename_observations_processor": {"rename_map": {}},
    }  # the script's
    around = p.make_pre_post_processors(known, pretrained_path=str(tmp_path), preprocessor_overrides=overrides)
    again = p.rollout(env, loaded, *nothing, *around, seeds=[1, 2])
    assert torch.equal(again["action"], first["action"])


@pytest.mark.integration
def test_success_is_reported_at_the_end_where_the_end_counts() -> None:
    p = plugin()
    env = p.WorldsimEnv(episode_length=3).create_envs(2)["worldsim"][0]
    env.reset(seed=[1, 2])
    env.env.envs[0].unwrapped.place(block=(0.0, 0.0, 0.0), pusher=(0.2, 0.2))
    idle = np.zeros((2, 2), np.float32)
    for _ in range(2):
        info = env.step(idle)[-1]
        assert info["progress"][0] > 0.99
        assert not info["is_success"].any()
    assert env.step(idle)[-1]["final_info"]["is_success"].tolist() == [True, False]


@pytest.mark.integration
def test_what_does_not_fit_is_named() -> None:
    p = plugin()
    friction = p.parse(config_class=p.WorldsimEnv, args=['--options={"variation": {"friction": 0.3}}'])
    env = friction.create_envs(1)["worldsim"][0]
    assert env.env.envs[0].unwrapped.variation.friction == 0.3
    for bad, words in (
        ({"task": "no"}, "worldsim/Push-v0"),
        ({"task": "CartPole-v1"}, "agent_pos"),
        ({"world": "push"}, "world"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            p.WorldsimEnv(**bad)
    blind = p.WorldsimEnv(obs_type="pixels_agent_pos")
    with pytest.raises(InvalidInputError, match="needs.*environment_state"):
        p.make_policy(p.WorldsimPlannerConfig(), env_cfg=blind)
    blind.features["action"].shape = (7,)
    with pytest.raises(InvalidInputError, match="vx, vy"):
        p.make_policy(p.WorldsimPlannerConfig(world="push"), env_cfg=blind)
    with pytest.raises(UnknownNameError, match="weighted"):
        p.make_policy(p.WorldsimPlannerConfig(planner="wieghted"), env_cfg=p.WorldsimEnv())
    with pytest.raises(InvalidInputError, match="train"):
        p.WorldsimPlannerConfig().get_optimizer_preset()
