"""World folders that somebody else wrote: what does not fit is refused by name, before anything is allocated."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from worldsim import storage
from worldsim.errors import StorageError, WorldsimError
from worldsim.worlds import load_world, world_folder, world_spec


def edited(folder: Path, part: str, changes: dict[str, Any]) -> Path:
    """A copy of a shipped world with other values in one part of its config, its digests made to fit."""
    shutil.copytree(world_folder("push_state"), folder)
    config = storage.read_json(folder / storage.CONFIG)
    config[part] = {**config[part], **changes} if isinstance(changes, dict) else changes
    storage.write_json(folder / storage.CONFIG, config)
    manifest = storage.read_json(folder / storage.MANIFEST)
    manifest["sha256"][storage.CONFIG] = storage.digest_file(folder / storage.CONFIG)
    storage.write_json(folder / storage.MANIFEST, manifest)
    return folder


@pytest.mark.parametrize(
    ("part", "changes", "named"),
    [
        ("spec", {"horizon": 0}, "horizon"),
        ("spec", {"horizon": 10**9}, "horizon"),
        ("spec", {"horizon": "x"}, "horizon"),
        ("spec", {"latent_shape": [8, 1, 10**9]}, "latent_shape"),
        ("spec", {"proprio_dim": 77}, "proprio"),
        ("heads", {"width": -3}, "width"),
        ("predictor_config", {"width": 10**6}, "larger than its weights"),  # would fill the memory
        ("predictor_config", {"depth": 10**9}, "depth"),
        ("predictor_config", [], "mapping"),
    ],
)
def test_sizes_out_of_range_are_refused(part: str, changes: Any, named: str, tmp_path: Path) -> None:
    with pytest.raises(WorldsimError, match=named):
        load_world(edited(tmp_path / "w", part, changes))


def test_a_spec_alone_is_checked_too(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="horizon"):
        world_spec(edited(tmp_path / "w", "spec", {"horizon": 10**9}))


def test_a_folder_without_a_world_that_hides_a_shipped_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "push").mkdir()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    for use in (load_world, world_spec, world_folder):
        with pytest.raises(StorageError, match=r"push holds no world.*goes before the shipped world of the same name"):
            use("push")
        with pytest.raises(StorageError, match=r"mine holds no world.*push, push_state"):
            use("mine")
