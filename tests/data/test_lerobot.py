"""LeRobot reads what worldsim writes, and worldsim reads what LeRobot writes. Imports alone cost some 15 s of one core."""

import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lerobot", reason="the lerobot extra is not installed")

from benchmarks import dataset_faults, dataset_plants
from benchmarks.recordings import Recording, difference
from tests.data import toys
from worldsim.core import IMAGE, TASK, Camera, row_texts
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import StorageError

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module")
def lerobot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The class, with its cache in a temporary place."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        import datasets
        from lerobot.datasets.lerobot_dataset import LeRobotDataset

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield LeRobotDataset


@pytest.mark.parametrize("video", [False, True])
def test_lerobot_reads_ours(lerobot: Any, tmp_path: Path, video: bool, caplog: pytest.LogCaptureFixture) -> None:
    path = toys.write(tmp_path / "d", 3, true_state_dim=2, video=video)
    with caplog.at_level(logging.WARNING):
        theirs = lerobot("local/x", root=path, video_backend="pyav")
    assert not caplog.records
    assert (theirs.num_episodes, len(theirs), theirs.fps) == (3, 5 + 6 + 7, 10)
    assert theirs.meta.stats["observation.image"]["mean"].shape == (3, 1, 1)
    row = 0
    for i in range(3):
        ours = toys.episode(i, steps=4 + i, true_state_dim=2)
        for t in range(5 + i):
            item = theirs[row]
            row += 1
            frame = item["observation.image"].permute(1, 2, 0).numpy() * 255
            assert np.abs(frame - ours.frames[IMAGE][t]).mean() < (1 if video else 1e-4)
            action = ours.action[t] if t < ours.steps else np.zeros(2)
            assert np.array_equal(item["action"].numpy(), action.astype(np.float32))
            assert np.array_equal(item["observation.state"].numpy(), ours.proprio[t])
            assert item["task"] == "push it" and int(item["episode_index"]) == i and int(item["frame_index"]) == t
            following = min(t + 1, ours.steps)
            assert bool(item["next.success"]) == bool(ours.success[following])
            assert float(item["next.progress"]) == ours.progress[following]
            assert bool(item["next.done"]) == (following == ours.steps)


TASKS = ("push it", "pull it", "push it")


@pytest.mark.parametrize("video", [False, True])
def test_lerobot_reads_our_cameras_and_tasks(
    lerobot: Any, tmp_path: Path, video: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = toys.write(tmp_path / "d", 3, cameras=toys.PAIR, tasks=TASKS, video=video)
    with caplog.at_level(logging.WARNING):
        theirs = lerobot("local/x", root=path, video_backend="pyav")
    assert not caplog.records
    assert sorted(theirs.meta.camera_keys) == sorted(c.key for c in toys.PAIR)
    assert theirs.meta.total_tasks == 2
    row = 0
    for i in range(3):
        written = toys.episode(i, steps=4 + i, cameras=toys.PAIR)
        for t in range(5 + i):
            item = theirs[row]
            row += 1
            assert item["task"] == TASKS[i]
            for camera in toys.PAIR:
                frame = item[camera.key].permute(1, 2, 0).numpy() * 255
                assert frame.shape == (*camera.size, 3)
                assert np.abs(frame - written.frames[camera.key][t]).mean() < (1 if video else 1e-4)


@pytest.mark.parametrize("video", [False, True])
def test_we_read_lerobots_cameras_and_tasks(lerobot: Any, tmp_path: Path, video: bool) -> None:
    """Sizes large enough for its encoder, one camera of pictures beside one of video."""
    cameras = (
        Camera(key="observation.images.wrist", height=96, width=64),
        Camera(key="observation.images.top", height=64, width=80),
    )
    features: dict[str, Any] = {
        camera.key: {
            "dtype": "video" if video and i else "image",
            "shape": (*camera.size, 3),
            "names": ["height", "width", "channels"],
        }
        for i, camera in enumerate(cameras)
    }
    for name, width in (("observation.state", 3), ("action", 2)):
        features[name] = {"dtype": "float32", "shape": (width,), "names": [f"{name}_{i}" for i in range(width)]}
    theirs = lerobot.create(
        "local/x", fps=20, features=features, root=tmp_path / "d", use_videos=video, video_backend="pyav"
    )
    written = [toys.episode(i, steps=4 + i, cameras=cameras) for i in range(3)]
    for e, task in zip(written, TASKS, strict=True):
        for t in range(len(e.proprio)):
            frames = {key: frames[t] for key, frames in e.frames.items()}
            vectors = {"observation.state": e.proprio[t], "action": e.action[min(t, e.steps - 1)]}
            theirs.add_frame({**frames, **vectors, "task": task})
        theirs.save_episode()
    theirs.finalize()
    ours = open_dataset(tmp_path / "d")
    assert ours.cameras == cameras and ours.tasks == ("push it", "pull it")
    for i, e in enumerate(written):
        read = ours.episode(i)
        assert read.task == TASKS[i] and np.array_equal(read.proprio, e.proprio)
        for j, camera in enumerate(cameras):
            difference = np.abs(read.frames[camera.key].astype(int) - e.frames[camera.key]).mean()
            assert difference < 6 if video and j else difference == 0
    starts = ours.starts([1, 0]).rows
    assert row_texts(starts[TASK]) == ("pull it", "push it")


def test_lerobot_reads_dreams(lerobot: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = toys.write(tmp_path / "d", 2, dreamed_by="push")
    with caplog.at_level(logging.WARNING):
        theirs = lerobot("local/x", root=path, video_backend="pyav")
    assert not caplog.records
    assert len(theirs) == 5 + 6
    assert open_dataset(path).dreamed_by == "push"


def test_lerobot_gives_windows_of_ours(lerobot: Any, tmp_path: Path) -> None:
    path = toys.write(tmp_path / "d", 2)
    theirs = lerobot("local/x", root=path, video_backend="pyav", delta_timestamps={"action": [0.0, 0.1, 0.2]})
    assert theirs[4]["action_is_pad"].tolist() == [False, True, True]
    assert np.array_equal(theirs[1]["action"].numpy(), toys.episode(0, steps=4).action[1:4])


@pytest.mark.parametrize("video", [False, True])
def test_we_read_lerobots(lerobot: Any, tmp_path: Path, video: bool) -> None:
    camera = "observation.images.top"
    features = {
        camera: {
            "dtype": "video" if video else "image",
            "shape": (64, 96, 3),
            "names": ["height", "width", "channels"],
        },
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
        "action": {"dtype": "float32", "shape": (1,), "names": ["speed"]},
        "next.success": {"dtype": "bool", "shape": (1,), "names": None},
    }
    theirs = lerobot.create(
        "local/x", fps=20, features=features, root=tmp_path / "d", use_videos=video, video_backend="pyav"
    )
    written = [toys.episode(i, steps=4 + i, cameras=(Camera(key=camera, height=64, width=96),)) for i in range(3)]
    for e in written:
        for t in range(len(e.proprio)):
            action = e.action[min(t, e.steps - 1), :1]
            values = {camera: e.frames[camera][t], "observation.state": e.proprio[t], "action": action}
            theirs.add_frame({**values, "next.success": np.array([bool(e.success[t])]), "task": "go"})
        theirs.save_episode()
    theirs.finalize()
    ours = open_dataset(tmp_path / "d", cameras=["top"])
    assert (ours.episodes, ours.only_camera.key, ours.rate_hz, ours.task, ours.only_camera.size) == (
        3,
        camera,
        20,
        "go",
        (64, 96),
    )
    assert ours.action_spec.names == ("speed",)
    for i, e in enumerate(written):
        read = ours.episode(i)
        assert read.frames[camera].shape == e.frames[camera].shape
        difference = np.abs(read.frames[camera].astype(int) - e.frames[camera]).mean()
        assert difference < 6 if video else difference == 0
        assert np.array_equal(read.action, e.action[:, :1]) and np.array_equal(read.proprio, e.proprio)
        assert np.array_equal(read.success, [0, *e.success[:-2], max(e.success[-2:])])
        assert np.isnan(read.progress).all() and read.true_state is None


def as_version_21(source: Path, path: Path) -> Path:
    """A folder of worldsim's as version 2.1 lays files out: one data file per episode, lists of JSON in `meta/`."""
    info = json.loads((source / "meta/info.json").read_text())
    info |= {"codebase_version": "v2.1", "total_chunks": 1, "total_videos": 0, "video_path": None}
    info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    rows = pq.read_table(source / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    lines: dict[str, list[Any]] = {
        "tasks": [{"task_index": 0, "task": "push it"}],
        "episodes": [],
        "episodes_stats": [],
    }
    for row in rows:
        number = {"episode_index": row["episode_index"]}
        stats: dict[str, Any] = {}
        for key, value in row.items():
            if key.startswith("stats/"):
                _, name, statistic = key.split("/")
                stats.setdefault(name, {})[statistic] = value
        lines["episodes"].append({**number, "tasks": row["tasks"], "length": row["length"]})
        lines["episodes_stats"].append({**number, "stats": stats})
    (path / "meta").mkdir(parents=True)
    (path / "data/chunk-000").mkdir(parents=True)
    (path / "meta/info.json").write_text(json.dumps(info))
    for name, values in lines.items():
        (path / f"meta/{name}.jsonl").write_text("".join(json.dumps(value) + "\n" for value in values))
    for row in rows:
        index = row["episode_index"]
        table = pq.read_table(source / f"data/chunk-000/file-{index:03d}.parquet").replace_schema_metadata(None)
        pq.write_table(table, path / f"data/chunk-000/episode_{index:06d}.parquet")
    return path


def test_version_21_is_converted_on_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    old = as_version_21(toys.write(tmp_path / "new", 3), tmp_path / "old")
    before = toys.contents(old)
    read, written = open_dataset(old), open_dataset(tmp_path / "new")
    assert read.episodes == 3 and toys.contents(old) == before
    for index in range(3):
        ours, theirs = written.episode(index), read.episode(index)
        assert np.array_equal(ours.frames[IMAGE], theirs.frames[IMAGE]) and np.array_equal(ours.action, theirs.action)
    made = list((tmp_path / "cache").rglob("info.json"))
    stamp = made[0].stat().st_mtime_ns
    assert len(made) == 1 and open_dataset(old).episodes == 3 and made[0].stat().st_mtime_ns == stamp
    (old / "meta/tasks.jsonl").unlink()
    with pytest.raises(StorageError, match=r"LeRobot cannot convert .*tasks\.jsonl"):
        open_dataset(old)
    assert len(list((tmp_path / "cache").rglob("info.json"))) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_random_recordings_are_read_as_lerobot_reads_them(lerobot: Any, tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    Recording.draw(rng, video=bool(seed)).write(lerobot, tmp_path / "d", rng)
    assert difference(lerobot, tmp_path / "d", open_dataset(tmp_path / "d")) == ""
    dataset_plants.cut_first(tmp_path / "d", rng)
    assert difference(lerobot, tmp_path / "d", open_dataset(tmp_path / "d")) == ""


def test_faults_of_every_kind_are_read_rightly_or_named(lerobot: Any, tmp_path: Path) -> None:
    """One of each of what the benchmark plants twenty times."""
    outcomes, wrong = dataset_faults.plant_all(lerobot, tmp_path, 1)
    assert not wrong and len(outcomes) == 20
    assert all(set(found) <= {"read", "named"} for found in outcomes.values())
