"""Recording policies in the simulator and in the shipped world: what is kept, pairs, continuation, kill -9."""

import dataclasses
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data import toys
from tests.planners.plane import Plane
from worldsim.core import IMAGE, STATE, TASK, TRUE_STATE, Observation, row_texts, text_rows
from worldsim.data.collect.rollouts import RolloutOptions, batch_size, estimate_rollouts, record_rollouts
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.envs.push.env import PushEnv
from worldsim.envs.simulator import SimulatorWorld
from worldsim.errors import InvalidInputError
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld

QUICK = RolloutOptions(seed=3, steps=5, batch=4, name="push")


def two() -> dict[str, toys.Noisy]:
    return {"wild": toys.Noisy(1.0), "mild": toys.Noisy(0.2)}


def turn(dataset: Dataset, number: int) -> int:
    """Which of its policy's rows in the batch an episode is."""
    return dataset.behaviours[:number].count(dataset.behaviours[number])


@cache
def world() -> LatentWorld:
    return load_world("push")


@cache
def simulator(*, paired: bool) -> SimulatorWorld:
    return SimulatorWorld(PushEnv("all"), horizon=50, starts=world().first_observations if paired else None)


def test_what_happened_in_the_simulator_is_recorded(tmp_path: Path) -> None:
    policies = two()
    made = record_rollouts(simulator(paired=False), policies, episodes=3, out=tmp_path / "d", options=QUICK)
    assert (made.episodes, made.frames) == (3, 18)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.dreamed_by == "" and set(dataset.behaviours[:2]) == {"wild", "mild"}
    assert dataset.task == PushEnv.task and len(set(dataset.seeds)) == 3
    env = PushEnv("all")
    for number in range(3):
        e = dataset.episode(number)
        observation, info = env.reset(seed=e.seed)
        assert np.array_equal(e.simulator, env.get_state())
        for t in range(6):
            assert np.array_equal(e.frames[IMAGE][t], observation["pixels"])
            assert np.array_equal(e.proprio[t], observation["agent_pos"])
            assert np.array_equal(e.true_state[t], observation["environment_state"])
            if t:
                assert e.success[t] == info["is_success"] and e.progress[t] == np.float32(info["progress"])
            if t < 5:
                assert np.array_equal(policies[e.behaviour].seen[t][turn(dataset, number)].numpy(), e.frames[IMAGE][t])
                observation, reward, *_, info = env.step(e.action[t])
                assert e.reward[t] == np.float32(reward)
    assert np.abs(np.concatenate([dataset.episode(i).action for i in range(3)])).max() == np.float32(0.4)


def test_a_dream_is_the_worlds_own_throughout(tmp_path: Path) -> None:
    policies = two()
    record_rollouts(world(), policies, episodes=4, out=tmp_path / "d", options=QUICK)
    dataset = open_dataset(tmp_path / "d")
    assert dataset.dreamed_by == "push"
    for number in range(4):
        e = dataset.episode(number)
        start = world().starts(torch.tensor([e.seed]))
        state = world().reset(start, torch.tensor([0]))
        assert e.true_state is None and e.simulator is None
        assert np.array_equal(e.frames[IMAGE][0], world().roundtrip(start[IMAGE])[0])
        assert np.array_equal(policies[e.behaviour].seen[0][turn(dataset, number)].numpy(), e.frames[IMAGE][0])
        assert e.progress[0] == pytest.approx(float(world().present(state).progress), abs=1e-5)
        _, rollout = world().rollout(state, torch.tensor(e.action)[None])
        assert np.allclose(e.progress[1:], rollout.progress[0], atol=1e-5) and np.array_equal(e.reward, e.progress[1:])
        assert np.array_equal(e.success[1:], rollout.success[0] >= 0.5)
        away = world().decode(rollout.latent)[0].numpy().astype(int) - e.frames[IMAGE][1:]
        assert np.abs(away).max() <= 1


def test_dream_and_truth_pair_by_number(tmp_path: Path) -> None:
    for name, place in (("dream", world()), ("truth", simulator(paired=True))):
        record_rollouts(place, two(), episodes=6, out=tmp_path / name, options=QUICK)
    dream, truth = open_dataset(tmp_path / "dream"), open_dataset(tmp_path / "truth")
    assert dream.seeds == truth.seeds and dream.behaviours == truth.behaviours
    for number in range(6):
        d, t = dream.episode(number), truth.episode(number)
        assert np.array_equal(d.action, t.action)  # the same noise: these policies look at nothing else
        assert np.array_equal(d.proprio[0], t.proprio[0])
        start = world().starts(torch.tensor([t.seed]))
        assert np.array_equal(t.frames[IMAGE][0], start[IMAGE][0]) and np.array_equal(
            t.true_state[0], start[TRUE_STATE][0]
        )


class Table:
    """The simulator with few starts of its own."""

    def __init__(self, starts: int) -> None:
        self.num_starts = starts
        for name in ("spec", "starts", "reset", "step", "rollout", "decode"):
            setattr(self, name, getattr(simulator(paired=True), name))


def test_no_policy_meets_a_start_twice_before_it_has_met_all(tmp_path: Path) -> None:
    policies = {name: toys.Noisy() for name in "abcd"}
    made = record_rollouts(
        Table(6), policies, episodes=25, out=tmp_path / "d", options=RolloutOptions(steps=1, batch=8, name="table")
    )
    dataset = open_dataset(tmp_path / "d")
    pairs = list(zip(dataset.behaviours, dataset.seeds, strict=True))
    assert len(set(pairs[:24])) == 24 and pairs[24] in pairs[:24]
    assert set(made.behaviours.values()) == {6, 7}
    assert [dataset.seeds[:24].count(i) for i in range(6)] == [4] * 6
    rounds = [dataset.behaviours[i : i + 4] for i in range(0, 24, 4)]
    assert all(sorted(r) == list("abcd") for r in rounds) and len(set(rounds)) > 3


def test_continuing_gives_the_same_bytes(tmp_path: Path) -> None:
    record_rollouts(world(), two(), episodes=7, out=tmp_path / "full", options=QUICK)
    for episodes in (1, 5, 7, 4):
        made = record_rollouts(world(), two(), episodes=episodes, out=tmp_path / "parts", options=QUICK)
    assert (made.episodes, made.new) == (7, 0)
    assert toys.contents(tmp_path / "parts") == toys.contents(tmp_path / "full")
    with pytest.raises(InvalidInputError, match="policies"):
        record_rollouts(world(), {"wild": toys.Noisy()}, episodes=8, out=tmp_path / "parts", options=QUICK)
    with pytest.raises(InvalidInputError, match="dreamed_by"):
        record_rollouts(simulator(paired=True), two(), episodes=8, out=tmp_path / "parts", options=QUICK)


KILLER = """
import os, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import toys
from worldsim.data.collect.rollouts import RolloutOptions, record_rollouts
from worldsim.worlds import load_world
out, world = Path(sys.argv[1]), load_world("push")
two = {"wild": toys.Noisy(1.0), "mild": toys.Noisy(0.2)}
quick = RolloutOptions(seed=3, steps=5, batch=4, name="push")
for wanted in (2, 9):
    child = os.fork()
    if child == 0:
        record_rollouts(world, two, episodes=200, out=out, options=quick)
        os._exit(1)
    while len(list(out.glob("data/*/file-*.parquet"))) < wanted:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def test_kill_9_loses_at_most_the_batch_in_flight(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLER, str(out)]
    done = subprocess.run(command, env=toys.child_env(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    kept = len(list(out.glob("data/*/*.parquet")))
    assert kept >= 9
    made = record_rollouts(world(), two(), episodes=kept + 3, out=out, options=QUICK)
    assert made.new == 3
    record_rollouts(world(), two(), episodes=kept + 3, out=tmp_path / "full", options=QUICK)
    assert toys.contents(out) == toys.contents(tmp_path / "full")


def test_what_does_not_fit_is_named_and_costs_nothing_recorded(tmp_path: Path) -> None:
    blind = {"fine": toys.Noisy(), "clairvoyant": toys.Noisy(needs=frozenset({IMAGE, TRUE_STATE}))}
    with pytest.raises(InvalidInputError, match=r"'clairvoyant' needs observation\.environment_state"):
        record_rollouts(world(), blind, episodes=2, out=tmp_path / "a", options=QUICK)
    record_rollouts(simulator(paired=True), blind, episodes=2, out=tmp_path / "b", options=QUICK)
    with pytest.raises(InvalidInputError, match=r"'broken'.*NaN"):
        record_rollouts(world(), {"broken": toys.Noisy(float("nan"))}, episodes=1, out=tmp_path / "c", options=QUICK)
    with pytest.raises(InvalidInputError, match="cannot draw"):
        record_rollouts(load_world("push_state"), two(), episodes=1, out=tmp_path / "d", options=QUICK)
    with pytest.raises(InvalidInputError, match="and a policy"):
        record_rollouts(world(), {}, episodes=1, out=tmp_path / "e")
    with pytest.raises(InvalidInputError, match="batch of 1 or more"):
        RolloutOptions(batch=0)
    assert not (tmp_path / "d").exists()


class Stereo(Plane):
    """A mass in the plane that two cameras of different sizes see, each episode with a task of its own."""

    spec = dataclasses.replace(Plane.spec, cameras=toys.PAIR)
    num_starts = 3

    def starts(self, indices: Tensor) -> Observation:
        first = super().starts(indices)
        frames = {c.key: self.decode(first[STATE][:, :, None, None], c.key) for c in self.spec.cameras}
        tasks = [("to the left", "to the right", "up")[i] for i in indices.tolist()]
        return {**first, **frames, TASK: text_rows(tasks)}

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        own = self.spec.camera(camera)
        axis = self.spec.cameras.index(own)
        level = ((latent[..., axis, 0, 0] + 2) * 50).clamp(0, 255).to(torch.uint8)
        return level[..., None, None, None].expand(*level.shape, *own.size, 3)


def test_every_camera_and_task_of_a_world_is_recorded(tmp_path: Path) -> None:
    both, one = toys.Noisy(1.0, frozenset({toys.TOP, toys.WRIST})), toys.Noisy(0.2, frozenset({toys.TOP}))
    options = RolloutOptions(seed=3, steps=5, batch=4, name="plane")
    record_rollouts(Stereo(), {"both": both, "one": one}, episodes=5, out=tmp_path / "d", options=options)
    dataset, world = open_dataset(tmp_path / "d"), Stereo()
    assert dataset.cameras == toys.PAIR
    assert len(set(dataset.seeds)) == 3 and set(dataset.tasks) == {"to the left", "to the right", "up"}
    for number in range(5):
        e = dataset.episode(number)
        start = world.starts(torch.tensor([e.seed]))
        assert e.task == row_texts(start[TASK])[0]
        state = world.reset(start, torch.tensor([0]))
        _, rollout = world.rollout(state, torch.tensor(e.action)[None])
        for key, frames in e.frames.items():
            assert np.array_equal(frames[0], start[key][0])
            assert np.array_equal(frames[1:], world.decode(rollout.latent, key)[0])
    tops = torch.cat([seen for policy in (both, one) for seen in policy.seen])
    assert tops.shape[1:] == (32, 20, 3)


def test_an_estimate_counts_full_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cost = estimate_rollouts(world(), two(), episodes=100, options=QUICK)
    assert cost.frames == 600 and cost.bytes > 10_000 and cost.seconds > 0
    assert [batch_size(k) for k in (1, 3, 40, 100, 200)] == [128, 126, 120, 100, 128]
