import shutil
from pathlib import Path

import pytest

from tests.data import toys
from worldsim.data.lerobot.read import open_dataset
from worldsim.errors import InvalidInputError, StorageError
from worldsim.hub import local_folder
from worldsim.worlds import load_world, world_folder

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world in the hub's cache: a snapshot of links to blobs, as the hub leaves it."""
    repository = tmp_path / "models--someone--push"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    shutil.copytree(world_folder("push_state"), repository / "blobs")
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for blob in (repository / "blobs").iterdir():
        (snapshot / blob.name).symlink_to(f"../../blobs/{blob.name}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return snapshot


def test_a_world_on_the_hub_is_loaded_from_its_cache(cached: Path) -> None:
    assert local_folder("hf://someone/push") == cached
    assert local_folder(f"hf://someone/push@{COMMIT}") == cached
    assert load_world("hf://someone/push").spec == load_world("push_state").spec


def test_what_the_cache_lacks_is_named(cached: Path) -> None:
    with pytest.raises(StorageError, match="hf://someone/other"):
        local_folder("hf://someone/other")
    for name in ("hf://", "hf://push", "hf://a/b/c", "hf://some one/push"):
        with pytest.raises(InvalidInputError, match="hub"):
            local_folder(name)
    assert local_folder("a/b") == Path("a/b")  # nothing is looked for on the hub unless it is named so


def test_a_dataset_on_the_hub_is_read_from_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_LEROBOT_HOME", str(tmp_path / "lerobot"))
    written = toys.write(tmp_path / "written", 2)
    with pytest.raises(StorageError, match="hf://datasets/me/d"):
        local_folder("hf://datasets/me/d")
    snapshot = toys.as_hub_cache(written, tmp_path / "hub")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    assert local_folder("hf://datasets/me/d") == snapshot
    assert open_dataset("hf://datasets/me/d").digest == open_dataset(written).digest
    shutil.copytree(written, tmp_path / "lerobot/me/d")
    assert local_folder("hf://datasets/me/d") == tmp_path / "lerobot/me/d"
