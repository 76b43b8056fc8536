import shutil
from pathlib import Path

import gymnasium
import pytest

import worldsim
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.evaluate.environments import MakeEnv
from worldsim.worlds import world_folder

REGISTERS = """
import gymnasium
from worldsim.envs.push.env import PushEnv
gymnasium.register(id="mine/Push-v7", entry_point=PushEnv, max_episode_steps=7)
"""


def test_a_world_is_named_by_its_name_its_folder_or_itself(tmp_path: Path) -> None:
    folder = shutil.copytree(world_folder("push_state"), tmp_path / "w")
    options = {"obs_type": "environment_state_agent_pos"}
    world = worldsim.make_world("push_state")
    seen = [
        gymnasium.make("worldsim/World-v0", world=w, **options).reset(seed=3)[0]["agent_pos"].tolist()
        for w in ("push_state", folder, str(folder), world)
    ]
    assert seen[1:] == seen[:-1]
    envs = gymnasium.make_vec("worldsim/World-v0", num_envs=2, world="push_state", **options)
    assert envs.reset(seed=3)[0]["agent_pos"][0].tolist() == seen[0]
    with pytest.raises(UnknownNameError, match="push_state"):
        gymnasium.make("worldsim/World-v0", world="push_stat")
    with pytest.raises(InvalidInputError, match="got a int"):
        worldsim.make_world(3)


def test_environments_are_made_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_envs.py").write_text(REGISTERS)
    monkeypatch.chdir(tmp_path)
    assert MakeEnv("push")().spec.id == "worldsim/Push-v0"
    assert MakeEnv("mine_envs:mine/Push-v7")().spec.max_episode_steps == 7
    assert MakeEnv("worldsim.envs.push.env:PushEnv")().reset(seed=0)
    for name, match in [("worldsim/Pusch-v0", "worldsim/Push-v0"), ("mine_envs:mine/Pusch-v7", "mine/Push-v7")]:
        with pytest.raises(UnknownNameError, match=match):
            MakeEnv(name)
    with pytest.raises(InvalidInputError, match="no_such_module"):
        MakeEnv("no_such_module:make")
