"""The pushing environment, single and as a vector."""

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from worldsim.envs.push.env import ACTION_SPEC, PushEnv, PushVectorEnv, sample_start
from worldsim.envs.push.scene import (
    BLOCK_RADIUS_M,
    BLOCK_RECTANGLES_M,
    GOAL_RADIUS_M,
    PROGRESS_RANGE_M,
    PUSHER_RADIUS_M,
    REACH_M,
    PushVariation,
)
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.testing import check_env

FAST = "environment_state_agent_pos"


def placed(env: PushEnv, block: tuple[float, float, float], pusher: tuple[float, float]) -> PushEnv:
    env.reset(seed=0)
    env.place(block=block, pusher=pusher)
    return env


def pushed(steps: int = 8, offset_m: float = 0.0, **variation: object) -> np.ndarray:
    """Pose x, y, yaw of a block pushed upwards for some steps from 1 cm below its stem."""
    env = placed(PushEnv(FAST, variation=variation), (0.0, 0.0, 0.0), (offset_m, -0.106))
    for _ in range(steps):
        env.step(np.array([0.0, 0.2], np.float32))
    return env._data.qpos[:3].copy()


def test_it_keeps_the_contract_of_environments() -> None:
    check_env(gymnasium.make("worldsim/Push-v0"))
    check_env(gymnasium.make("worldsim/Push-v0", obs_type="all", render_mode="rgb_array"))


def test_a_seed_is_an_episode() -> None:
    def play(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        env, noise = PushEnv(), np.random.default_rng(1)
        frames, states = [env.reset(seed=seed)[0]["pixels"]], [env.get_state()]
        for _ in range(25):
            frames.append(env.step(noise.uniform(-0.4, 0.4, 2).astype(np.float32))[0]["pixels"])
            states.append(env.get_state())
        return frames, states

    one, other, different = play(5), play(5), play(6)
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert not np.array_equal(one[0][0], different[0][0])


def test_the_task_is_what_it_was() -> None:
    """Golden values: data sets and shipped weights were made with this physics and these pictures."""
    env, observation = PushEnv("all"), PushEnv("all").reset(seed=11)[0]
    env.reset(seed=11)
    np.testing.assert_allclose(observation["environment_state"], GOLDEN_START, atol=1e-6)
    for _ in range(15):
        to_block = observation["environment_state"][:2] - observation["agent_pos"]
        observation, *_ = env.step((4 * to_block).astype(np.float32))
    np.testing.assert_allclose(observation["environment_state"], GOLDEN_END, atol=1e-4)
    sums = observation["pixels"].reshape(-1, 3).sum(axis=0)
    np.testing.assert_allclose(sums, GOLDEN_SUMS, rtol=2e-5)


GOLDEN_START = [0.0954274386, -0.0004329882, 0.8034475446, 0.5953755379]
GOLDEN_END = [0.2834292948, 0.0201352555, 0.9663136601, 0.2573673129]
GOLDEN_SUMS = [867684, 861470, 857883]


def test_starts_keep_their_promises() -> None:
    generator = np.random.default_rng(0)
    for _ in range(300):
        x, y, yaw, px, py = sample_start(generator)
        assert 0.08 <= np.hypot(x, y) <= 0.20
        assert -np.pi <= yaw <= np.pi
        assert max(abs(px), abs(py)) <= REACH_M
        assert np.hypot(px - x, py - y) > BLOCK_RADIUS_M + PUSHER_RADIUS_M


def test_the_blocks_origin_is_its_centre_of_mass() -> None:
    area = [(4 * half_w * half_h, x, y) for x, y, half_w, half_h in BLOCK_RECTANGLES_M]
    assert sum(a * y for a, _, y in area) == pytest.approx(0, abs=1e-12)
    model = PushEnv()._model
    np.testing.assert_allclose(model.body("block").ipos, 0, atol=1e-9)
    assert model.body("block").mass[0] == pytest.approx(0.3)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_the_pusher_stays_in_reach_and_nothing_moves_untouched(seed: int) -> None:
    env, noise = PushEnv(FAST), np.random.default_rng(seed)
    env.reset(seed=seed)
    drift = noise.uniform(-1, 1, 2)
    for _ in range(20):
        before, still = env._data.qpos[:3].copy(), np.abs(env._data.qvel[:3]).max() < 1e-6
        observation, *_ = env.step((drift + noise.normal(0, 0.3, 2)).astype(np.float32))
        assert np.abs(observation["agent_pos"]).max() <= REACH_M
        assert np.isfinite(env.get_state()).all()
        gap = np.hypot(*(env._data.qpos[3:] - env._data.qpos[:2]))
        if still and gap > BLOCK_RADIUS_M + PUSHER_RADIUS_M + 0.05:
            np.testing.assert_allclose(env._data.qpos[:3], before, atol=1e-6)


def test_a_block_stops_when_it_is_not_pushed() -> None:
    env = placed(PushEnv(FAST), (0.0, 0.0, 0.0), (0.0, -0.106))
    for _ in range(5):
        env.step(np.array([0.0, 0.4], np.float32))
    at_release = env._data.qpos[1]
    env.step(np.array([0.0, -0.4], np.float32))
    after_one = env._data.qpos[1]
    env.step(np.array([0.0, 0.0], np.float32))
    assert at_release > 0.05
    assert 0 <= after_one - at_release < 0.006
    assert env._data.qpos[1] - after_one < 1e-5


def test_pushing_through_the_centre_moves_straight_and_beside_it_turns() -> None:
    straight, turned = pushed(), pushed(offset_m=0.015)
    assert straight[1] > 0.05
    assert abs(straight[0]) < 1e-6
    assert abs(straight[2]) < 1e-6
    assert turned[2] > 0.05


def test_success_and_progress_are_of_the_present() -> None:
    env = PushEnv(FAST)
    for distance, success in ((GOAL_RADIUS_M - 1e-4, True), (GOAL_RADIUS_M + 1e-4, False), (0.5, False)):
        info = placed(env, (0.0, -distance, 1.0), (0.2, 0.2)).info()
        assert info["is_success"] is success
        assert info["progress"] == pytest.approx(max(0, 1 - distance / PROGRESS_RANGE_M))
        np.testing.assert_allclose(info["environment_state"], [0, -distance, np.cos(1), np.sin(1)], atol=1e-6)
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert reward == info["progress"]
    assert not terminated
    assert not truncated


def test_an_episode_has_fifty_steps() -> None:
    env = gymnasium.make("worldsim/Push-v0", obs_type=FAST)
    env.reset(seed=0)
    ends = [env.step(np.zeros(2, np.float32))[3] for _ in range(50)]
    assert ends == [False] * 49 + [True]


def test_resuming_is_exact_even_across_variations() -> None:
    env, other = PushEnv("all", variation={"size": 1.2, "block_color": (0.1, 0.1, 0.9)}), PushEnv("all")
    env.reset(seed=2)
    other.reset(seed=9)
    other.step(np.ones(2, np.float32))
    action = np.array([0.3, -0.2], np.float32)
    for _ in range(10):
        other.set_state(env.get_state())
        here, there = env.step(action)[0], other.step(action)[0]
        for key in here:
            np.testing.assert_array_equal(here[key], there[key])
    assert other.variation == env.variation
    for bad in (np.zeros(3), np.full_like(env.get_state(), np.nan)):
        with pytest.raises(InvalidInputError, match="finite numbers"):
            env.set_state(bad)


def test_pictures_show_block_goal_pusher_and_floor_where_they_are() -> None:
    env = placed(PushEnv(), (0.15, 0.1, 0.0), (-0.2, -0.25))
    frame = env.pixels()
    at = lambda x, y: frame[int(32 - y * 100), int(32 + x * 100)].astype(int)  # noqa: E731
    assert at(0.15, 0.12)[0] > 150 > at(0.15, 0.12)[2]
    assert at(-0.2, -0.25)[2] > 150 > at(-0.2, -0.25)[0]
    assert at(0, 0)[1] > 150 > at(0, 0)[0]
    assert at(-0.2, 0.2).min() > 200
    corner = frame[12:33, 36:58, 1].astype(float)  # around the block, without the goal
    cover = (214 - corner) / (214 - corner.min())
    assert cover.sum() == pytest.approx(80, abs=1.5)  # 80 cm2 at 1 cm per px, and a hint of the sides


@pytest.mark.parametrize(("name", "value"), [("friction", 1.5), ("grip", 0.0), ("mass", 1.2), ("size", 0.7)])
def test_physics_varies_by_name(name: str, value: float) -> None:
    assert np.abs(pushed(offset_m=0.012) - pushed(offset_m=0.012, **{name: value})).max() > 1e-3


def test_heavier_blocks_move_less() -> None:
    assert pushed(mass=0.1)[1] > pushed()[1] + 0.005 > pushed(mass=1.0)[1] + 0.02
    assert pushed(friction=1.5)[1] < pushed()[1] - 0.01


def test_looks_vary_by_name_and_physics_does_not_notice() -> None:
    def look(**variation: object) -> np.ndarray:
        return placed(PushEnv(variation=variation), (0.1, 0.1, 0.3), (-0.1, -0.2)).pixels().astype(int)

    nominal = look()
    assert np.abs(look(floor_color=(0.2, 0.2, 0.9))[0, 0] - [51, 51, 230]).max() <= 1
    for name in ("block_color", "pusher_color", "goal_color"):
        changed = np.abs(look(**{name: (0.9, 0.9, 0.1)}) - nominal).max(axis=2) > 0
        assert 5 < changed.sum() < 200
    assert look(light=0.5)[0, 0, 0] == pytest.approx(nominal[0, 0, 0] / 2, abs=1)
    assert np.abs(look(camera=(0.02, 0.0, 0.0))[:, :-2] - nominal[:, 2:]).mean() < 0.05  # 2 cm are 2 px
    assert np.abs(look(camera=(0.0, 0.03, 0.0))[3:] - nominal[:-3]).mean() < 0.05
    assert np.abs(look(camera=(0.0, 0.0, 0.1)) - nominal).max() > 50
    np.testing.assert_array_equal(pushed(light=0.5, camera=(0.05, 0, 0), block_color=(0, 0, 0)), pushed())


def test_a_reset_can_change_the_variation_and_back() -> None:
    env = PushEnv()
    nominal = env.reset(seed=4)[0]["pixels"]
    changed = env.reset(seed=4, options={"variation": {"light": 0.5}})[0]["pixels"]
    assert changed.mean() < nominal.mean() * 0.6
    assert env.reset(seed=4)[0]["pixels"].mean() == changed.mean()
    np.testing.assert_array_equal(env.reset(seed=4, options={"variation": {}})[0]["pixels"], nominal)


def test_a_variation_survives_as_numbers() -> None:
    variation = PushVariation.of({"size": 0.9, "camera": (0.01, -0.02, 0.03), "floor_color": (0.1, 0.2, 0.3)})
    assert PushVariation.from_numbers(variation.numbers()) == variation


def test_bad_requests_are_answered() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'friction'"):
        PushEnv(variation={"fricton": 1.0})
    with pytest.raises(UnknownNameError, match="block_color"):
        PushEnv().reset(options={"variation": {"block_colour": (1, 0, 0)}})
    with pytest.raises(InvalidInputError, match=r"within 0.6..1.4"):
        PushEnv(variation={"size": 3.0})
    with pytest.raises(InvalidInputError, match="takes 3 number"):
        PushEnv(variation={"block_color": (1.0, 0.0)})
    with pytest.raises(InvalidInputError, match="takes numbers"):
        PushEnv(variation={"mass": "heavy"})  # type: ignore[dict-item]
    assert PushEnv(variation={"block_color": np.zeros(3)}).variation.block_color == (0, 0, 0)  # type: ignore[dict-item]
    with pytest.raises(UnknownNameError, match="obs_type"):
        PushEnv("pixel")  # type: ignore[arg-type]
    env = PushEnv(FAST)
    env.reset(seed=0)
    for bad in (np.array([np.nan, 0]), np.zeros(3), np.zeros((1, 2))):
        with pytest.raises(InvalidInputError, match="vx, vy in m/s"):
            env.step(bad)


def test_actions_beyond_the_limits_are_clipped() -> None:
    ends = []
    for action in ([0.0, 0.4], [0.0, 9.0]):
        env = placed(PushEnv(FAST), (0.1, 0.1, 0.0), (-0.2, -0.2))
        env.step(np.array(action, np.float32))
        ends.append(env.get_state())
    np.testing.assert_array_equal(ends[0], ends[1])
    assert ACTION_SPEC.high == (0.4, 0.4)


def test_steps_hold_no_allocation_of_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A randomised episode compiles its scene once; going back to one of the last few does not compile again."""
    compiled: list[int] = []
    original = mujoco.MjModel.from_xml_string
    monkeypatch.setattr(mujoco.MjModel, "from_xml_string", lambda text: compiled.append(1) or original(text))
    env = PushEnv(FAST)
    for mass in (0.2, 0.3, 0.2, 0.3):
        env.reset(seed=0, options={"variation": {"mass": mass}})
        env.step(np.zeros(2, np.float32))
    assert len(compiled) == 2


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


def test_a_true_state_is_drawn_and_nothing_moves() -> None:
    env = PushEnv("all", variation={"size": 1.1})
    there, _ = env.reset(seed=3)
    kept, state, body = env.get_state(), there["environment_state"], there["agent_pos"]
    other = env.draw_state(np.array([0, 0, 0, 1], np.float32), body)
    assert np.array_equal(env.get_state(), kept) and np.array_equal(env.pixels(), there["pixels"])
    assert np.abs(env.draw_state(state, body).astype(int) - there["pixels"]).mean() < 0.1
    assert np.abs(other.astype(int) - there["pixels"]).mean() > 1
