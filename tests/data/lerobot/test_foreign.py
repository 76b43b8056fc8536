"""Recordings of other people: read as LeRobot reads them, or refused in words that name what is wrong."""

import dataclasses
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data import toys
from worldsim.core import IMAGE, STATE, Camera
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.decode import read_video
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError

REAL = os.environ.get("WORLDSIM_TEST_DATA", "")
VIDEO = f"videos/{IMAGE}/chunk-000/file-001.mp4"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 5, 6 and 7 rows as pictures, and as video."""
    place = tmp_path_factory.mktemp("originals")
    for name, video in (("image", False), ("video", True)):
        toys.as_foreign(toys.write(place / name, 3, video=video))
    return place


@pytest.fixture
def path(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "image", tmp_path / "d"))


@pytest.fixture
def film(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "video", tmp_path / "d"))


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_hub_cache_is_read(originals: Path, tmp_path: Path, kind: str) -> None:
    snapshot = toys.as_hub_cache(originals / kind, tmp_path)
    read, plain = open_dataset(snapshot).episode(1), open_dataset(originals / kind).episode(1)
    assert np.array_equal(read.frames[IMAGE], plain.frames[IMAGE]) and np.array_equal(read.action, plain.action)
    (tmp_path / "linked").symlink_to(snapshot)
    assert open_dataset(tmp_path / "linked").episode(1).steps == 5
    assert open_dataset(snapshot).digest == open_dataset(originals / kind).digest


@pytest.mark.parametrize("name", ["data/chunk-000/file-001.parquet", "meta/info.json", "meta/tasks.parquet", VIDEO])
def test_links_that_leave_the_hub_cache_are_refused(originals: Path, tmp_path: Path, name: str) -> None:
    snapshot = toys.as_hub_cache(originals / "video", tmp_path)
    elsewhere = tmp_path / "datasets--other--d" / "blobs" / "x"
    elsewhere.parent.mkdir(parents=True)
    elsewhere.write_bytes((originals / "video" / name).read_bytes())
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(elsewhere)
    with pytest.raises(StorageError, match="outside"):
        open_dataset(snapshot).episode(1)


def test_a_link_out_of_a_plain_folder_is_refused(path: Path, tmp_path: Path) -> None:
    file = path / "data/chunk-000/file-001.parquet"
    (tmp_path / "blobs").mkdir()
    file.rename(tmp_path / "blobs" / "x")
    file.symlink_to(tmp_path / "blobs" / "x")
    with pytest.raises(StorageError, match="outside"):
        open_dataset(path).episode(1)


def test_what_the_last_row_holds_is_kept(path: Path) -> None:
    """As LeRobot's own recordings: success, reward and action of the last row, whose result is not observed."""
    action = np.arange(12, dtype=np.float32).reshape(6, 2)
    toys.edit_rows(
        path,
        action=pa.FixedSizeListArray.from_arrays(pa.array(action.ravel()), 2),
        **{
            "next.success": [False] * 5 + [True],
            "next.reward": pa.array(np.arange(6, dtype=np.float32)),
            "next.done": [False] * 5 + [True],
        },
    )
    episode = open_dataset(path).episode(1)
    assert episode.success.tolist() == [0, 0, 0, 0, 0, 1]
    assert episode.reward.tolist() == [0, 1, 2, 3, 4] and episode.last_reward == 5
    assert np.array_equal(episode.action, action[:5])
    assert episode.last_action is not None and np.array_equal(episode.last_action, action[5])


def test_our_own_recordings_keep_a_last_action_where_there_is_one(tmp_path: Path) -> None:
    plain = toys.episode(0)
    acted = dataclasses.replace(plain, last_action=np.array([0.1, -0.2], np.float32), last_reward=2.0)
    with episode_writer(tmp_path / "d", toys.spec()) as writer:
        for episode in (plain, acted):
            writer.write(episode)
    read = [open_dataset(tmp_path / "d").episode(i) for i in (0, 1)]
    assert read[0].last_action is None and np.isnan(read[0].last_reward)
    assert read[1].last_action is not None and np.array_equal(read[1].last_action, acted.last_action)  # type: ignore[arg-type]
    assert read[1].last_reward == 2
    with pytest.raises(InvalidInputError, match="last_action"):
        dataclasses.replace(plain, last_action=np.zeros(3, np.float32))


def thin(path: Path, keep: slice, fps: float) -> None:
    """Keep some rows of episode 1; their timestamps stay true to the video."""
    file = path / "data/chunk-000/file-001.parquet"
    table = pq.read_table(file)
    table = table.take(list(range(table.num_rows))[keep])
    pq.write_table(table, file)
    toys.edit_rows(path, frame_index=list(range(table.num_rows)))
    toys.edit_episodes(path, length=[5, table.num_rows, 7])
    toys.edit_info(path, fps=fps)


@pytest.mark.parametrize(("keep", "fps"), [(slice(None, None, 2), 5), (slice(2, None), 10)])
def test_a_row_gets_the_frame_of_its_timestamp(film: Path, keep: slice, fps: float) -> None:
    frames, _ = read_video(film / VIDEO)
    states = open_dataset(film).episode(1).proprio
    thin(film, keep, fps)
    episode = open_dataset(film).episode(1)
    assert np.array_equal(episode.frames[IMAGE], frames[keep]) and np.array_equal(episode.proprio, states[keep])


def test_rows_that_belong_to_no_frame_are_refused(film: Path) -> None:
    times = pa.array(np.arange(6, dtype=np.float32) / 10 + 0.03)
    toys.edit_rows(film, timestamp=times)
    with pytest.raises(StorageError, match=r"Episode 1 .*file-001\.mp4.*row 0 is at 0\.0300 s"):
        open_dataset(film).episode(1)
    assert open_dataset(film).episode(0).steps == 4
    toys.edit_rows(film, timestamp=pa.array(np.arange(6, dtype=np.float32) / 10 + 0.5))
    with pytest.raises(StorageError, match=r"episode 1 .*ends after 0\.6 s"):
        open_dataset(film).episode(1)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_rows_of_another_rate_than_stated_are_refused(originals: Path, tmp_path: Path, kind: str) -> None:
    copied = Path(shutil.copytree(originals / kind, tmp_path / "d"))
    thin(copied, slice(None, None, 2), 10)
    with pytest.raises(StorageError, match=r"episode 1 .*0\.2 s apart .*10 frames per second"):
        open_dataset(copied).episode(1)


ROWS = 6


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"frame_index": [0, 1, 2, 2, 4, 5]}, "frame_index is 2 in row 3, after 2"),
        ({"timestamp": [0.0, 0.1, 0.2, 0.2, 0.4, 0.5]}, "timestamp is 0.2 in row 3"),
        ({"timestamp": [0.0, float("nan"), 0.2, 0.3, 0.4, 0.5]}, "timestamp is nan in row 1"),
        ({STATE: None}, "no column 'observation.state'"),
        ({"action": [[0.0, 1.0]] * 4 + [[0.0, 1.0, 2.0], [3.0]]}, "'action' has 3 numbers in row 4, expected 2"),
        ({"action": [[0.0, 1.0]] * 5 + [None]}, "'action' has an empty cell"),
        ({"action": [[0.0, 1.0]] * 5 + [[0.0, None]]}, "'action' has an empty cell"),
        ({"action": [[0.0, 1.0]] * 5 + [[0.0, float("inf")]]}, "'action' holds inf in row 5, number 1"),
        ({STATE: [[0.0, float("nan"), 1.0]] * ROWS}, "'observation.state' holds nan in row 0, number 1"),
        ({STATE: [[0.0, 1.0]] * ROWS}, "'observation.state' has 2 numbers in row 0, expected 3"),
        ({"task_index": [7] * ROWS}, "task_index 7"),
        ({IMAGE: [3] * ROWS}, "neither bytes nor the path"),
    ],
)
def test_what_is_wrong_with_the_rows_is_named(path: Path, columns: dict[str, Any], words: str) -> None:
    toys.edit_rows(path, **columns)
    with pytest.raises(StorageError, match="episode 1 ") as caught:
        open_dataset(path).episode(1)
    assert words in str(caught.value)
    assert open_dataset(path).episode(0).steps == 4


def pictures(path: Path, images: list[Any], **options: Any) -> None:
    """Other pictures for episode 1."""
    cells = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, **{"format": "png", **options})
        cells.append({"bytes": buffer.getvalue(), "path": None})
    toys.edit_rows(path, **{IMAGE: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))})


def test_pictures_of_every_kind(path: Path) -> None:
    gray = np.arange(16 * 24, dtype=np.uint8).reshape(16, 24)
    pictures(path, [Image.fromarray(gray)] * ROWS)
    assert np.array_equal(open_dataset(path).episode(1).frames[IMAGE][2], np.stack([gray] * 3, -1))
    turned = Image.fromarray(np.stack([gray.T] * 3, -1))
    exif = Image.Exif()
    exif[0x0112] = 8  # stands upright after a quarter turn to the left
    pictures(path, [turned] * ROWS, exif=exif)
    assert np.array_equal(open_dataset(path).episode(1).frames[IMAGE][2], np.rot90(np.stack([gray.T] * 3, -1)))
    small = Image.fromarray(np.zeros((8, 24, 3), np.uint8))
    pictures(path, [Image.fromarray(gray)] * 4 + [small] * 2)
    with pytest.raises(StorageError, match=r"episode 1 .*\(8, 24\) pixels in row 4, expected \(16, 24\)"):
        open_dataset(path).episode(1)
    for deep, kind in ((gray.astype(np.uint16) * 9, "png"), (gray.astype(np.float32), "tiff")):
        pictures(path, [Image.fromarray(deep)] * ROWS, format=kind)
        with pytest.raises(StorageError, match="depth map"):
            open_dataset(path).episode(1)


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ([3, 16, 24], ["channels", "height", "width"]),
        ([3, 16, 24], ["c", "h", "w"]),
        ([3, 16, 24], ["rgb", "height", "width"]),
        ([3, 16, 24], None),
        ([16, 24, 3], None),
        ([16, 24, 3], ["height", "width", "rgb"]),
        ([24, 16, 3], ["width", "height", "channels"]),
    ],
)
def test_shapes_with_the_channels_anywhere(path: Path, shape: list[int], names: list[str] | None) -> None:
    feature = {"dtype": "image", "shape": shape, "names": names}
    toys.edit_info(path, features=toys.features(path) | {IMAGE: feature})
    dataset = open_dataset(path)
    assert dataset.only_camera.size == (16, 24) and dataset.episode(1).frames[IMAGE].shape == (6, 16, 24, 3)


def test_depth_maps_are_named_and_left_out(path: Path) -> None:
    depth = {"dtype": "image", "shape": [16, 24, 1], "names": None, "info": {"is_depth_map": True}}
    toys.edit_info(path, features=toys.features(path) | {"observation.images.depth": depth})
    dataset = open_dataset(path)
    assert [c.key for c in dataset.cameras] == [IMAGE] and "observation.images.depth is a depth map" in dataset.notes[0]
    with pytest.raises(InvalidInputError, match=r"depth is a depth map"):
        open_dataset(path, cameras=["depth"])


def test_cameras_without_files_are_named_and_left_out(film: Path) -> None:
    other = "observation.images.wrist"
    toys.edit_info(film, features=toys.features(film) | {other: toys.features(film)[IMAGE]})
    dataset = open_dataset(film)
    assert dataset.cameras == (Camera(height=16, width=24),) and dataset.episode(1).steps == 5
    assert dataset.notes == (f"Camera {other} has no video files in the folder: it is left out.",)
    with pytest.raises(InvalidInputError, match="wrist has no video files"):
        open_dataset(film, cameras=["wrist"])
    shutil.rmtree(film / "videos")
    with pytest.raises(InvalidInputError, match="no video files"):
        open_dataset(film)


def test_columns_are_joined_in_a_stated_order(path: Path) -> None:
    state = open_dataset(path).episode(1).proprio
    declared = {name: f for name, f in toys.features(path).items() if name not in ("action", STATE)}
    one = {"dtype": "float32", "shape": [], "names": None}
    arm = {"dtype": "float64", "shape": [2], "names": ["x", "y"]}
    declared |= {"action.grip": one, "action.arm": arm, "observation.state.b": one, "observation.state.a": arm}
    toys.edit_info(path, features=declared)
    for index in range(3):
        count = 5 + index
        arms = [[0.5 * t, -t] for t in range(count)]
        columns = {"action.grip": [float(t) for t in range(count)], "action.arm": arms}
        states = {"observation.state.b": [7.0 + t for t in range(count)], "observation.state.a": arms}
        toys.edit_rows(path, index, **{"action": None, STATE: None}, **columns, **states)
    dataset = open_dataset(path)
    assert dataset.action_spec.names == ("grip", "x", "y")
    assert (dataset.action_spec.low, dataset.action_spec.high) == ((0, 0, -6), (6, 3, 0))
    assert dataset.episode(1).action[2].tolist() == [2, 1, -2] and dataset.episode(1).proprio[1].tolist() == [
        8,
        0.5,
        -1,
    ]
    assert "action = [action.grip, action.arm]" in dataset.notes[0] and "observation.state.b" in dataset.notes[1]
    chosen = open_dataset(path, action=["arm", "action.grip"], proprio=["b"])
    assert chosen.action_spec.names == ("x", "y", "grip") and not chosen.notes
    assert chosen.episode(1).action[2].tolist() == [1, -2, 2] and chosen.episode(1).proprio.tolist() == [
        [7 + t] for t in range(6)
    ]
    assert state.shape[1] == 3
    with pytest.raises(UnknownNameError, match="legs"):
        open_dataset(path, action=["legs"])


def test_what_info_leaves_open_is_the_same_in_all_episodes(path: Path) -> None:
    open_width = {"dtype": "float32", "shape": [], "names": None}
    toys.edit_info(path, features=toys.features(path) | {STATE: open_width, "action": open_width})
    toys.edit_rows(path, **{STATE: [[1.0, 2.0]] * ROWS})
    dataset = open_dataset(path)
    assert dataset.episode(0).proprio.shape == (5, 3)
    with pytest.raises(StorageError, match="'observation.state' has 2 numbers in row 0, expected 3"):
        dataset.episode(1)


def test_two_features_for_one_camera_are_named(path: Path) -> None:
    picture = toys.features(path)[IMAGE]
    twice = {"observation.images.top": picture, "observation.image.top": picture}
    toys.edit_info(path, features=toys.features(path) | twice)
    with pytest.raises(InvalidInputError, match=r"several cameras that stand for 'observation\.images\.top'"):
        open_dataset(path)


def test_one_episode_whose_files_nothing_names(tmp_path: Path) -> None:
    """As a slice of DROID: path templates with other fields, no places, no statistics."""
    path = toys.as_foreign(toys.write(tmp_path / "d", 1, video=True))
    full = open_dataset(path).episode(0)
    template = "chunk-{episode_chunk:03d}/file-{episode_file:03d}"
    toys.edit_info(path, data_path=f"data/{template}.parquet", video_path=f"videos/{{video_key}}/{template}.mp4")
    file = path / "meta/episodes/chunk-000/file-000.parquet"
    pq.write_table(pq.read_table(file).select(["episode_index", "tasks", "length"]), file)
    (path / "meta/stats.json").unlink()
    read = open_dataset(path)
    assert np.array_equal(read.episode(0).frames[IMAGE], full.frames[IMAGE])
    assert read.action_spec.low[0] == min(full.action[:, 0].min(), 0)


def test_an_episode_of_one_row(path: Path) -> None:
    thin(path, slice(0, 1), 10)
    toys.edit_rows(path, **{"next.success": [True]})
    episode = open_dataset(path).episode(1)
    assert episode.steps == 0 and episode.last_action is not None and episode.success.tolist() == [1]


def test_a_task_that_changes_on_the_way(path: Path) -> None:
    pq.write_table(pa.table({"task_index": [0, 1], "task": ["open it", "close it"]}), path / "meta/tasks.parquet")
    toys.edit_rows(path, task_index=[0, 0, 1, 1, 0, 1])
    assert open_dataset(path).episode(1).task == "open it; close it" and open_dataset(path).episode(0).task == "open it"
    pq.write_table(pa.table({"task_index": [1, 0], "task": ["open it", "close it"]}), path / "meta/tasks.parquet")
    with pytest.raises(StorageError, match=r"tasks\.parquet does not number"):
        open_dataset(path)


def test_episodes_that_are_missing_or_doubled_are_named(path: Path) -> None:
    toys.edit_info(path, total_episodes=5)
    with pytest.raises(StorageError, match="promises 5 episodes"):
        open_dataset(path)
    toys.edit_info(path, total_episodes=3)
    toys.edit_episodes(path, episode_index=[0, 1, 1])
    with pytest.raises(StorageError, match="episode 1 more than once"):
        open_dataset(path)


@pytest.mark.skipif(not REAL, reason="WORLDSIM_TEST_DATA names no folder of real recordings")
def test_a_droid_episode(tmp_path: Path) -> None:
    dataset = open_dataset(Path(REAL) / "droid_v3")
    camera = "observation.images.exterior_image_2_left"
    assert dataset.only_camera == Camera(key=camera, height=360, width=640) and dataset.rate_hz == 15
    assert len(dataset.notes) >= 4 and "wrist_image_left has no video files" in dataset.notes[0]
    assert dataset.action_spec.names == ("gripper_position", "joint_position")
    episode = dataset.episode(0)
    assert episode.frames[camera].shape == (722, 360, 640, 3) and episode.proprio.shape == (722, 8)
    assert episode.action[0].tolist() == pytest.approx([0, 0.08102965]) and episode.last_action is not None


def test_matrices_are_read_row_by_row_whatever_type_they_are_stored_as(path: Path) -> None:
    matrix = {"dtype": "float32", "shape": [2, 3], "names": None}
    toys.edit_info(path, features=toys.features(path) | {STATE: matrix, "action": matrix})
    (path / "meta/stats.json").unlink()
    for file in path.glob("data/*/*.parquet"):
        table = pq.read_table(file)
        rows = np.arange(6.0 * len(table), dtype=np.float32).reshape(-1, 2, 3)
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(rows)
        for name, column in (("action", tensors), (STATE, pa.array(rows.tolist()))):
            table = table.set_column(table.schema.get_field_index(name), name, column)
        pq.write_table(table, file)
    episode = open_dataset(path).episode(0)
    assert episode.action[1].tolist() == episode.proprio[1].tolist() == [6, 7, 8, 9, 10, 11]
