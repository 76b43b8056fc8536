"""Reading: damaged, foreign and hostile folders get a typed error that names the file."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data import toys
from worldsim.core import IMAGE, SIMULATOR, STATE, TRUE_STATE
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError

DATA = "data/chunk-000/file-001.parquet"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.write(tmp_path_factory.mktemp("original") / "d", 3, true_state_dim=2)


@pytest.fixture
def path(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "d"))


@pytest.mark.parametrize("damage", ["truncated", "missing", "flipped", "empty", "foreign"])
def test_one_bad_file_costs_one_episode(path: Path, damage: str) -> None:
    file = path / DATA
    data = file.read_bytes()
    middle = len(data) // 2
    changed = {
        "truncated": data[:middle],
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "empty": b"",
        "foreign": b"hello",
        "missing": b"",
    }[damage]
    file.write_bytes(changed)
    if damage == "missing":
        file.unlink()
    dataset = open_dataset(path)
    with pytest.raises(StorageError, match=r"file-001\.parquet"):
        dataset.episode(1)
    assert dataset.episode(0).steps == 4 and dataset.episode(2).steps == 6


def test_damage_is_found_without_checksums(path: Path) -> None:
    """Data that worldsim did not write carries none."""
    toys.as_foreign(path)
    good = open_dataset(path).episode(1)
    assert np.array_equal(good.frames[IMAGE], toys.episode(1, steps=5).frames[IMAGE])
    data = (path / DATA).read_bytes()
    (path / DATA).write_bytes(data[: len(data) // 2])
    with pytest.raises(StorageError, match=r"file-001\.parquet"):
        open_dataset(path).episode(1)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/episodes/chunk-000/file-000.parquet", "meta/tasks.parquet"])
def test_damaged_meta_is_named(path: Path, name: str) -> None:
    (path / name).write_bytes((path / name).read_bytes()[:40])
    with pytest.raises(StorageError, match=Path(name).name.replace(".", r"\.")):
        open_dataset(path)


def test_no_dataset_there(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no dataset folder"):
        open_dataset(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(StorageError, match=r"info\.json"):
        open_dataset(tmp_path)


def test_other_versions_are_named(path: Path) -> None:
    for version in ("v2.0", "v9.0"):
        toys.edit_info(path, codebase_version=version)
        with pytest.raises(StorageError, match=version):
            open_dataset(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"features": None},
        {"features": {"action": {}, "observation.image": {"dtype": "image", "shape": "big"}}},
        {"features": {"action": {"dtype": "float32"}, "observation.image": {"dtype": "image", "shape": [8, 8]}}},
        {"data_path": "{0.__class__}/{chunk_index}"},
        {"data_path": "{chunk_index:999999999d}"},
    ],
)
def test_nonsense_in_info(path: Path, changes: dict[str, Any]) -> None:
    toys.edit_info(path, **changes)
    with pytest.raises(StorageError, match=r"info\.json"):
        open_dataset(path)


def test_nothing_outside_the_folder_is_opened(path: Path, tmp_path: Path) -> None:
    toys.as_foreign(path)
    shutil.copy(path / DATA, tmp_path / "file-001.parquet")
    toys.edit_info(path, data_path="../file-{file_index:03d}.parquet")
    with pytest.raises(StorageError, match="outside"):
        open_dataset(path).episode(1)


def test_a_picture_outside_the_folder_is_not_opened(path: Path, tmp_path: Path) -> None:
    toys.as_foreign(path)
    table = pq.read_table(path / DATA)
    cells = table[IMAGE].to_pylist()
    (tmp_path / "secret.png").write_bytes(cells[0]["bytes"])
    cells = [{"bytes": None, "path": "../secret.png"} for _ in cells]
    column = pa.array(cells, table.schema.field(IMAGE).type)
    pq.write_table(table.set_column(table.column_names.index(IMAGE), IMAGE, column), path / DATA)
    with pytest.raises(StorageError, match="outside"):
        open_dataset(path).episode(1)


@pytest.mark.parametrize("broken", ["cut", "other size", "no picture", "nan action", "fewer rows"])
def test_wrong_content_of_foreign_data_is_found(path: Path, broken: str) -> None:
    toys.as_foreign(path)
    table = pq.read_table(path / DATA)
    cells = table[IMAGE].to_pylist()
    if broken == "cut":
        cells[2]["bytes"] = cells[2]["bytes"][:60]
    elif broken == "no picture":
        cells[2]["bytes"] = b"GIF89a nothing"
    elif broken == "other size":
        from worldsim.video import encode_png

        cells = [{"bytes": encode_png(np.zeros((8, 8, 3), np.uint8)), "path": ""} for _ in cells]
    table = table.set_column(table.column_names.index(IMAGE), IMAGE, pa.array(cells, table.schema.field(IMAGE).type))
    if broken == "nan action":
        values = pa.FixedSizeListArray.from_arrays(pa.array([float("nan")] * 2 * len(cells), pa.float32()), 2)
        table = table.set_column(table.column_names.index("action"), "action", values)
    pq.write_table(table.slice(0, 3) if broken == "fewer rows" else table, path / DATA)
    with pytest.raises(StorageError, match=r"file-001\.parquet"):
        open_dataset(path).episode(1)


def test_foreign_data_gets_an_action_spec_from_its_statistics(path: Path) -> None:
    toys.as_foreign(path)
    dataset = open_dataset(path)
    actions = np.concatenate([toys.episode(i, steps=4 + i).action for i in range(3)] + [np.zeros((1, 2))])
    assert dataset.action_spec.names == ("vx", "vy") and dataset.rate_hz == 10
    assert np.allclose(dataset.action_spec.low, actions.min(0)) and np.allclose(
        dataset.action_spec.high, actions.max(0)
    )
    assert dataset.episode(0).seed == -1 and dataset.episode(0).simulator is None
    assert dataset.episode(0).success[0] == 0 and np.isnan(dataset.episode(0).progress[0])


def test_success_that_is_marked_in_the_last_row_only_is_kept(path: Path) -> None:
    """As LeRobot's own recordings mark it: the last action's result is not observed."""
    toys.as_foreign(path)
    table = pq.read_table(path / DATA)
    for last in (True, False):
        column = pa.array([False] * (table.num_rows - 1) + [last])
        pq.write_table(table.set_column(table.column_names.index("next.success"), "next.success", column), path / DATA)
        assert open_dataset(path).episode(1).success.tolist() == [0.0] * (table.num_rows - 1) + [float(last)]
        open_dataset(path).starts([1])


def test_cameras_are_chosen_by_name(path: Path) -> None:
    info = json.loads((path / "meta/info.json").read_text())
    features = dict(info["features"])
    assert open_dataset(path, cameras=["image"]).cameras == open_dataset(path).cameras == (toys.CAMERA,)
    with pytest.raises(UnknownNameError, match=r"observation\.image"):
        open_dataset(path, cameras=["wrist"])
    toys.edit_info(path, features={**features, "observation.images.wrist": features[IMAGE]})
    with pytest.raises(InvalidInputError, match=r"observation\.image, observation\.images\.wrist"):
        open_dataset(path).only_camera  # noqa: B018
    with pytest.raises(InvalidInputError, match="once each"):
        open_dataset(path, cameras=["wrist", "observation.images.wrist"])
    assert open_dataset(path, cameras=[IMAGE]).episode(0).frames[IMAGE].shape == (5, 16, 24, 3)
    toys.edit_info(path, features={k: v for k, v in features.items() if k != IMAGE})
    with pytest.raises(InvalidInputError, match="no image"):
        open_dataset(path)


def test_the_digest_follows_the_content(path: Path, tmp_path: Path) -> None:
    first = open_dataset(path).digest
    assert first == open_dataset(toys.write(tmp_path / "again", 3, true_state_dim=2)).digest
    toys.write(path, 4, true_state_dim=2)
    assert open_dataset(path).digest != first
    toys.as_foreign(path)
    foreign = open_dataset(path).digest
    (path / DATA).write_bytes((path / DATA).read_bytes() + b" ")
    assert open_dataset(path).digest != foreign


def test_starts_are_first_observations(path: Path) -> None:
    rows = open_dataset(path).starts([2, 0]).rows
    second, zeroth = (toys.episode(i, steps=4 + i, true_state_dim=2) for i in (2, 0))
    assert set(rows) == {IMAGE, STATE, TRUE_STATE, SIMULATOR}
    assert np.array_equal(rows[IMAGE].numpy(), [second.frames[IMAGE][0], zeroth.frames[IMAGE][0]])
    assert np.array_equal(rows[SIMULATOR].numpy(), [second.simulator, zeroth.simulator])
    with pytest.raises(InvalidInputError):
        open_dataset(path).starts([])


def test_there_is_no_such_episode(path: Path) -> None:
    with pytest.raises(InvalidInputError, match="episodes 0 to 2"):
        open_dataset(path).episode(3)
