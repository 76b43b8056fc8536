"""The true environment of a world: any that the user names, looked at as the data was recorded, paired by start."""

import dataclasses
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from worldsim import storage
from worldsim.core import SIMULATOR, Observation, WorldSpec
from worldsim.data.collect.random_exploration import Behaviour, Wander
from worldsim.data.collect.record import RecordingOptions, collect
from worldsim.data.collect.success import success_rule
from worldsim.data.lerobot.join import open_datasets
from worldsim.data.lerobot.read import Dataset, open_dataset
from worldsim.data.starts import Starts
from worldsim.errors import EnvError, InvalidInputError
from worldsim.evaluate.closed_loop import prepare as prepare_plan
from worldsim.evaluate.environments import MakeEnv
from worldsim.evaluate.loaders import SimulatorArena, arenas, find_true_env, world_ref
from worldsim.evaluate.policies import SHIPPED_FOLDER
from worldsim.evaluate.triage import prepare
from worldsim.evaluate.true_env import TrueEnv
from worldsim.rollout.wrappers import WrappedWorld
from worldsim.spaces import action_spec_of
from worldsim.worlds import world_folder

GAME = '''
import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

class Slide(gymnasium.Env):
    """A square that is pushed left or right; its goal is drawn at reset and kept in no vector."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}

    def __init__(self, render_mode=None, width=24):
        self.render_mode, self.width = render_mode, width
        self.action_space = Discrete(3, start=-1)
        self.observation_space = Dict(x=Box(-99, 99, (1,)), goal=Box(-99, 99, (1,)))

    def seen(self):
        return {"x": np.array([self.x], np.float32), "goal": np.array([self.goal], np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.goal = (float(v) for v in self.np_random.integers(0, self.width - 4, 2))
        return self.seen(), {}

    def step(self, action):
        self.x = float(np.clip(self.x + 2 * action, 0, self.width - 4))
        return self.seen(), -abs(self.x - self.goal), False, False, {"away": abs(self.x - self.goal)}

    def render(self):
        frame = np.full((12, self.width, 3), 240, np.uint8)
        frame[4:8, int(self.x) : int(self.x) + 4] = (200, 30, 30)
        return frame

gymnasium.register(id="slides/Slide-v0", entry_point=Slide, max_episode_steps=8)
'''
NAMED = TrueEnv(env="slides/Slide-v0", imports=("slide_game",), success="info.away < 5")


class Lender(WrappedWorld):
    """Stands for a learned world: the spec and starts of a dataset."""

    def __init__(self, dataset: Dataset, spec: WorldSpec) -> None:
        self.dataset, self.like = dataset, spec
        self.table = dataset.starts(range(4))

    @property
    def spec(self) -> WorldSpec:
        return self.like

    @property
    def num_starts(self) -> int:
        return len(self.table)

    def starts(self, indices: torch.Tensor) -> Observation:
        return self.table.select(indices)


@pytest.fixture
def lender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lender:
    (tmp_path / "slide_game.py").write_text(GAME)
    monkeypatch.chdir(tmp_path)
    make = MakeEnv(NAMED.env, imports=NAMED.imports)
    mixture = (Behaviour(name="wander", policy=Wander(action_spec_of(make()))),)
    options = RecordingOptions(image_px=16, success=success_rule(NAMED.success))
    collect(make, mixture, episodes=4, out=tmp_path / "d", options=options)
    dataset = open_dataset(tmp_path / "d")
    spec = WorldSpec(
        action=dataset.action_spec, cameras=dataset.cameras, latent_shape=(1, 1, 1), proprio_dim=2, horizon=8
    )
    return Lender(dataset, spec)


def test_recorded_episodes_are_repeated_in_the_true_environment(lender: Lender) -> None:
    arena = pickle.loads(pickle.dumps(SimulatorArena(env=NAMED)))(lender)  # noqa: S301
    first = arena.starts(torch.arange(4))
    assert first[SIMULATOR].shape == (4, 1)
    episodes = [lender.dataset.episode(i) for i in range(4)]
    actions = torch.from_numpy(np.stack([e.action for e in episodes]))
    _, rollout = arena.rollout(arena.reset(first, torch.arange(4)), actions)
    frames = arena.decode(rollout.latent)
    for row, e in enumerate(episodes):
        np.testing.assert_array_equal(frames[row], e.frames["observation.image"][1:])
        np.testing.assert_array_equal(rollout.proprio[row], e.proprio[1:])
        np.testing.assert_array_equal(rollout.success[row], e.success[1:])
    assert {0.0, 1.0} == set(rollout.success.flatten().tolist())


def test_what_cannot_be_compared_is_refused_before_work_begins(lender: Lender) -> None:
    spec = lender.spec
    NAMED.require_success(spec, seeded=True)
    with pytest.raises(InvalidInputError, match=r"does not say when its task is solved.*--success"):
        dataclasses.replace(NAMED, success="").require_success(spec, seeded=True)
    with pytest.raises(InvalidInputError, match=r"gives proprioception 2; the world was trained with 5"):
        NAMED.world(dataclasses.replace(spec, proprio_dim=5))
    with pytest.raises(InvalidInputError, match=r"takes actions of Discrete\(3.*ActionSpec is of Box"):
        NAMED.world(dataclasses.replace(spec, action=open_push_action()))
    lender.table = Starts({k: v for k, v in lender.table.rows.items() if k != SIMULATOR})
    with pytest.raises(InvalidInputError, match="neither simulator states nor seeds"):
        NAMED.around(lender)


def open_push_action() -> object:
    return action_spec_of(MakeEnv("push")())


def test_triage_takes_the_environment_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slide_game.py").write_text(GAME)
    monkeypatch.chdir(tmp_path)
    policies = [str(SHIPPED_FOLDER / "n20_s0/000060")]
    named = TrueEnv(env="worldsim/Push-v0")
    job = prepare(policies, world="push_state", env=named, budget=8)
    assert job.truth > 0
    registered, given = (arenas(world_ref("push_state"), truth=2, roundtrip=0, env=e)[0] for e in (None, named))
    assert registered.load == given.load and registered.world.digest != given.world.digest
    with pytest.raises(InvalidInputError, match="The true environment slides/Slide-v0 gives|takes actions of"):
        prepare(policies, world="push_state", env=NAMED, budget=8)
    (tmp_path / "broken_game.py").write_text("raise RuntimeError('boom')\n")
    with pytest.raises(EnvError, match="broken_game:make raised RuntimeError: boom while it was imported"):
        prepare(policies, world="push_state", env=TrueEnv(env="broken_game:make"), budget=8)


RULE = "info.progress > 0.5"


def recorded_world(folder: Path, *, task_id: str = "worldsim/Push-v0", **recorded: str) -> str:
    """The shipped state world, as if its data had been recorded so."""
    made = shutil.copytree(world_folder("push_state"), folder / "world", dirs_exist_ok=True)
    manifest, config = (json.loads((made / name).read_text()) for name in ("manifest.json", "config.json"))
    config["spec"]["task_id"] = task_id
    (made / "config.json").write_text(json.dumps(config))
    manifest["sha256"]["config.json"] = storage.digest_file(made / "config.json")
    (made / "manifest.json").write_text(json.dumps({**manifest, "recorded": recorded}))
    return str(made)


def test_a_dataset_keeps_the_rule_and_the_name_of_its_environment(lender: Lender, tmp_path: Path) -> None:
    assert (lender.dataset.success_rule, lender.dataset.env) == (NAMED.success, "")  # its id says which environment
    make = MakeEnv("slide_game:Slide")
    mixture = (Behaviour(name="wander", policy=Wander(action_spec_of(make()))),)
    rule = success_rule("info.away < 9")
    options = RecordingOptions(image_px=16, success=rule, env=make.name, steps=8)
    collect(make, mixture, episodes=1, out=tmp_path / "e", options=options)
    assert open_dataset(tmp_path / "e").env == "slide_game:Slide"
    both = open_datasets((str(tmp_path / "d"), str(tmp_path / "e")))
    assert (both.success_rule, both.env) == ("", "")
    assert "Success was recorded by different rules" in both.notes[0] and "info.away < 9" in both.notes[0]


def test_the_rule_of_the_data_judges_the_true_environment(tmp_path: Path) -> None:
    world, push = recorded_world(tmp_path, success=RULE), "worldsim/Push-v0"
    assert find_true_env("push_state", None) == (None, ())
    found, said = find_true_env(world, None)
    assert found == TrueEnv(env=push, success=RULE) and "as in the world's data" in said[0]
    other, said = find_true_env(world, TrueEnv(env="push", success="info.progress > 0.9"))
    assert other == TrueEnv(env="push", success="info.progress > 0.9")
    assert "0.9" in said[0] and RULE in said[0] and "different things" in said[0] and len(said) == 1
    assert find_true_env("push_state", TrueEnv(success=RULE))[0] == TrueEnv(env=push, success=RULE)
    job = prepare([str(SHIPPED_FOLDER / "n20_s0/000060")], world=world, budget=8)
    assert job.env == found and any("as in the world's data" in remark for remark in job.remarks)
    planned = prepare_plan(world, where="simulator", episodes=1)
    assert planned.request["env"]["success"] == RULE and planned.places[0].name == push
    plant = planned.places[0].plant
    first = planned.world.starts(torch.arange(6))
    _, step = plant.step(plant.reset(first, torch.arange(6)), torch.zeros(6, 2))
    assert torch.equal(step.success, (step.progress > 0.5).float()) and set(step.success.tolist()) == {0.0, 1.0}


def test_code_that_a_world_names_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil_rule.py").write_text("open('ran', 'w')\ndef make(*args): return 1\n")
    world = recorded_world(tmp_path, success="evil_rule:make", env="evil_rule:make")
    found, said = find_true_env(world, TrueEnv(env="worldsim/Push-v0"))
    assert found == TrueEnv(env="worldsim/Push-v0") and "--success evil_rule:make" in said[0]
    assert prepare_plan(world, episodes=1).places[1].name == "simulator"
    world = recorded_world(tmp_path, task_id="evil_rule:make", success=RULE)
    with pytest.raises(InvalidInputError, match="Name it with --env"):
        find_true_env(world, TrueEnv(success=RULE))
    world = recorded_world(tmp_path, task_id="", env="evil_rule:make")
    with pytest.raises(InvalidInputError, match=r"Name its true environment with --env evil_rule:make"):
        prepare_plan(world, where="simulator", episodes=1)
    assert "recorded in evil_rule:make" in find_true_env(world, TrueEnv(env="push"))[1][0]
    assert not (tmp_path / "ran").exists()
