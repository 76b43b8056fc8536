"""Several cameras of different sizes and several tasks in one dataset: written, read, continued, chosen, damaged."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.data import toys
from tests.data.toys import PAIR, TOP, WRIST
from worldsim.core import IMAGE, STATE, TASK, Camera, row_texts
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, StorageError

TASKS = ("push it", "pull it", "push it", "lift it")


def write(path: Path, *, count: int = 4, video: bool = False) -> Path:
    return toys.write(path, count, tasks=TASKS, cameras=PAIR, video=video)


@pytest.mark.parametrize("video", [False, True])
def test_all_cameras_and_tasks_come_back(tmp_path: Path, video: bool) -> None:
    dataset = open_dataset(write(tmp_path / "d", video=video))
    assert dataset.cameras == PAIR and dataset.tasks == ("push it", "pull it", "lift it")
    for i in range(4):
        written, read = toys.episode(i, steps=4 + i, cameras=PAIR), dataset.episode(i)
        assert list(read.frames) == [WRIST, TOP] and read.task == TASKS[i]
        for camera in PAIR:
            difference = np.abs(read.frames[camera.key].astype(int) - written.frames[camera.key]).mean()
            assert read.frames[camera.key].shape == (5 + i, *camera.size, 3)
            assert difference < 1 if video else difference == 0
        assert np.array_equal(read.action, written.action) and np.array_equal(read.proprio, written.proprio)


def test_meta_tells_lerobot_of_every_camera_and_task(tmp_path: Path) -> None:
    path = write(tmp_path / "d", video=True)
    info = json.loads((path / "meta/info.json").read_text())
    assert {k: f["shape"] for k, f in info["features"].items() if f["dtype"] == "video"} == {
        WRIST: [18, 30, 3],
        TOP: [32, 20, 3],
    }
    assert info["total_tasks"] == 3
    stats = json.loads((path / "meta/stats.json").read_text())
    for key in (WRIST, TOP):
        frames = np.concatenate([toys.episode(i, steps=4 + i, cameras=PAIR).frames[key] for i in range(4)])
        assert np.allclose(np.ravel(stats[key]["mean"]), frames.reshape(-1, 3).mean(0) / 255)
    tasks = pq.read_table(path / "meta/tasks.parquet").to_pydict()
    assert tasks == {"task_index": [0, 1, 2], "task": ["push it", "pull it", "lift it"]}
    indices = [set(pq.read_table(f)["task_index"].to_pylist()) for f in sorted(path.glob("data/*/*.parquet"))]
    assert indices == [{0}, {1}, {0}, {2}]
    assert sorted(p.name for p in (path / "videos").iterdir()) == [TOP, WRIST]


def test_continuing_gives_the_same_bytes(tmp_path: Path) -> None:
    full = toys.contents(write(tmp_path / "full", video=True))
    for count in (1, 2, 4):
        write(tmp_path / "parts", count=count, video=True)
    assert toys.contents(tmp_path / "parts") == full


def test_one_camera_leaves_what_older_folders_hold_as_it_was(tmp_path: Path) -> None:
    spec = json.loads((toys.write(tmp_path / "d", 1) / "meta/worldsim.json").read_text())["spec"]
    assert spec["image_size"] == [16, 24] and not {"cameras", "dreamed_by"} & spec.keys()


@pytest.mark.parametrize("video", [False, True])
def test_some_cameras_are_chosen_in_the_order_given(tmp_path: Path, video: bool) -> None:
    path = write(tmp_path / "d", video=video)
    both, swapped, top = (open_dataset(path, cameras=c) for c in (None, ["top", WRIST], ["top"]))
    assert swapped.cameras == PAIR[::-1] and top.only_camera == PAIR[1]
    assert list(swapped.episode(0).frames) == [TOP, WRIST] and list(top.episode(0).frames) == [TOP]
    assert np.array_equal(top.episode(1).frames[TOP], both.episode(1).frames[TOP])
    assert len({both.digest, swapped.digest, top.digest}) == 3


def test_a_damaged_video_is_named_and_costs_only_its_camera(tmp_path: Path) -> None:
    path = write(tmp_path / "d", video=True)
    file = path / f"videos/{TOP}/chunk-000/file-001.mp4"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(StorageError, match=rf"{TOP}/chunk-000/file-001\.mp4 does not match"):
        open_dataset(path).episode(1)
    assert open_dataset(path, cameras=[WRIST]).episode(1).steps == 5
    assert open_dataset(path).episode(0).steps == 4


def test_starts_carry_every_camera_and_the_task(tmp_path: Path) -> None:
    path = write(tmp_path / "d")
    starts = open_dataset(path).starts([1, 3, 0]).rows
    assert row_texts(starts[TASK]) == ("pull it", "lift it", "push it")
    for key in (WRIST, TOP):
        first = [toys.episode(i, steps=4 + i, cameras=PAIR).frames[key][0] for i in (1, 3, 0)]
        assert np.array_equal(starts[key].numpy(), first)
    assert TASK not in open_dataset(toys.write(tmp_path / "one", 2)).starts([0, 1]).rows
    assert STATE in starts and IMAGE not in starts


def test_features_of_other_names_become_named_cameras(tmp_path: Path) -> None:
    path = toys.write(tmp_path / "d", 1)
    for name in ("meta/info.json", "meta/worldsim.json"):
        file = path / name
        file.write_text(file.read_text().replace(f'"{IMAGE}"', '"front"'))
    table = pq.read_table(path / "data/chunk-000/file-000.parquet")
    names = ["front" if n == IMAGE else n for n in table.column_names]
    pq.write_table(table.rename_columns(names), path / "data/chunk-000/file-000.parquet")
    meta = path / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(meta).drop_columns(["sha256"]), meta)
    dataset = open_dataset(path, cameras=["front"])
    assert dataset.only_camera == Camera(key="observation.images.front", height=16, width=24)
    assert np.array_equal(dataset.episode(0).frames["observation.images.front"], toys.episode(0, steps=4).frames[IMAGE])


def test_a_task_that_meta_does_not_know_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "d")
    tasks = pq.read_table(path / "meta/tasks.parquet")
    pq.write_table(tasks.slice(0, 2), path / "meta/tasks.parquet")
    assert open_dataset(path).episode(1).task == "pull it"
    with pytest.raises(StorageError, match=r"file-003\.parquet .*task_index 2"):
        open_dataset(path).episode(3)


@pytest.mark.parametrize(
    "cameras", [PAIR[:1], (PAIR[0], Camera(key=TOP, height=8, width=8)), (*PAIR, Camera(height=8, width=8))]
)
def test_an_episode_with_other_cameras_is_refused(tmp_path: Path, cameras: tuple[Camera, ...]) -> None:
    with (
        episode_writer(tmp_path / "d", toys.spec(cameras=PAIR)) as writer,
        pytest.raises(InvalidInputError, match="has cameras"),
    ):
        writer.write(toys.episode(0, cameras=cameras))


@pytest.mark.parametrize("cameras", [(), PAIR[:1] * 2, (Camera(key="observation.images.a/b", height=8, width=8),)])
def test_cameras_that_cannot_be_recorded_are_refused(cameras: tuple[Camera, ...]) -> None:
    with pytest.raises(InvalidInputError, match="different keys"):
        toys.spec(cameras=cameras)
