import os
import shutil
from pathlib import Path

import gymnasium
import pytest

import worldsim
from worldsim.errors import InvalidInputError, MissingExtraError, UnknownNameError
from worldsim.evaluate.environments import MakeEnv, prefer_offscreen
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


def test_modules_are_imported_before_an_id_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "later_envs.py").write_text(REGISTERS.replace("mine/", "later/"))
    (tmp_path / "broken_envs.py").write_text("import no_such_library\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownNameError, match=r"name the package: later:later/Push-v7, or --import later\.$"):
        MakeEnv("later/Push-v7")
    assert MakeEnv("later/Push-v7", imports=["later_envs"])().spec.max_episode_steps == 7
    for name, imports in [("push", ["broken_envs"]), ("broken_envs:a/B-v0", []), ("broken_envs:make", [])]:
        with pytest.raises(MissingExtraError, match="module no_such_library: pip install no_such_library$"):
            MakeEnv(name, imports=imports)
    with pytest.raises(MissingExtraError, match="needs the module gym_pusht_not_here|pip install"):
        MakeEnv("gym_pusht.not_here:gym_pusht/PushT-v0")
    with pytest.raises(InvalidInputError, match="made a str"):
        MakeEnv("os:getcwd")()


def test_of_many_known_ids_only_the_closest_are_listed() -> None:
    with pytest.raises(UnknownNameError) as caught:
        MakeEnv("CartPole-v7")
    assert "Did you mean 'CartPole-v1'?" in str(caught.value) and len(str(caught.value)) < 400
    assert "Humanoid" not in str(caught.value)


def test_without_a_screen_mujoco_draws_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for there, expected in [(("EGL", "OSMesa"), "egl"), (("OSMesa",), "osmesa"), ((), None)]:
        monkeypatch.delenv("MUJOCO_GL", raising=False)
        monkeypatch.setattr("ctypes.util.find_library", lambda name, there=there: name if name in there else None)
        prefer_offscreen()
        assert os.environ.get("MUJOCO_GL") == expected
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    prefer_offscreen()
    assert os.environ["MUJOCO_GL"] == "glfw"
