import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from worldsim import storage
from worldsim.errors import InvalidInputError, StorageError, UnknownNameError
from worldsim.worlds import world_folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    sizes: tuple[int, ...] = (1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    rate: float = 1.0
    inner: Inner = dataclasses.field(default_factory=Inner)
    stages: tuple[tuple[int, float], ...] = ((1, 0.5),)


def save(path: Path, value: float = 1.0) -> None:
    storage.save_folder(
        path, kind="thing", config={"a": 1}, tensors={"w": torch.full((3,), value)}, files={"x.bin": b"abc"}
    )


def test_folders_round_trip(tmp_path: Path) -> None:
    save(tmp_path / "f")
    config, tensors, manifest = storage.load_folder(tmp_path / "f", kind="thing")
    assert config == {"a": 1}
    assert torch.equal(tensors["w"], torch.ones(3))
    assert set(manifest["sha256"]) == {"config.json", "model.safetensors", "x.bin"}


def test_a_folder_is_replaced_at_once_and_nothing_is_left_behind(tmp_path: Path) -> None:
    save(tmp_path / "f", 1.0)
    save(tmp_path / "f", 2.0)
    assert float(storage.load_folder(tmp_path / "f", kind="thing")[1]["w"][0]) == 2.0
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_failure_while_writing_leaves_the_old_folder(tmp_path: Path) -> None:
    save(tmp_path / "f")
    with pytest.raises(RuntimeError, match="halfway"), storage.folder_writer(tmp_path / "f") as staging:
        (staging / "config.json").write_text("{}")
        raise RuntimeError("halfway")
    assert storage.load_folder(tmp_path / "f", kind="thing")[0] == {"a": 1}


def test_digests_of_unchanged_files_are_computed_once() -> None:
    world = world_folder("push_state")
    first = storage.folder_digest(world)
    read = read_bytes()
    assert storage.folder_digest(world) == first
    storage.read_manifest(world, kind="state_world")
    assert read_bytes() - read < (world / "model.safetensors").stat().st_size


def read_bytes() -> int:
    """Bytes that this process has read."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_file_that_has_just_changed_is_read_again_whatever_its_times(tmp_path: Path) -> None:
    path, same = tmp_path / "x.bin", (10**18, 10**18)
    for number in range(300):
        path.write_bytes(b"%9d" % number)
        os.utime(path, ns=same)
        assert storage.digest_file(path) == storage.digest_bytes(b"%9d" % number)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "x.bin"])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path / "f")
    (tmp_path / "f" / name).write_bytes(b"other")
    with pytest.raises(StorageError, match=name):
        storage.load_folder(tmp_path / "f", kind="thing")
    (tmp_path / "f" / name).unlink()
    with pytest.raises(StorageError, match=f"{name} is missing"):
        storage.load_folder(tmp_path / "f", kind="thing")


def test_another_kind_and_no_folder_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "f")
    with pytest.raises(StorageError, match="expected 'world'"):
        storage.load_folder(tmp_path / "f", kind="world")
    with pytest.raises(StorageError, match="no world folder"):
        storage.load_folder(tmp_path / "g", kind="world")


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    storage.write_json(path, {"kept": True})
    code = (
        "import resource, sys; from pathlib import Path; from worldsim import storage; from worldsim.errors import StorageError\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (1000, {resource.RLIM_INFINITY}))\n"
        "try:\n    storage.write_json(Path(sys.argv[1]), 'x' * 100000)\n"
        "except StorageError as error:\n    print(error); sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert "Free space" in done.stdout
    assert storage.read_json(path) == {"kept": True}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_configs_are_rebuilt_with_their_types() -> None:
    made = Outer(name="a", inner=Inner(sizes=(3,)), stages=((2, 0.25), (4, 1.0)))
    assert storage.from_json(Outer, storage.to_json(made)) == made
    assert isinstance(storage.from_json(Outer, {"name": "a", "rate": 2}).rate, float)


@pytest.mark.parametrize("value", [{"name": 3}, {"name": "a", "rate": "x"}, {}, [], {"name": "a", "rate": True}])
def test_configs_of_the_wrong_type_are_refused(value: object) -> None:
    with pytest.raises(InvalidInputError):
        storage.from_json(Outer, value)


def test_an_unknown_field_gets_the_close_match() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'rate'"):
        storage.from_json(Outer, {"name": "a", "rat": 2})


def test_weights_are_strict_both_ways() -> None:
    model = torch.nn.Linear(2, 2)
    good = dict(model.state_dict())
    for bad in ({"weight": good["weight"]}, {**good, "more": good["bias"]}, {**good, "bias": torch.zeros(3)}):
        with pytest.raises(StorageError, match="do not fit Linear"):
            storage.load_weights(model, bad, source="here")


@pytest.mark.parametrize("opening", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [100, 200_000])
def test_json_that_nests_too_deeply_is_refused(tmp_path: Path, opening: str, depth: int) -> None:
    path = tmp_path / "deep.json"
    path.write_text(opening * depth + "1" + {"[": "]", '{"a":': "}"}[opening] * depth)
    with pytest.raises(StorageError, match="levels deep"):
        storage.read_json(path)


def test_json_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    with path.open("wb") as file:
        file.truncate(storage.MAX_JSON_BYTES + 1)
    with pytest.raises(StorageError, match="bytes"):
        storage.read_json(path)


@pytest.mark.parametrize("digests", [[], "x", 3, {"model.safetensors": 1}, {"../x": "0"}, {"/etc/passwd": "0"}])
def test_a_manifest_with_digests_of_the_wrong_type_is_refused(tmp_path: Path, digests: object) -> None:
    save(tmp_path / "f")
    storage.write_json(tmp_path / "f" / storage.MANIFEST, {"kind": "thing", "sha256": digests})
    with pytest.raises(StorageError, match=r"manifest\.json"):
        storage.load_folder(tmp_path / "f", kind="thing")


def test_weights_that_do_not_fit_on_the_disk_are_a_storage_error(tmp_path: Path) -> None:
    code = f"""
import resource, signal, torch
from pathlib import Path
from worldsim import storage
from worldsim.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    storage.save_folder(Path({str(tmp_path / "f")!r}), kind="thing", config={{}}, tensors={{"w": torch.ones(100_000)}})
except StorageError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("refused: Could not write folder"), done.stderr
    assert list(tmp_path.iterdir()) == []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    width: int = 3
    depth: int = 1


class Net(torch.nn.Module):
    def __init__(self, config: Sizes) -> None:
        super().__init__()
        layers = [torch.nn.Linear(config.width, config.width) for _ in range(config.depth)]
        self.layers = torch.nn.Sequential(*layers)
        self.register_buffer("scale", torch.tensor([1.0 / config.width]), persistent=False)


@pytest.mark.parametrize(
    "changed",
    [
        {"width": -3},
        {"width": -1},
        {"width": 0},
        {"width": 10**9},
        {"width": 10**30},
        {"width": 900_000},  # would fill the memory
        {"depth": 10**9},
        {"depth": 2},
    ],
)
def test_sizes_out_of_range_are_refused_before_anything_is_allocated(changed: dict[str, int]) -> None:
    weights = Net(Sizes()).state_dict()
    config = {"width": 3, "depth": 1, **changed}
    with pytest.raises((StorageError, InvalidInputError)):
        storage.build_module(lambda: Net(storage.from_json(Sizes, config)), weights, config=config, source="x")


def test_a_module_is_built_with_its_weights_and_its_buffers() -> None:
    net = Net(Sizes())
    again = storage.build_module(lambda: Net(Sizes()), net.state_dict(), config={"width": 3}, source="x")
    assert torch.equal(again.layers[0].weight, net.layers[0].weight)
    assert torch.equal(again.scale, net.scale) and again.scale.device.type == "cpu"


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.nn.ModuleList(torch.nn.Linear(2**10, 2**10) for _ in range(10**6)),
        lambda: torch.eye(2**20),
        lambda: torch.full((2**20, 2**20), 0.5),
        lambda: torch.zeros(size=(2**20, 2**20)),
        lambda: torch.randn([2**20, 2**20]),
    ],
)
def test_what_weights_do_not_fill_by_far_is_refused_before_it_is_allocated(make: Any) -> None:
    with pytest.raises(StorageError, match="far larger than its weights"):
        storage.build_module(make, {"0.weight": torch.zeros(3)}, config={}, source="x")


def test_loading_a_world_does_not_import_the_compiler() -> None:
    program = "import sys, worldsim.worlds as w; w.load_world('push').predictor.members(); print(*sys.modules)"
    imported = subprocess.check_output([sys.executable, "-c", program], text=True).split()
    assert "worldsim.worlds.latent" in imported and not {"torch._dynamo", "sympy", "scipy.stats"} & {*imported}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "a", "rate": float("nan")},
        {"name": "a", "rate": float("inf")},
        {"name": "a", "inner": {"sizes": 3}},
        {"name": "a", "inner": {"sizes": "12"}},
        {"name": "a", "inner": {"sizes": [10**40]}},
        {"name": "a", "stages": [[1]]},
        {"name": "a", "stages": [[1, 0.5, 2]]},
        {"name": "a", "stages": {}},
    ],
)
def test_configs_out_of_range_are_refused(value: object) -> None:
    with pytest.raises(InvalidInputError, match="Outer"):
        storage.from_json(Outer, value)
