"""Collecting: kill -9 at any moment, continuation, odd environments, bad behaviours."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.data import toys
from worldsim.core import IMAGE, STATE, TRUE_STATE
from worldsim.data.collect.env_adapter import EnvAdapter, EnvView
from worldsim.data.collect.goal_exploration import varied_behaviours
from worldsim.data.collect.random_exploration import Behaviour, Wander
from worldsim.data.collect.record import RecordingOptions, collect, estimate_collect
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError

TOP, SIDE = "observation.images.top", "observation.images.side"
MIXTURE = varied_behaviours(toys.ACTION)


class Recorder:
    """A policy that keeps what it is given."""

    def __init__(self, needs: frozenset[str] = frozenset({IMAGE, STATE}), action: Tensor | None = None) -> None:
        self.needs, self.action = needs, torch.zeros(1, 2) if action is None else action
        self.seen: list[Mapping[str, Tensor]] = []
        self.keys: list[int] = []

    def initial(self, n: int) -> None:
        assert n == 1

    def act(self, observation: Mapping[str, Tensor], carry: Any, keys: Tensor) -> tuple[Tensor, None]:
        self.seen.append(observation)
        self.keys.append(int(keys))
        return self.action, None


def only(policy: Any) -> tuple[Behaviour]:
    return (Behaviour(name="only", policy=policy),)


def test_what_happened_is_what_is_recorded(tmp_path: Path) -> None:
    policy = Recorder(action=torch.tensor([[0.2, 9.0]]))
    result = collect(toys.DotEnv, only(policy), episodes=2, out=tmp_path / "d", seed=3)
    assert (result.episodes, result.new, result.frames, result.behaviours) == (2, 2, 18, {"only": 2})
    dataset = open_dataset(tmp_path / "d")
    assert dataset.task == "Push the block." and dataset.action_spec == toys.ACTION
    first, second = dataset.episode(0), dataset.episode(1)
    env = toys.DotEnv()
    for number, e in enumerate((first, second)):
        observation, info = env.reset(seed=e.seed)
        assert np.array_equal(e.simulator, env.get_state())
        for t in range(9):
            assert np.array_equal(e.frames[IMAGE][t], observation["pixels"]) and np.array_equal(
                e.proprio[t], observation["agent_pos"]
            )
            assert e.success[t] == info["is_success"] and e.progress[t] == np.float32(info["progress"])
            if t < 8:
                assert np.array_equal(policy.seen[8 * number + t][IMAGE][0].numpy(), e.frames[IMAGE][t])
                observation, reward, *_, info = env.step(e.action[t])
                assert e.reward[t] == np.float32(reward)
    assert np.allclose(first.action, [0.2, 0.4])  # clipped into the limits
    assert first.seed != second.seed and len(set(policy.keys)) == 16


def test_continuing_gives_the_same_bytes(tmp_path: Path) -> None:
    collect(toys.DotEnv, MIXTURE, episodes=6, out=tmp_path / "complete", seed=1)
    for episodes in (2, 3, 6, 4):
        result = collect(toys.DotEnv, MIXTURE, episodes=episodes, out=tmp_path / "parts", seed=1)
    assert (result.episodes, result.new) == (6, 0)
    assert toys.contents(tmp_path / "parts") == toys.contents(tmp_path / "complete")
    collect(toys.DotEnv, MIXTURE, episodes=6, out=tmp_path / "other", seed=2)
    assert open_dataset(tmp_path / "other").digest != open_dataset(tmp_path / "complete").digest


KILLER = """
import json, os, signal, sys, time
from pathlib import Path
import toys, torch
from worldsim.data.collect.record import collect
from worldsim.data.collect.env_adapter import EnvAdapter, EnvView
from worldsim.data.collect.goal_exploration import varied_behaviours
torch.set_num_threads(1)
out = Path(sys.argv[1])
for wanted in (3, 11, 18):
    child = os.fork()
    if child == 0:
        collect(toys.DotEnv, varied_behaviours(toys.ACTION), episodes=40, out=out, seed=5)
        os._exit(1)
    while len(list(out.glob("data/*/file-*.parquet"))) < wanted:
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    print(json.dumps({k: v.hex() for k, v in toys.contents(out).items() if k.endswith(".parquet")}))
"""


def test_kill_9_loses_at_most_the_episode_in_flight(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(out)],
        env=toys.child_env(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    kept = [{k: v for k, v in json.loads(line).items() if k.startswith("data/")} for line in done.stdout.splitlines()]
    assert [len(k) >= n for k, n in zip(kept, (3, 11, 18), strict=True)] == [True] * 3
    assert kept[0].items() <= kept[1].items() <= kept[2].items()
    assert open_dataset(out).episode(0).steps == 8  # even before it is continued
    result = collect(toys.DotEnv, MIXTURE, episodes=40, out=out, seed=5)
    assert result.new == 40 - len(kept[2])
    collect(toys.DotEnv, MIXTURE, episodes=40, out=tmp_path / "complete", seed=5)
    assert toys.contents(out) == toys.contents(tmp_path / "complete")
    assert all(toys.contents(out)[name].hex() == data for name, data in kept[2].items())


def test_a_behaviour_that_fails_costs_nothing_recorded(tmp_path: Path) -> None:
    good, bad = Wander(toys.ACTION), Recorder(action=torch.tensor([[float("nan"), 0.0]]))
    mixture = (Behaviour(name="good", policy=good, weight=3), Behaviour(name="bad", policy=bad))
    with pytest.raises(InvalidInputError, match=r"'bad'.*NaN"):
        collect(toys.DotEnv, mixture, episodes=50, out=tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    assert dataset.episodes == len(list((tmp_path / "d/data/chunk-000").glob("*.parquet"))) > 0
    assert set(dataset.behaviours) == {"good"}


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (Recorder(action=torch.zeros(1, 3)), r"'only'.*\(1, 3\)"),
        (Recorder(needs=frozenset({TRUE_STATE})), "environment_state"),
    ],
)
def test_a_behaviour_that_does_not_fit_is_named(tmp_path: Path, policy: Recorder, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        collect(toys.DotEnv, only(policy), episodes=1, out=tmp_path / "d")


def test_weights_rule_the_mixture(tmp_path: Path) -> None:
    mixture = (Behaviour(name="often", policy=Recorder(), weight=3), Behaviour(name="seldom", policy=Recorder()))
    counts = collect(lambda: toys.DotEnv(steps=1), mixture, episodes=80, out=tmp_path / "d").behaviours
    assert 48 <= counts["often"] <= 72


@pytest.mark.parametrize("arguments", [{"episodes": 0}, {"seed": -1}])
def test_bad_arguments(tmp_path: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(InvalidInputError):
        collect(toys.DotEnv, MIXTURE, **{"episodes": 1, "out": tmp_path / "d", **arguments})
    with pytest.raises(InvalidInputError, match="different names"):
        collect(toys.DotEnv, MIXTURE * 2, episodes=1, out=tmp_path / "d")


def test_other_settings_do_not_continue(tmp_path: Path) -> None:
    collect(toys.DotEnv, MIXTURE, episodes=1, out=tmp_path / "d", seed=1)
    with pytest.raises(InvalidInputError, match=r"request\.seed: was 1, now 2"):
        collect(toys.DotEnv, MIXTURE, episodes=1, out=tmp_path / "d", seed=2)
    with pytest.raises(InvalidInputError, match=r"request\.behaviours"):
        collect(toys.DotEnv, MIXTURE[:2], episodes=1, out=tmp_path / "d", seed=1)


def test_an_estimate_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    cost = estimate_collect(toys.DotEnv, MIXTURE, episodes=100)
    assert cost.frames == 900 and cost.bytes > 10_000 and cost.seconds > 0
    assert not list(tmp_path.iterdir())


def test_a_disk_that_will_not_hold_it_is_noticed_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 50_000})())
    with pytest.raises(StorageError, match="99 more episodes need about"):
        collect(toys.DotEnv, MIXTURE, episodes=100, out=tmp_path / "d")
    assert open_dataset(tmp_path / "d").episodes == 1


class Plain(toys.DotEnv):
    """The same dot, seen in another way."""

    metadata = {"render_fps": 5}  # noqa: RUF012
    render_mode = "rgb_array"

    def __init__(self, kind: str) -> None:
        super().__init__(steps=3)
        self.kind = kind
        self.action_spec = None

    def observe(self) -> Any:
        full = super().observe()
        if self.kind == "image":
            return full["pixels"]
        if self.kind == "cameras":
            pixels = {"top": full["pixels"], "side": full["pixels"][::-1, ::2]}
            return {"pixels": pixels, "agent_pos": full["agent_pos"]}
        if self.kind == "entries":
            return {"top": full["pixels"], "side": full["pixels"][::-1, ::2], "agent_pos": full["agent_pos"]}
        if self.kind == "blind":
            return {"agent_pos": full["agent_pos"]}
        return full["agent_pos"]

    def render(self) -> Any:
        return None if self.kind == "blind" else toys.DotEnv.observe(self)["pixels"].repeat(4, 0).repeat(4, 1)

    def info(self) -> dict[str, Any]:
        return {}


def test_an_observation_that_is_an_image(tmp_path: Path) -> None:
    collect(lambda: Plain("image"), MIXTURE, episodes=2, out=tmp_path / "d")
    e = open_dataset(tmp_path / "d").episode(1)
    assert e.frames[IMAGE].shape == (4, 16, 24, 3) and np.array_equal(e.proprio, np.zeros((4, 1)))
    assert np.isnan(e.success).all() and np.isnan(e.progress).all()
    assert open_dataset(tmp_path / "d").action_spec.names == ("action_0", "action_1")
    assert open_dataset(tmp_path / "d").rate_hz == 5


def test_flat_observations_are_rendered_and_resized(tmp_path: Path) -> None:
    collect(
        lambda: Plain("flat"),
        MIXTURE,
        episodes=1,
        out=tmp_path / "d",
        options=RecordingOptions(image_px=32, steps=2, task="roam"),
    )
    dataset = open_dataset(tmp_path / "d")
    assert dataset.episode(0).frames[IMAGE].shape == (3, 32, 32, 3) and dataset.episode(0).proprio.shape == (3, 3)
    assert dataset.task == "roam"


def test_one_of_several_cameras(tmp_path: Path) -> None:
    mixture, wrist, side = (varied_behaviours(toys.ACTION, camera=SIDE), ("wrist",), ("side",))
    with pytest.raises(UnknownNameError, match="side, top"):
        collect(
            lambda: Plain("cameras"), mixture, episodes=1, out=tmp_path / "d", options=RecordingOptions(cameras=wrist)
        )
    collect(lambda: Plain("cameras"), mixture, episodes=1, out=tmp_path / "d", options=RecordingOptions(cameras=side))
    assert [c.key for c in open_dataset(tmp_path / "d").cameras] == [SIDE]


@pytest.mark.parametrize("kind", ["cameras", "entries"])
def test_all_cameras_are_recorded_each_in_its_own_size(tmp_path: Path, kind: str) -> None:
    policy = Recorder(needs=frozenset({TOP, SIDE}))
    with pytest.raises(InvalidInputError, match=r"'only' needs observation\.image; .* observation\.images\.side"):
        collect(lambda: Plain(kind), only(Recorder(needs=frozenset({IMAGE}))), episodes=1, out=tmp_path / "x")
    collect(lambda: Plain(kind), only(policy), episodes=1, out=tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    assert {c.key: c.size for c in dataset.cameras} == {SIDE: (16, 12), TOP: (16, 24)}
    e, env = dataset.episode(0), toys.DotEnv(steps=3)
    observation, _ = env.reset(seed=e.seed)
    for t in range(4):
        assert np.array_equal(e.frames[TOP][t], observation["pixels"])
        assert np.array_equal(e.frames[SIDE][t], observation["pixels"][::-1, ::2])
        if t < 3:
            assert np.array_equal(policy.seen[t][SIDE][0].numpy(), e.frames[SIDE][t])
            observation, *_ = env.step(e.action[t])
    adapter = EnvAdapter(Plain(kind), EnvView(cameras=("top", "side")))
    assert adapter.main_camera() == TOP and EnvAdapter(Plain(kind)).main_camera() == SIDE


class Reusing(toys.DotEnv):
    """Writes every observation into the same arrays."""

    def observe(self) -> Any:
        fresh = super().observe()
        self.kept = getattr(self, "kept", fresh)
        for name, value in fresh.items():
            self.kept[name][...] = value
        return self.kept


class Scribbling(Recorder):
    """Writes into what it is given."""

    def act(self, observation: Mapping[str, Tensor], carry: Any, keys: Tensor) -> tuple[Tensor, None]:
        for value in observation.values():
            value.zero_()
        return torch.full((1, 2), 0.2), None


def test_buffers_that_are_reused_or_written_into_do_not_change_the_record(tmp_path: Path) -> None:
    collect(toys.DotEnv, only(Recorder(action=torch.full((1, 2), 0.2))), episodes=1, out=tmp_path / "fresh")
    collect(Reusing, only(Scribbling()), episodes=1, out=tmp_path / "reused")
    fresh, reused = (open_dataset(tmp_path / n).episode(0) for n in ("fresh", "reused"))
    assert np.array_equal(fresh.frames[IMAGE], reused.frames[IMAGE]) and np.array_equal(fresh.proprio, reused.proprio)
    assert len(np.unique(reused.proprio[:, 0])) > 1


def test_no_pixels_and_actions_that_no_vector_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="render_mode"):
        collect(lambda: Plain("blind"), MIXTURE, episodes=1, out=tmp_path / "d")
    talking = Plain("image")
    talking.action_space = gymnasium.spaces.Text(5)
    with pytest.raises(InvalidInputError, match="text has no fixed number"):
        collect(lambda: talking, MIXTURE, episodes=1, out=tmp_path / "d")
    assert not (tmp_path / "d").exists()


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    collect(toys.DotEnv, MIXTURE, episodes=1, out=tmp_path / "d")
    assert torch.equal(torch.rand(3), expected)
