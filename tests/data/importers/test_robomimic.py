"""HDF5 of robomimic and LIBERO: every field in its place, what is joined is said, links out of the file are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worldsim.data.importers import ImportOptions, import_dataset
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError

try:
    import h5py
except ModuleNotFoundError:  # where the extra `import` is not installed these tests are not selected
    h5py = None
pytestmark = pytest.mark.extras
LIBERO = {"problem_info": json.dumps({"language_instruction": "open the drawer"})}
AGENT = "observation.images.agentview"


def demo(data: Any, number: int, *, rows: int = 5, reward: float = 0.0) -> Any:
    r = np.random.default_rng(number)
    group = data.create_group(f"demo_{number}")
    group["actions"] = r.normal(size=(rows, 3))
    group["rewards"] = np.array([0] * (rows - 1) + [reward])
    group["dones"] = np.array([0] * (rows - 1) + [1])
    group.attrs["num_samples"] = rows
    obs = group.create_group("obs")
    obs["agentview_image"] = r.integers(0, 255, (rows, 8, 12, 3)).astype(np.uint8)
    obs["agentview_depth"] = r.random((rows, 8, 12, 1)).astype(np.float32)
    for name, width in (
        ("robot0_eef_pos", 3),
        ("robot0_eef_quat", 4),
        ("robot0_gripper_qpos", 2),
        ("robot0_joint_vel", 7),
    ):
        obs[name] = r.normal(size=(rows, width))
    return group


def write(path: Path, *, count: int = 3, **attributes: str) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_kwargs": {"control_freq": 20}})
        for name, value in attributes.items():
            data.attrs[name] = value
        for number in range(count):
            demo(data, number, reward=number % 2)
    return path


def test_every_field_is_in_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "lift.hdf5", count=11)
    made = import_dataset(path, tmp_path / "d")
    dataset = open_dataset(made.out)
    assert (dataset.rate_hz, dataset.task, dataset.episodes, made.solved) == (20, "Lift", 11, 5)
    assert dataset.only_camera.key == AGENT and dataset.action_spec.names == ("action_0", "action_1", "action_2")
    with h5py.File(path) as file:
        for number in range(11):  # demo_10 is the last, not the third
            group, episode = file[f"data/demo_{number}"], dataset.episode(number)
            assert np.array_equal(episode.action, group["actions"][:-1].astype(np.float32))
            assert np.array_equal(episode.frames[AGENT], group["obs/agentview_image"][()])
            names = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
            state = np.concatenate([group["obs"][n][()] for n in names], axis=1)
            assert np.array_equal(episode.proprio, state.astype(np.float32))
            assert episode.success[-1] == number % 2
    notes = " ".join(made.notes)
    assert "State: robot0_eef_pos[3] + robot0_eef_quat[4] + robot0_gripper_qpos[2]." in notes
    assert "left out: agentview_depth, robot0_joint_vel." in notes and "LIBERO" not in notes


def test_liberos_instruction_and_its_pictures(tmp_path: Path) -> None:
    path = write(tmp_path / "drawer.hdf5", **LIBERO)
    made = import_dataset(path, tmp_path / "d")
    assert open_dataset(made.out).task == "open the drawer"
    assert "stores its pictures upside down; they are taken as they are" in " ".join(made.notes)
    turned = import_dataset(path, tmp_path / "e", ImportOptions(turn="rows"))
    frames = [open_dataset(m.out).episode(1).frames[AGENT] for m in (made, turned)]
    assert np.array_equal(frames[0][:, ::-1], frames[1]) and "upside down." in " ".join(turned.notes)


def test_a_folder_of_tasks_and_chosen_fields(tmp_path: Path) -> None:
    (tmp_path / "libero").mkdir()
    for name in ("b", "a"):
        text = json.dumps({"language_instruction": f"do {name}"})
        write(tmp_path / f"libero/{name}.hdf5", count=2, problem_info=text)
    options = ImportOptions(state=("robot0_joint_vel",), cameras=("agentview",), rate_hz=10)
    dataset = open_dataset(import_dataset(tmp_path / "libero", tmp_path / "d", options).out)
    assert [dataset.episode(i).task for i in range(4)] == ["do a", "do a", "do b", "do b"]
    assert dataset.episode(0).proprio.shape[1] == 7 and dataset.rate_hz == 10
    with pytest.raises(UnknownNameError, match="Did you mean 'agentview'"):
        import_dataset(tmp_path / "libero", tmp_path / "e", ImportOptions(cameras=("agent_view",)))


def external_link(file: Any, other: Path) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = h5py.ExternalLink(other, "/data/demo_0/actions")


def soft_link(file: Any, other: Path) -> None:
    file["out"] = h5py.ExternalLink(other, "/data")
    del file["data/demo_1"]
    file["data/demo_1"] = h5py.SoftLink("/out/demo_1")


def external_storage(file: Any, other: Path) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1"].create_dataset("actions", (5, 3), "f8", external=[(str(other), 0, 120)])


def virtual(file: Any, other: Path) -> None:
    del file["data/demo_1/actions"]
    layout = h5py.VirtualLayout((5, 3), "f8")
    layout[:] = h5py.VirtualSource(str(other), "data/demo_0/actions", (5, 3))
    file["data/demo_1"].create_virtual_dataset("actions", layout)


def absurd(file: Any, other: Path) -> None:
    del file["data/demo_1/obs/agentview_image"]
    file["data/demo_1/obs"].create_dataset("agentview_image", (5, 50000, 50000, 3), "u1", chunks=(1, 500, 500, 3))


def many_numbers(file: Any, other: Path) -> None:
    del file["data/demo_1/obs/robot0_eef_pos"]
    file["data/demo_1/obs"].create_dataset("robot0_eef_pos", (5, 2**40), "f4", chunks=(1, 1024))


def too_few(file: Any, other: Path) -> None:
    del file["data/demo_1/obs/robot0_eef_pos"]
    file["data/demo_1/obs/robot0_eef_pos"] = np.zeros((4, 3))


def wrong_count(file: Any, other: Path) -> None:
    file["data/demo_1"].attrs["num_samples"] = 9


def no_numbers(file: Any, other: Path) -> None:
    del file["data/demo_1/actions"]
    file["data/demo_1/actions"] = np.array([[b"import os"]] * 5)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (external_link, "demo_1/actions is a link to somewhere else .ExternalLink"),
        (soft_link, "data/demo_1 is a link to somewhere else .SoftLink"),
        (external_storage, "demo_1/actions keeps its values in other files"),
        (virtual, "demo_1/actions keeps its values in other files"),
        (absurd, "demo_1: agentview would take 37500000000 bytes"),
        (many_numbers, "robot0_eef_pos has 5497558138880 numbers"),
        (too_few, "demo_1: robot0_eef_pos is float64 .4, 3.; expected 5 rows"),
        (wrong_count, "demo_1 claims 9 samples and has 5 actions"),
        (no_numbers, "demo_1: actions is .S9 .5, 1.; expected 5 rows"),
    ],
)
def test_hostile_files_are_refused_by_name(tmp_path: Path, damage: Any, words: str) -> None:
    other = write(tmp_path / "other.hdf5")
    path = write(tmp_path / "lift.hdf5")
    with h5py.File(path, "r+") as file:
        damage(file, other)
    with pytest.raises((StorageError, InvalidInputError), match=words):
        import_dataset(path, tmp_path / "d")
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("left", [0, 100, 0.5, 0.95])
def test_files_that_are_cut_short(tmp_path: Path, left: float) -> None:
    path = write(tmp_path / "lift.hdf5")
    data = path.read_bytes()
    path.write_bytes(data[: int(left * len(data)) if isinstance(left, float) else left])
    with pytest.raises(StorageError, match=r"lift\.hdf5"):
        import_dataset(path, tmp_path / "d")


def test_attributes_of_other_people(tmp_path: Path) -> None:
    for value, words in (
        ("[" * 10_000, "levels deep|not valid"),
        ("{", "not valid JSON"),
        ("x" * 60_000, "not valid JSON"),
    ):
        path = write(tmp_path / "lift.hdf5", env_args=value)
        with pytest.raises(StorageError, match=words):
            import_dataset(path, tmp_path / "d")
    path = write(tmp_path / "lift.hdf5", env_args="{}")
    with pytest.raises(InvalidInputError, match="Give the rate"):
        import_dataset(path, tmp_path / "d")
    with h5py.File(tmp_path / "empty.hdf5", "w") as file:
        file.create_group("data")
    with pytest.raises(StorageError, match="no data/demo_N"):
        import_dataset(tmp_path / "empty.hdf5", tmp_path / "d")
