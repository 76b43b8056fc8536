"""Datasets on disk: what goes in comes out, on every kill, full disk and continuation."""

import dataclasses
import json
import resource
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.data import toys
from worldsim.core import IMAGE
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import open_dataset
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError, StorageError


@pytest.mark.parametrize("true_state_dim", [0, 1, 4])
def test_what_goes_in_comes_out(tmp_path: Path, true_state_dim: int) -> None:
    dataset = open_dataset(toys.write(tmp_path / "d", 3, true_state_dim=true_state_dim))
    assert (dataset.episodes, dataset.task, dataset.rate_hz) == (3, "push it", 10)
    assert dataset.action_spec == toys.ACTION
    assert dataset.only_camera.size == (16, 24)
    assert dataset.behaviours == ("b0", "b1", "b0")
    for i in range(3):
        written = toys.episode(i, steps=4 + i, true_state_dim=true_state_dim)
        read = dataset.episode(i)
        assert dataset.length(i) == 5 + i
        for name in toys.FIELDS:
            assert np.array_equal(getattr(written, name), getattr(read, name)), name


def test_only_dreams_are_marked_so_that_older_folders_can_be_continued(tmp_path: Path) -> None:
    toys.write(tmp_path / "real", 1)
    toys.write(tmp_path / "dream", 1, dreamed_by="push")
    specs = [json.loads((tmp_path / n / "meta/worldsim.json").read_text())["spec"] for n in ("real", "dream")]
    assert [s.get("dreamed_by") for s in specs] == [None, "push"]
    assert [open_dataset(tmp_path / n).dreamed_by for n in ("real", "dream")] == ["", "push"]


def test_video_is_nearly_lossless(tmp_path: Path) -> None:
    dataset = open_dataset(toys.write(tmp_path / "d", 2, video=True))
    written, read = toys.episode(1, steps=5), dataset.episode(1)
    assert np.abs(written.frames[IMAGE].astype(int) - read.frames[IMAGE]).mean() < 1
    assert np.array_equal(written.action, read.action)
    assert not any("observation.image" in json.dumps(n) for n in _columns(tmp_path / "d"))


def _columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(path / "data/chunk-000/file-000.parquet").names)


def test_unknown_success_and_progress_stay_unknown(tmp_path: Path) -> None:
    with episode_writer(tmp_path / "d", toys.spec(has_success=False, has_progress=False)) as writer:
        writer.write(toys.episode(0))
    read = open_dataset(tmp_path / "d").episode(0)
    assert np.isnan(read.success[1:]).all() and np.isnan(read.progress[1:]).all()


def test_each_episode_is_on_disk_before_the_next(tmp_path: Path) -> None:
    with episode_writer(tmp_path / "d", toys.spec()) as writer:
        for i in range(3):
            writer.write(toys.episode(i))
            assert (tmp_path / f"d/data/chunk-000/file-{i:03d}.parquet").exists()
    assert open_dataset(tmp_path / "d").episodes == 3


def test_continuing_gives_the_same_bytes(tmp_path: Path) -> None:
    complete = toys.contents(toys.write(tmp_path / "complete", 5))
    for count in (1, 2, 5):
        toys.write(tmp_path / "parts", count)
    assert toys.contents(tmp_path / "parts") == complete


def test_meta_is_made_again_from_the_data(tmp_path: Path) -> None:
    path = toys.write(tmp_path / "d", 4)
    complete = toys.contents(path)
    for name in ("stats.json", "info.json", "tasks.parquet"):
        (path / "meta" / name).unlink()
    shutil.rmtree(path / "meta/episodes")
    (path / "data/chunk-000/.file-004.parquet.77.tmp").write_bytes(b"half an epi")
    toys.write(path, 4)
    assert toys.contents(path) == complete


def test_statistics_agree_with_the_data(tmp_path: Path) -> None:
    path = toys.write(tmp_path / "d", 3)
    stats = json.loads((path / "meta/stats.json").read_text())
    episodes = [toys.episode(i, steps=4 + i) for i in range(3)]
    proprio = np.concatenate([e.proprio for e in episodes]).astype(np.float64)
    for name, value in (
        ("mean", proprio.mean(0)),
        ("std", proprio.std(0)),
        ("min", proprio.min(0)),
        ("max", proprio.max(0)),
    ):
        assert np.allclose(stats["observation.state"][name], value)
    frames = np.concatenate([e.frames[IMAGE] for e in episodes]).reshape(-1, 3) / 255
    image = {k: np.array(v).ravel() for k, v in stats["observation.image"].items()}
    assert np.allclose(image["mean"], frames.mean(0)) and np.allclose(image["std"], frames.std(0))
    assert np.allclose(image["min"], frames.min(0)) and np.allclose(image["max"], frames.max(0))
    assert stats["observation.image"]["count"] == [len(np.concatenate([e.frames[IMAGE] for e in episodes]))]
    assert np.array(stats["observation.image"]["q50"]).shape == (3, 1, 1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"task": "pull it"}, "spec.task"), ({"proprio_dim": 4}, "proprio_dim"), ({"video": True}, "spec.video")],
)
def test_a_folder_is_not_continued_with_other_settings(tmp_path: Path, changes: dict[str, object], named: str) -> None:
    toys.write(tmp_path / "d", 1)
    before = toys.contents(tmp_path / "d")
    with pytest.raises(InvalidInputError, match=named), episode_writer(tmp_path / "d", toys.spec(**changes)):
        pass
    assert toys.contents(tmp_path / "d") == before


def test_two_writers_on_one_folder(tmp_path: Path) -> None:
    with episode_writer(tmp_path / "d", toys.spec()) as writer:
        with pytest.raises(StorageError, match="in use by another run"), episode_writer(tmp_path / "d", toys.spec()):
            pass
        writer.write(toys.episode(0))
    assert open_dataset(tmp_path / "d").episodes == 1


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d/thesis.txt").write_text("years of work")
    with pytest.raises(StorageError, match=r"not empty.*thesis"), episode_writer(tmp_path / "d", toys.spec()):
        pass
    assert list(toys.contents(tmp_path / "d")) == ["thesis.txt"]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("not a folder")
    with pytest.raises(StorageError, match="Cannot use"), episode_writer(tmp_path / "d", toys.spec()):
        pass


def test_a_missing_file_between_others_is_named(tmp_path: Path) -> None:
    toys.write(tmp_path / "d", 3)
    (tmp_path / "d/data/chunk-000/file-001.parquet").unlink()
    with pytest.raises(StorageError, match=r"file-001\.parquet"), episode_writer(tmp_path / "d", toys.spec()):
        pass


@pytest.mark.parametrize(
    "changes",
    [
        {"proprio": np.zeros((7, 2), np.float32)},
        {"true_state": np.zeros((7, 2), np.float32)},
        {"frames": {IMAGE: np.zeros((7, 8, 8, 3), np.uint8)}},
        {"progress": np.full(7, np.nan, np.float32)},
    ],
)
def test_an_episode_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with episode_writer(tmp_path / "d", toys.spec()) as writer, pytest.raises(InvalidInputError):
        writer.write(dataclasses.replace(toys.episode(0), **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": {IMAGE: np.zeros((7, 8, 8, 3), np.float32)}},
        {"action": np.zeros((7, 2), np.float32)},
        {"action": np.full((6, 2), np.nan, np.float32)},
        {"success": np.zeros(6, np.float32)},
    ],
)
def test_an_episode_checks_itself(changes: dict[str, object]) -> None:
    values = {f.name: getattr(toys.episode(0), f.name) for f in dataclasses.fields(Episode)}
    with pytest.raises(InvalidInputError):
        Episode(**{**values, **changes})


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """A limit on the size of files makes writes fail as on a full disk, with some bytes written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with episode_writer(tmp_path / "d", toys.spec()) as writer:
        writer.write(toys.episode(0, steps=4))
        before = toys.contents(tmp_path / "d")
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        try:
            with pytest.raises(StorageError, match=r"file-001\.parquet.*Free space"):
                writer.write(toys.episode(1, steps=5))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert toys.contents(tmp_path / "d") == before
    toys.write(tmp_path / "d", 2)
    assert toys.contents(tmp_path / "d") == toys.contents(toys.write(tmp_path / "complete", 2))
