import time
from collections.abc import Callable

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldsim.core import IMAGE, SIMULATOR, STATE, TRUE_STATE
from worldsim.data.collect.env_adapter import EnvView
from worldsim.data.collect.success import success_rule
from worldsim.data.starts import Starts
from worldsim.envs.push.env import PushEnv
from worldsim.envs.simulator import SimulatorWorld
from worldsim.errors import EnvError, InvalidInputError
from worldsim.testing import check_env, check_world

ACTIONS = (torch.rand((3, 12, 2), generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.4


def test_it_keeps_the_contract_of_worlds(push_world: SimulatorWorld) -> None:
    check_world(push_world)


def test_it_is_the_environment(push_world: SimulatorWorld) -> None:
    starts = push_world.starts(torch.tensor([4, 9, 4]))
    _, rollout = push_world.rollout(push_world.reset(starts, torch.arange(3)), ACTIONS)
    frames = push_world.decode(rollout.latent)
    assert rollout.true_state is not None
    for row, seed in enumerate((4, 9, 4)):
        env = PushEnv("all")
        seen, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(starts[IMAGE][row], seen["pixels"])
        np.testing.assert_array_equal(starts[TRUE_STATE][row], seen["environment_state"])
        for t in range(ACTIONS.shape[1]):
            seen, reward, _, _, info = env.step(ACTIONS[row, t].numpy())
            np.testing.assert_array_equal(frames[row, t], seen["pixels"])
            np.testing.assert_array_equal(rollout.proprio[row, t], seen["agent_pos"])
            np.testing.assert_array_equal(rollout.true_state[row, t], seen["environment_state"])
            assert rollout.progress[row, t] == pytest.approx(reward, abs=1e-6)
            assert bool(rollout.success[row, t]) == info["is_success"]


def test_branches_of_one_state_are_independent_and_exact(push_world: SimulatorWorld) -> None:
    state = push_world.reset(push_world.starts(torch.tensor([1])), torch.tensor([0]))
    state, _ = push_world.rollout(state, ACTIONS[:1])
    _, together = push_world.rollout(state.repeat(3), ACTIONS)
    for row in (2, 0, 1):
        _, alone = push_world.rollout(state, ACTIONS[row : row + 1])
        assert torch.equal(alone.latent[0], together.latent[row])


def test_nothing_is_drawn_until_somebody_looks(push_world: SimulatorWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = push_world.starts(torch.tensor([1, 2]))
    drawn: list[int] = []
    original = PushEnv.pixels
    monkeypatch.setattr(PushEnv, "pixels", lambda self: drawn.append(1) or original(self))
    _, rollout = push_world.rollout(push_world.reset(starts, torch.arange(2)), ACTIONS[:2])
    assert not drawn
    push_world.decode(rollout.latent[:, -1])
    assert len(drawn) == 2


def test_starts_can_come_from_a_table(push_world: SimulatorWorld) -> None:
    table = Starts({k: v for k, v in push_world.starts(torch.tensor([30, 31])).items()})
    world = SimulatorWorld(PushEnv(), horizon=10, starts=table)
    assert world.num_starts == 2
    assert world.spec.horizon == 10
    assert torch.equal(world.starts(torch.tensor([3]))[SIMULATOR], table.rows[SIMULATOR][1:])
    with pytest.raises(InvalidInputError, match="also needs"):
        SimulatorWorld(PushEnv(), horizon=10, starts=Starts({k: table.rows[k] for k in (IMAGE, STATE)}))


def test_variations_travel_with_the_state(push_world: SimulatorWorld) -> None:
    env = PushEnv(variation={"block_color": (0.1, 0.1, 0.1), "mass": 1.0})
    env.reset(seed=3)
    seen = {SIMULATOR: torch.from_numpy(env.get_state())[None]}
    nominal = push_world.starts(torch.tensor([3]))[SIMULATOR]
    mixed = {SIMULATOR: torch.cat([seen[SIMULATOR], nominal])}
    _, step = push_world.step(push_world.reset(mixed, torch.arange(2)), torch.zeros(2, 2))
    frames = push_world.decode(step.latent)
    env.step(np.zeros(2, np.float32))
    np.testing.assert_array_equal(frames[0], env.pixels())
    assert not torch.equal(frames[0], frames[1])


class Pendulum(gymnasium.Env):
    """A MuJoCo environment as Gymnasium's own are: a model, data, and nothing to restore it with."""

    metadata = {"render_modes": [], "render_fps": 20}  # noqa: RUF012

    def __init__(self) -> None:
        self.model = mujoco.MjModel.from_xml_string(
            """<mujoco><worldbody><light directional="true"/><camera name="side" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
            <camera name="back" pos="0 3 0" xyaxes="-1 0 0 0 0 1"/>
            <body><joint name="hinge" axis="0 1 0"/><geom type="capsule" fromto="0 0 0 0 0 -.6" size=".05"/></body>
            </worldbody><actuator><motor joint="hinge" ctrlrange="-1 1"/></actuator></mujoco>"""
        )
        self.data = mujoco.MjData(self.model)
        self.action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float64)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform(-1, 1, 1)
        mujoco.mj_forward(self.model, self.data)
        return self._seen(), {}

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=10)
        mujoco.mj_forward(self.model, self.data)
        return self._seen(), 0.0, False, False, {"is_success": bool(self.data.qpos[0] > 0.5)}

    def _seen(self) -> np.ndarray:
        return np.concatenate([self.data.qpos, self.data.qvel])


def test_a_mujoco_environment_needs_nothing_but_its_model_and_data() -> None:
    world = SimulatorWorld(Pendulum(), horizon=20, camera="side")
    assert world.spec.proprio_dim == 2
    assert world.spec.action.rate_hz == 20
    check_world(world)
    env = Pendulum()
    env.reset(seed=5)
    state = world.reset(world.starts(torch.tensor([5])), torch.tensor([0]))
    for _ in range(10):
        seen, *_ = env.step(np.array([0.5], np.float32))
        state, step = world.step(state, torch.tensor([[0.5]]))
    np.testing.assert_allclose(step.proprio[0], seen, atol=1e-5)
    assert step.true_state is None


def test_several_cameras_are_drawn_by_name() -> None:
    world = SimulatorWorld(Pendulum(), horizon=20, camera=("side", "back"))
    check_world(world)
    assert [c.name for c in world.spec.cameras] == ["side", "back"]
    one = SimulatorWorld(Pendulum(), horizon=20, camera="back")
    both, alone = world.starts(torch.tensor([5])), one.starts(torch.tensor([5]))
    assert torch.equal(both["observation.images.back"], alone[IMAGE])
    latent = world.step(world.reset(both, torch.arange(1)), torch.ones(1, 1))[1].latent
    assert torch.equal(world.decode(latent, "observation.images.back"), one.decode(latent))
    assert not torch.equal(world.decode(latent), one.decode(latent))
    env = gymnasium.make("worldsim/World-v0", world=world)
    check_env(env)
    assert set(env.reset(seed=3)[0]["pixels"]) == {"side", "back"}


class Counter(gymnasium.Env):
    """A number that its actions change; its state is the number."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012
    render_mode = "rgb_array"
    action_space = spaces.Dict({"by": spaces.Discrete(7, start=-3), "flags": spaces.MultiBinary(2)})
    observation_space = spaces.Box(-1e3, 1e3, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.number = float(self.np_random.integers(10))
        return np.array([self.number], np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.number += float(action["by"]) + 100 * float(action["flags"].sum())
        return np.array([self.number], np.float32), 0.0, False, False, {}

    def render(self):
        return np.full((4, 4, 3), int(self.number) % 256, np.uint8)[::-1]

    def get_state(self):
        return np.array([self.number])

    def set_state(self, state):
        self.number = float(state[0])


def test_an_episode_is_as_long_as_is_said_first_then_registered_then_the_longest() -> None:
    assert SimulatorWorld(Counter(), horizon=6, longest=9).spec.horizon == 6
    assert SimulatorWorld(Counter(), longest=9).spec.horizon == 9
    with pytest.raises(InvalidInputError, match="at least one step"):
        SimulatorWorld(Counter())


def test_choices_and_parts_reach_the_simulator_exactly() -> None:
    world = SimulatorWorld(Counter(), horizon=6)
    assert world.spec.action.choices == (7, 2, 2)
    check_world(world)
    env = gymnasium.make("worldsim/World-v0", world=world)
    check_env(env)
    assert env.action_space == Counter.action_space
    (seen, _), counter = env.reset(seed=4), Counter()
    counter.reset(seed=4)
    for _ in range(6):
        action = Counter.action_space.sample()
        seen, *_ = env.step(action)
        true, *_ = counter.step(action)
        np.testing.assert_array_equal(seen["agent_pos"], true)
        np.testing.assert_array_equal(seen["pixels"], counter.render())


def test_wrappers_that_change_actions_or_observations_are_applied() -> None:
    scaled = SimulatorWorld(gymnasium.wrappers.RescaleAction(PushEnv(), -1, 1), horizon=10)
    assert scaled.spec.action.high == (1, 1)
    plain = SimulatorWorld(PushEnv(), horizon=10)
    keys, starts = torch.arange(2), plain.starts(torch.tensor([3, 4]))
    _, there = scaled.step(scaled.reset(starts, keys), torch.tensor([[1.0, -0.5], [0.0, 0.25]]))
    _, here = plain.step(plain.reset(starts, keys), torch.tensor([[0.4, -0.2], [0.0, 0.1]]))
    assert torch.allclose(there.latent, here.latent, atol=1e-7)

    def double(observation: np.ndarray) -> np.ndarray:
        return 2 * observation

    wrapped = gymnasium.wrappers.TransformObservation(Counter(), double, spaces.Box(-2e3, 2e3, (1,)))
    world = SimulatorWorld(gymnasium.wrappers.TimeLimit(wrapped, 5), horizon=5)
    state = world.reset(world.starts(torch.tensor([4])), keys[:1])
    assert float(world.step(state, torch.tensor([[5.0, 0, 0]]))[1].proprio) == 2 * (float(state.simulator) + 2)


class Sum(gymnasium.Wrapper):
    """Success of its own, from a memory of its own; actions count double."""

    def reset(self, **options):
        self.total = 0.0
        return self.env.reset(**options)

    def step(self, action):
        self.total += float(action["by"])
        doubled = {"by": np.clip(2 * action["by"], -3, 3), "flags": action["flags"]}
        observation, _, _, _, info = self.env.step(doubled)
        return observation, self.total, self.total > 5, False, {**info, "is_success": self.total > 2}


def test_wrappers_with_a_memory_act_by_playing_the_actions_again() -> None:
    world = SimulatorWorld(lambda: Sum(Counter()), horizon=6)
    check_world(world)
    assert world.tells_success and not SimulatorWorld(Counter(), horizon=6).tells_success
    starts = world.starts(torch.tensor([4, 4, 9]))
    assert starts[SIMULATOR].tolist() == [[4], [4], [9]]
    flat = torch.tensor([[[6.0, 0, 0]] * 6, [[4.0, 1, 0]] * 6, [[5.0, 0, 1]] * 6])
    state, rollout = world.rollout(world.reset(starts, torch.arange(3)), flat)
    frames = world.decode(rollout.latent)
    for row, seed in enumerate((4, 4, 9)):
        env, over = Sum(Counter()), False
        env.reset(seed=seed)
        for t in range(6):
            if not over:  # an episode that is over stays as it ended
                by, *flags = flat[row, t].tolist()
                action = {"by": np.int64(by - 3), "flags": np.array(flags, np.int8)}
                seen, _, over, _, info = env.step(action)
                drawn = env.render()
            assert rollout.proprio[row, t].tolist() == seen.tolist()
            assert bool(rollout.success[row, t]) == info["is_success"]
            np.testing.assert_array_equal(frames[row, t], drawn)
    with pytest.raises(InvalidInputError, match="has 6 actions"):
        world.step(state, flat[:, 0])
    table = Starts({k: v for k, v in starts.items()})
    again = SimulatorWorld(lambda: Sum(Counter()), horizon=6, starts=table)
    assert torch.equal(
        again.rollout(again.reset(again.starts(torch.arange(3)), torch.arange(3)), flat)[1].latent, rollout.latent
    )


def test_fewer_copies_than_episodes_change_nothing() -> None:
    many, one = SimulatorWorld(lambda: Sum(Counter()), horizon=6), SimulatorWorld(Sum(Counter()), horizon=6)
    starts, actions = many.starts(torch.arange(3)), torch.tensor([[[4.0, 1, 0]] * 6] * 3)
    rollouts = [w.rollout(w.reset(starts, torch.arange(3)), actions)[1] for w in (many, one)]
    assert torch.equal(rollouts[0].latent, rollouts[1].latent) and torch.equal(rollouts[0].proprio, rollouts[1].proprio)


def test_a_step_is_one_step_of_the_environment_however_many_rows_are_equal() -> None:
    played: list[int] = []

    class Counted(Sum):
        def step(self, action):
            played.append(1)
            return super().step(action)

        def render(self):
            drawn.append(1)
            return super().render()

    drawn: list[int] = []
    world = SimulatorWorld(lambda: Counted(Counter()), horizon=6)
    rows = torch.tensor([4, 9, *[4] * 30])  # a batch is filled up with its first start
    actions = torch.tensor([[[4.0, 1, 0], [3.0, 0, 1], *[[4.0, 1, 0]] * 30]]).repeat(6, 1, 1)
    starts = world.starts(rows)
    played.clear()
    state, rollout = world.rollout(world.reset(starts, rows), actions.transpose(0, 1))
    assert len(played) == 2 * 6
    played.clear()
    world.decode(rollout.latent[:2])
    assert len(played) == 2 * 6  # an episode is drawn in one playing
    drawn.clear()
    frames = world.decode(rollout.latent[:, -1])
    assert len(drawn) == 2 and torch.equal(frames[0], frames[-1]) and not torch.equal(frames[0], frames[1])
    again = world.reset(starts, rows)
    for t in range(6):
        again, step = world.step(again, actions[t])
        assert torch.equal(step.latent, rollout.latent[:, t]) and torch.equal(step.proprio, rollout.proprio[:, t])
    assert torch.equal(again.simulator, state.simulator)


def test_copies_whose_episodes_have_ended_play_the_next_ones() -> None:
    made: list[int] = []

    def make() -> gymnasium.Env:
        made.append(1)
        return Sum(Counter())

    world = SimulatorWorld(make, horizon=6)
    for begin in range(0, 15, 3):
        seeds = torch.arange(begin, begin + 3)
        starts = world.starts(seeds)
        rollout = world.rollout(world.reset(starts, seeds), torch.tensor([[[4.0, 1, 0]] * 6] * 3))[1]
        alone = SimulatorWorld(Sum(Counter()), horizon=6)
        expected = alone.rollout(alone.reset(starts, seeds), torch.tensor([[[4.0, 1, 0]] * 6] * 3))[1]
        assert torch.equal(rollout.proprio, expected.proprio)
        assert torch.equal(world.decode(rollout.latent), alone.decode(expected.latent))
    assert len(made) <= 5  # three at a time, and what is tried at the beginning


def test_episodes_that_take_turns_and_repeat_steps_go_as_they_do_alone() -> None:
    draw = np.random.default_rng(7)
    world = SimulatorWorld(lambda: Sum(Counter()), horizon=6)
    alone = {}
    for seed in (4, 9):
        for plan in range(3):
            actions = torch.tensor(
                np.random.default_rng(plan).integers([3, 0, 0], [7, 2, 2], (6, 3)), dtype=torch.float32
            )
            fresh = SimulatorWorld(lambda: Sum(Counter()), horizon=6)
            starts = fresh.starts(torch.tensor([seed]))
            alone[seed, plan] = actions, fresh.rollout(fresh.reset(starts, torch.zeros(1)), actions[None])[1]
    states = {key: [world.reset(world.starts(torch.tensor([key[0]])), torch.zeros(1))] for key in alone}
    for _ in range(150):
        seed, plan = [*alone][draw.integers(len(alone))]
        t = int(draw.integers(min(6, len(states[seed, plan]))))  # the next step, or one that was taken before
        actions, expected = alone[seed, plan]
        following, step = world.step(states[seed, plan][t], actions[None, t])
        for name in ("latent", "proprio", "success", "progress"):
            assert torch.equal(getattr(step, name), getattr(expected, name)[:, t])
        assert torch.equal(world.decode(step.latent), fresh.decode(expected.latent[:, t]))
        if t + 1 == len(states[seed, plan]):
            states[seed, plan].append(following)


class Pretending(Pendulum):
    """A goal that MuJoCo's state does not hold, as gymnasium-robotics keeps it."""

    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        seen, info = super().reset(seed=seed)
        self.goal = float(self.np_random.uniform(-1, 1))
        return seen, info

    def step(self, action):
        seen, _, _, _, _ = super().step(action)
        away = abs(self.goal - float(seen[0]))
        return seen, -away, False, False, {"is_success": away < 0.3}

    def render(self):
        return np.full((8, 8, 3), int(100 * abs(self.data.qpos[0])) % 256, np.uint8)


def test_a_goal_beside_mujocos_state_is_not_lost() -> None:
    world = SimulatorWorld(Pretending, horizon=10)
    assert world.starts(torch.tensor([5]))[SIMULATOR].tolist() == [[5]]
    env = Pretending()
    env.reset(seed=5)
    state = world.reset(world.starts(torch.tensor([5])), torch.tensor([0]))
    for _ in range(10):
        *_, info = env.step(np.array([0.5], np.float32))
        state, step = world.step(state, torch.tensor([[0.5]]))
        assert bool(step.success) == info["is_success"]


def test_an_environment_that_does_not_repeat_itself_is_refused_with_the_reason() -> None:
    class Drifting(Sum):
        def step(self, action):
            observation, *rest = super().step(action)
            return observation + np.random.default_rng().random(1).astype(np.float32), *rest  # not seeded by reset

    with pytest.raises(EnvError, match=r"cannot be replayed.*proprio differs at step [12].*reset\(seed=\.\.\.\)"):
        SimulatorWorld(lambda: Drifting(Counter()), horizon=5)


def test_a_state_that_is_no_vector_is_not_kept() -> None:
    class Talking(Counter):
        def get_state(self):
            return {"number": self.number}

    world = SimulatorWorld(Talking, horizon=4)
    assert world.is_replayed and world.starts(torch.tensor([7]))[SIMULATOR].tolist() == [[7]]
    check_world(world)


def test_success_and_rewards_of_wrappers_are_used() -> None:
    rewarded = gymnasium.wrappers.TransformReward(PushEnv(), lambda reward: reward + 5)
    view = EnvView(success=success_rule("reward > 4.9"))
    world = SimulatorWorld(rewarded, horizon=3, view=view)
    state = world.reset(world.starts(torch.tensor([3])), torch.arange(1))
    assert world.starts(torch.tensor([3]))[SIMULATOR].shape[1] > 1  # still restored, not replayed
    assert float(world.step(state, torch.zeros(1, 2))[1].success) == 1


def test_environments_that_cannot_be_used_are_refused_with_the_reason(push_world: SimulatorWorld) -> None:
    with pytest.raises(InvalidInputError, match="Pass horizon="):
        SimulatorWorld(PushEnv())
    with pytest.raises(EnvError, match="Pendulum raised NotImplementedError in render"):
        SimulatorWorld(Pendulum(), horizon=5)
    for shape in ((4, 4, 4), (4, 4, 4, 3), (4,)):
        grey = Counter()
        grey.render = lambda shape=shape: np.zeros(shape, np.uint8)
        with pytest.raises(InvalidInputError, match="neither as RGB nor as gray"):
            SimulatorWorld(grey, horizon=5)
    with pytest.raises(InvalidInputError, match="leave camera out"):
        SimulatorWorld(PushEnv(), horizon=5, camera="top")
    starts = push_world.starts(torch.tensor([0, 1]))
    with pytest.raises(InvalidInputError, match="Take starts from SimulatorWorld.starts"):
        push_world.reset({IMAGE: starts[IMAGE], STATE: starts[STATE]}, torch.arange(2))
    with pytest.raises(InvalidInputError, match="2 rows of"):
        push_world.reset({SIMULATOR: starts[SIMULATOR][:, :5]}, torch.arange(2))
    with pytest.raises(InvalidInputError, match=r"\[\.\.\., S, 1, 1\]"):
        push_world.decode(torch.zeros(2, 8, 8, 8))


@pytest.mark.parametrize(
    ("fault", "words"),
    [(lambda: 1 / 0, "raised ZeroDivisionError: division by zero in step"), (lambda: time.sleep(9), "hung in step")],
)
def test_a_restored_environment_that_fails_is_named(
    fault: Callable[[], object], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = SimulatorWorld(PushEnv, horizon=3, view=EnvView(timeout_s=0.2))
    state = world.reset(world.starts(torch.tensor([1])), torch.tensor([0]))
    monkeypatch.setattr(PushEnv, "advance", lambda self, action: fault())
    with pytest.raises(EnvError, match=words):
        world.step(state, ACTIONS[:1, 0])
