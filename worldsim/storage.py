"""Folders of config.json + model.safetensors + manifest.json: written atomically, read strictly.

A folder is committed as a unit: it is built beside its final place, fsynced, and renamed, its manifest (sha256 of every
file) last.
"""

import functools
import hashlib
import json
import math
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from worldsim.errors import StorageError, WorldsimError
from worldsim.json_values import from_json as from_json
from worldsim.json_values import parse_json, shown
from worldsim.json_values import to_json as to_json

CONFIG, WEIGHTS, MANIFEST = "config.json", "model.safetensors", "manifest.json"
MAX_JSON_BYTES = 256 * 2**20
MAX_CONFIG_SIZE = 2**20
"""No size in the config of a model folder is larger: it is refused before anything is allocated for it."""
_AT_MOST, _ANY_MODEL = 4, 2**24
"""Numbers that building a model may take for each of its weights, and what it may take anyway."""
_FACTORIES = frozenset({torch.empty, torch.eye, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn})
_SETTLED_NS = 2 * 10**9  # a file that was changed later than this before may change again within one tick of its clock
_REPOSITORY = re.compile(r"(datasets|models|spaces)--")
_QUANTITIES = frozenset({"low", "high", "idle", "start"})  # of an action spec, which checks them; they are no sizes


def digest_bytes(data: bytes) -> str:
    """Return the sha256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal; of one that has not changed since, it is computed once per process."""
    found = path.stat()
    identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > _SETTLED_NS
    return (_digest_once if settled else _digest_once.__wrapped__)(path.absolute(), identity)


@functools.lru_cache(maxsize=2**14)
def _digest_once(path: Path, identity: tuple[int, ...]) -> str:
    """The sha256 of a file; a file of another identity is another one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside_folder(folder: Path, name: str) -> Path:
    """The file that a folder of somebody else's calls `name`; links are followed within the folder and the hub's own cache.

    In that cache (``datasets--OWNER--NAME/snapshots/REVISION``) every file is a link into the repository's ``blobs``.

    Args:
        folder: The folder, which may itself be reached by a link.
        name: A relative path; there may be no such file.

    Raises:
        StorageError: The name or a link leads out of the folder.
    """
    root = folder.resolve()
    found = Path(os.path.normpath(root / name))
    stores = [p.parent / "blobs" for p in root.parents if p.name == "snapshots" and _REPOSITORY.match(p.parent.name)]
    target = found.resolve()
    if not found.is_relative_to(root) or not any(target.is_relative_to(place) for place in (root, *stores[:1])):
        raise StorageError(f"{folder} names a file outside itself, {shown(name)}. Do not trust this folder.")
    return folder / name


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that it is either wholly there or not at all.

    Raises:
        StorageError: The disk is full or the place cannot be written; an earlier file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        fsync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise StorageError(
            f"Could not write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, atomically. NaN is refused."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        StorageError: The file is missing, is not JSON, or is larger or nested deeper than any that is written here.
    """
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise StorageError(
                f"{path} has {size} bytes; at most {MAX_JSON_BYTES} are read. Check where it comes from."
            )
        data = path.read_bytes()
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"Could not read {path}: {error.strerror or error}.") from error
    return parse_json(data, source=path)


@contextmanager
def folder_writer(path: Path) -> Iterator[Path]:
    """Build a folder aside and commit it as a unit.

    Yields:
        A temporary folder to fill. On normal exit a manifest is completed and the folder takes the place of `path`;
        on an exception nothing changes.

    Raises:
        StorageError: The folder could not be written.
    """
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        yield staging
        _seal(staging)
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        if path.exists():
            path.rename(old)
        staging.rename(path)
        fsync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except StorageError:
        raise
    except (OSError, SafetensorError) as error:  # safetensors reports a full disk as an error of its own
        reason = getattr(error, "strerror", None) or error
        raise StorageError(f"Could not write folder {path}: {reason}. Free space or choose another place.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def save_folder(
    path: Path,
    *,
    kind: str,
    config: Any,
    tensors: Mapping[str, Tensor],
    manifest: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write one model folder.

    Args:
        path: The folder; replaced as a unit if it exists.
        kind: What it holds, for example ``"world"``; checked on load.
        config: A dataclass (or JSON value) that rebuilds the object.
        tensors: Weights of any shape [...] by name; saved contiguous on the CPU.
        manifest: Provenance to keep: command, data digest, figures.
        files: Further files by name.
    """
    with folder_writer(path) as staging:
        write_json(staging / CONFIG, to_json(config))
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, staging / WEIGHTS)
        for name, data in (files or {}).items():
            write_bytes(staging / name, data)
        write_json(staging / MANIFEST, {**(manifest or {}), "kind": kind})


def load_folder(path: Path, *, kind: str) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """Read one model folder strictly.

    Returns:
        The config as JSON values, the tensors of any shape [...] by name, and the manifest.

    Raises:
        StorageError: The folder or a file is missing, of another kind, or does not match its manifest.
    """
    manifest = read_manifest(path, kind=kind)
    try:
        tensors = load_file(path / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise StorageError(
            f"{path / WEIGHTS} is not a readable safetensors file ({error}). Restore the folder."
        ) from error
    return read_json(path / CONFIG), tensors, manifest


def read_manifest(path: Path, *, kind: str) -> dict[str, Any]:
    """Check a folder against its manifest and return it.

    Raises:
        StorageError: Missing folder, missing or changed file, or another kind of folder.
    """
    if not path.is_dir():
        raise StorageError(f"There is no {kind} folder at {path}. Check the path, or make one with `worldsim train`.")
    manifest = read_json(path / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("kind") != kind:
        found = manifest.get("kind") if isinstance(manifest, dict) else None
        raise StorageError(f"{path} holds a {found!r} folder, expected {kind!r}. Give the path of a {kind} folder.")
    for name, expected in _digests(manifest, path).items():
        file = path / name
        if not file.is_file():
            raise StorageError(f"{file} is missing though the manifest lists it. Restore the folder.")
        if digest_file(file) != expected:
            raise StorageError(
                f"{file} does not match the sha256 in its manifest: it is corrupt or was edited. Restore it."
            )
    return manifest


def _digests(manifest: Mapping[str, Any], path: Path) -> dict[str, str]:
    """The sha256 of each file, as a manifest gives them."""
    digests = manifest.get("sha256", {})
    if not isinstance(digests, dict) or not all(isinstance(d, str) for d in digests.values()):
        raise StorageError(
            f"{path / MANIFEST}: sha256 maps file names to digests; got {shown(digests)}. Restore the manifest."
        )
    outside = [n for n in digests if Path(n).is_absolute() or ".." in Path(n).parts]
    if outside:
        raise StorageError(f"{path / MANIFEST} lists files outside its folder ({shown(outside[0])}). Restore it.")
    return digests


def folder_digest(path: Path) -> str:
    """Digest of a folder's content: the sha256 over the sorted (name, sha256) of its files, manifest aside."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)
    lines = [f"{p.relative_to(path).as_posix()} {digest_file(p)}" for p in files]
    return digest_bytes("\n".join(lines).encode())


def build_module[M: nn.Module](
    make: Callable[[], M], tensors: Mapping[str, Tensor], *, config: Any, source: object
) -> M:
    """Build a module from the config of a folder, and load its weights.

    A config that asks for far more memory than its weights fill is refused before that is allocated.

    Args:
        make: Builds the module from the config.
        tensors: Weights of any shape [...] by name.
        config: The config as JSON values, for checking its numbers.
        source: The folder, for messages.

    Raises:
        StorageError: A number is out of range, no module can be built from the config, or the weights do not fit.
    """
    check_sizes(config, source=source)
    try:
        with _Bounded(sum(t.numel() for t in tensors.values())), warnings.catch_warnings(action="ignore"):
            module = make()
    except WorldsimError:
        raise
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError, AssertionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(f"The config of {source} describes no model that can be built: {reason}.") from error
    load_weights(module, tensors, source=source)
    return module


class _Bounded(TorchFunctionMode):
    """Refuses to make tensors of far more numbers, all together, than weights hold.

    Building on the meta device would say as much, and costs every process a second: it imports torch's compiler.
    """

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.left = _AT_MOST * weights + _ANY_MODEL

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES:
            shape = kwargs.get("size", args)
            shape = shape[0] if shape and not isinstance(shape[0], int) else shape
            if func is torch.eye and len(shape) == 1:
                shape = shape * 2
            self.left -= math.prod(shape)
            if self.left < 0:
                raise MemoryError("it is far larger than its weights")
        return func(*args, **kwargs)


def check_sizes(config: Any, *, source: object) -> None:
    """Check that no size in the config of a model, any integer but actions' limits, is above `MAX_CONFIG_SIZE` or below -1.

    Args:
        config: JSON values, at any depth.
        source: Where they come from, for messages.

    Raises:
        StorageError: One is; the message names its key.
    """
    waiting: list[tuple[str, Any]] = [("", config)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += [(f"{key}.{k}".lstrip("."), v) for k, v in value.items() if k not in _QUANTITIES]
        elif isinstance(value, list | tuple):
            waiting += [(key, v) for v in value]
        elif isinstance(value, int) and not -1 <= value <= MAX_CONFIG_SIZE:
            raise StorageError(
                f"{key} of {source} is {shown(value)}; sizes of a model lie in -1..{MAX_CONFIG_SIZE}. Restore the folder."
            )


def check_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, source: object) -> None:
    """Check that weights [...] by name fit a module, with every key and shape accounted for, both ways.

    Raises:
        StorageError: Keys are missing or unexpected, or a shape differs; the message names them.
    """
    expected = module.state_dict()
    missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    shapes = [k for k in expected.keys() & tensors.keys() if expected[k].shape != tensors[k].shape]
    if missing or surplus or shapes:
        raise StorageError(
            f"Weights of {source} do not fit {type(module).__name__}: missing {missing[:5]}, unexpected {surplus[:5]}, "
            f"of another shape {sorted(shapes)[:5]}. The weights belong to another configuration."
        )


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, source: object) -> None:
    """Load weights strictly.

    Raises:
        StorageError: They do not fit; see `check_weights`.
    """
    check_weights(module, tensors, source=source)
    module.load_state_dict(dict(tensors), strict=True)


def _seal(folder: Path) -> None:
    """Complete the manifest with the digest of every other file, and flush all to disk."""
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    manifest["sha256"] = {p.relative_to(folder).as_posix(): digest_file(p) for p in files}
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    write_json(folder / MANIFEST, manifest)


def fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
