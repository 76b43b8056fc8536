"""RLDS folders: every field in its place, success by the stated rule, damage named, a killed import is no dataset."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.data import toys
from tests.data.importers import rlds_files as rlds
from worldsim.cli.import_data import import_data
from worldsim.data.importers import ImportOptions, import_dataset
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError
from worldsim.video import decode_image

FRONT, WRIST = "observation.images.front", "observation.images.wrist"
RATE = ImportOptions(rate_hz=10)


def test_every_field_is_in_its_place(tmp_path: Path) -> None:
    given = [rlds.steps(i, rows=4 + i, reward=i % 2) for i in range(3)]
    made = import_dataset(rlds.write(tmp_path / "toy/1.0.0", given), tmp_path / "d", RATE)
    assert (made.episodes, made.frames, made.solved) == (3, 4 + 5 + 6, 1)
    dataset = open_dataset(made.out)
    assert dataset.action_spec.names == ("arm_0", "arm_1", "gripper")
    assert dataset.rate_hz == 10 and [c.key for c in dataset.cameras] == [FRONT, WRIST]
    actions = [np.column_stack([g["steps/action/arm"], g["steps/action/gripper"]]) for g in given]
    assert dataset.action_spec.low == tuple(np.concatenate(actions).min(axis=0).astype(float).tolist())
    for index, (g, action) in enumerate(zip(given, actions, strict=True)):
        episode = dataset.episode(index)
        assert np.array_equal(episode.action, action[:-1])
        assert episode.last_action is not None and np.array_equal(episode.last_action, action[-1])
        assert np.array_equal(episode.proprio, g["steps/observation/state"])
        assert episode.task == f"task {index % 2}"
        assert episode.success.tolist() == [0] * (3 + index) + [index % 2] and episode.last_reward == index % 2
        pictures = [decode_image(cell, source="x") for cell in g["steps/observation/front"]]
        assert np.array_equal(episode.frames[FRONT], np.stack(pictures))
    notes = " ".join(made.notes)
    assert "Action: action/arm[2] + action/gripper[1]." in notes and "State: observation/state[3]." in notes
    assert "1 of 3 episodes end solved" in notes


def test_choices_and_their_order(tmp_path: Path) -> None:
    path = rlds.write(tmp_path / "toy", [rlds.steps(i) for i in range(3)])
    options = ImportOptions(
        rate_hz=10, action=("gripper", "arm"), state=("action/arm",), cameras=("wrist",), episodes=2, turn="half"
    )
    made = import_dataset(path, tmp_path / "d", options)
    dataset = open_dataset(made.out)
    assert dataset.episodes == 2 and dataset.action_spec.names == ("gripper", "arm_0", "arm_1")
    assert dataset.only_camera.key == WRIST
    episode = dataset.episode(0)
    assert np.array_equal(episode.proprio[:-1], episode.action[:, 1:])
    stored = decode_image(rlds.steps(0)["steps/observation/wrist"][0], source="x")
    assert np.array_equal(episode.frames[WRIST][0], stored[::-1, ::-1])
    with pytest.raises(UnknownNameError, match="Did you mean 'action/gripper'"):
        import_dataset(path, tmp_path / "e", ImportOptions(rate_hz=10, action=("action/griper",)))


def test_what_cannot_be_taken_is_left_out_and_said(tmp_path: Path) -> None:
    bad = rlds.steps(2)
    bad["steps/observation/state"][3, 1] = np.nan
    given = [rlds.steps(0, blank=True), rlds.steps(1, rows=1), bad, rlds.steps(3)]
    path = rlds.write(tmp_path / "toy", given)
    made = import_dataset(path, tmp_path / "d", RATE)
    notes = " ".join(made.notes)
    assert made.episodes == 2 and [c.key for c in open_dataset(made.out).cameras] == [FRONT]
    assert "Camera wrist is left out: 1 episodes have no pictures of it." in notes
    assert "record 1: it has one row only" in notes and "state 1 holds NaN or infinity in row 3" in notes
    assert made.solved is None and "all rewards are 0" in notes
    made = import_dataset(path, tmp_path / "e", ImportOptions(rate_hz=10, cameras=("wrist",)))
    assert made.episodes == 1 and "no pictures of wrist" in " ".join(made.notes)


def test_a_camera_that_begins_dark_is_kept(tmp_path: Path) -> None:
    dark = rlds.steps(0)
    dark["steps/observation/wrist"] = [rlds.flat(), *dark["steps/observation/wrist"][1:]]
    made = import_dataset(rlds.write(tmp_path / "toy", [dark]), tmp_path / "d", RATE)
    assert [c.key for c in open_dataset(made.out).cameras] == [FRONT, WRIST]


def test_the_rate_must_be_known(tmp_path: Path) -> None:
    path = rlds.write(tmp_path / "toy", [rlds.steps(0)])
    with pytest.raises(InvalidInputError, match="Give the rate"):
        import_dataset(path, tmp_path / "d")
    info = json.loads((path / "dataset_info.json").read_text())
    (path / "dataset_info.json").write_text(json.dumps({**info, "name": "droid"}))
    assert open_dataset(import_dataset(path, tmp_path / "d").out).rate_hz == 15


def test_damage_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    cases = {
        "says 3": ([rlds.steps(0), rlds.steps(1)], 3),
        "reward has 4 numbers, expected 5 rows": ([{**rlds.steps(0), "steps/reward": np.zeros(4, np.float32)}], 1),
        "front has 2 pictures for 5 rows": (
            [{**rlds.steps(0), "steps/observation/front": [rlds.picture(i) for i in (1, 2)]}],
            1,
        ),
        "picture that cannot be read": ([{**rlds.steps(0), "steps/observation/front": [b"x", b"y"] * 2 + [b"z"]}], 1),
        "record 1: action/arm has none": ([rlds.steps(0), {"steps/reward": np.zeros(3, np.float32)}], 2),
    }
    for number, (words, (given, promised)) in enumerate(cases.items()):
        path = rlds.write(tmp_path / f"toy{number}", given, promised=promised)
        with pytest.raises(StorageError, match=words):
            import_dataset(path, tmp_path / f"d{number}", RATE)
        assert not list(tmp_path.glob(f"d{number}*"))


def test_features_of_other_people(tmp_path: Path) -> None:
    path = rlds.write(tmp_path / "toy", [rlds.steps(0)])
    for text, words in (
        ("{", "not valid JSON"),
        ("[" * 100_000, "levels deep|not valid"),
        (json.dumps({"type": "x", "content": {}}), "older TFDS"),
        (json.dumps({"featuresDict": {"features": {"steps": 3}}}), "where a feature is expected"),
        (json.dumps({"featuresDict": {"features": {}}}), "no action field"),
    ):
        (path / "features.json").write_text(text)
        with pytest.raises((StorageError, InvalidInputError), match=words):
            import_dataset(path, tmp_path / "d", RATE)


def test_missing_shards_and_unknown_folders(tmp_path: Path) -> None:
    path = rlds.write(tmp_path / "toy", [rlds.steps(0)])
    (path / "toy-train.tfrecord-00000-of-00001").rename(path / "toy-train.tfrecord-00001-of-00002")
    made = import_dataset(path, tmp_path / "part", RATE)
    assert made.episodes == 1 and "Split train: 1 of 2 files are here; the others are left out." in made.notes
    with pytest.raises(StorageError, match="There is nothing at"):
        import_dataset(tmp_path / "nothing", tmp_path / "d")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no known format"):
        import_dataset(tmp_path / "empty", tmp_path / "d")
    rlds.write(tmp_path / "two/1.0.0", [rlds.steps(0)])
    rlds.write(tmp_path / "two/2.0.0", [rlds.steps(0)])
    with pytest.raises(InvalidInputError, match=r"1\.0\.0, 2\.0\.0"):
        import_dataset(tmp_path / "two", tmp_path / "d")


KILLED = """
import os, signal, sys
from worldsim.data.importers import ImportOptions, import_dataset

def kill(stage, done, total, values):
    if stage == "episodes" and done == 3:
        os.kill(os.getpid(), signal.SIGKILL)

import_dataset(sys.argv[1], sys.argv[2], ImportOptions(rate_hz=10), progress=kill)
"""


def test_a_killed_import_is_no_dataset_and_is_continued(tmp_path: Path) -> None:
    path = rlds.write(tmp_path / "toy", [rlds.steps(i) for i in range(5)])
    command = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "d")]
    done = subprocess.run(command, env=toys.child_env(), check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "d").exists() and (tmp_path / "d.importing").is_dir()
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "d.importing").rglob("file-00[01].parquet")}
    made = import_dataset(path, tmp_path / "d", RATE)
    kept = {
        tmp_path / "d" / p.relative_to(tmp_path / "d.importing"): t for p, t in written.items() if "data" in p.parts
    }
    assert kept and all(p.stat().st_mtime_ns == t for p, t in kept.items())
    uninterrupted = import_dataset(path, tmp_path / "e", RATE)
    assert toys.contents(made.out) == toys.contents(uninterrupted.out) and not (tmp_path / "d.importing").exists()


def test_the_same_import_again_and_another(tmp_path: Path) -> None:
    path = rlds.write(tmp_path / "toy", [rlds.steps(0)])
    first = import_dataset(path, tmp_path / "d", RATE)
    before = toys.contents(first.out)
    assert import_dataset(path, tmp_path / "d", RATE) == first and toys.contents(first.out) == before
    with pytest.raises(InvalidInputError, match="begun with another request"):
        import_dataset(path, tmp_path / "d", ImportOptions(rate_hz=5))
    (tmp_path / "other").mkdir()
    with pytest.raises(InvalidInputError, match="exists and is no import"):
        import_dataset(path, tmp_path / "other", RATE)
    with pytest.raises(InvalidInputError, match="is a LeRobotDataset already"):
        import_dataset(first.out, tmp_path / "e")


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = rlds.write(tmp_path / "toy", [rlds.steps(i, reward=i % 2) for i in range(2)])
    import_data(path, tmp_path / "d", rate=10, camera=["front"])
    shown = capsys.readouterr().out
    assert "Action: action/arm[2] + action/gripper[1]." in shown and "Cameras: front." in shown
    assert f"2 episodes, 10 frames, in {tmp_path / 'd'}" in shown


@pytest.mark.skipif(not os.environ.get("WORLDSIM_TEST_DATA"), reason="WORLDSIM_TEST_DATA names no folder of recordings")
def test_a_real_recording(tmp_path: Path) -> None:
    made = import_dataset(Path(os.environ["WORLDSIM_TEST_DATA"]) / "bridge_rlds", tmp_path / "d")
    dataset = open_dataset(made.out)
    assert (made.episodes, made.frames, made.solved) == (25, 250, None)
    assert dataset.rate_hz == 5 and [c.name for c in dataset.cameras] == ["image_0", "image_1", "image_2"]
    assert {c.size for c in dataset.cameras} == {(256, 256)} or {c.size for c in dataset.cameras} == {(64, 64)}
    assert dataset.episode(4).task == "put carrot on plate" and len(dataset.tasks) == 4
    assert "Camera image_3 is left out: 25 episodes have no pictures of it." in made.notes
