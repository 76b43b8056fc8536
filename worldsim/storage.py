"""Folders of config.json + model.safetensors + manifest.json: written atomically, read strictly.

A folder is committed whole: it is built beside its final place, fsynced, and renamed, its manifest (sha256 of every
file) last. Not for rollout databases (`worldsim.triage.engine.store`) or datasets (`worldsim.data`).
"""

import dataclasses
import hashlib
import json
import os
import shutil
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldsim.errors import InvalidInputError, StorageError, unknown_name

CONFIG, WEIGHTS, MANIFEST = "config.json", "model.safetensors", "manifest.json"


def digest_bytes(data: bytes) -> str:
    """Return the sha256 of `data`, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        _fsync_folder(path.parent)
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
        StorageError: The file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise StorageError(f"Could not read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise StorageError(f"{path} is not valid JSON ({error}). Restore it, or make it again.") from error


@contextmanager
def folder_writer(path: Path) -> Iterator[Path]:
    """Build a folder aside and commit it whole.

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
        _fsync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"Could not write folder {path}: {error.strerror or error}. Free space or choose another place."
        ) from error
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
        path: The folder; replaced whole if it exists.
        kind: What it holds, for example ``"world"``; checked on load.
        config: A dataclass (or JSON value) that rebuilds the object.
        tensors: Weights by name; saved contiguous on the CPU.
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
        The config as JSON values, the tensors, and the manifest.

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
    for name, expected in manifest.get("sha256", {}).items():
        file = path / name
        if not file.is_file():
            raise StorageError(f"{file} is missing though the manifest lists it. Restore the folder.")
        if digest_file(file) != expected:
            raise StorageError(
                f"{file} does not match the sha256 in its manifest: it is corrupt or was edited. Restore it."
            )
    return manifest


def folder_digest(path: Path) -> str:
    """Digest of a folder's content: the sha256 over the sorted (name, sha256) of its files, manifest aside."""
    files = sorted(p for p in path.rglob("*") if p.is_file() and p.name != MANIFEST)
    lines = [f"{p.relative_to(path).as_posix()} {digest_file(p)}" for p in files]
    return digest_bytes("\n".join(lines).encode())


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], *, source: object) -> None:
    """Load weights with every key and shape accounted for, both ways.

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
    module.load_state_dict(dict(tensors), strict=True)


def to_json(value: Any) -> Any:
    """Turn dataclasses, tuples, paths and mappings into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def from_json[T](cls: type[T], value: Any) -> T:
    """Rebuild a dataclass from JSON values, strictly.

    Raises:
        InvalidInputError: `value` is not a mapping, or a field is missing.
        UnknownNameError: A key is not a field; the closest field is named.
    """
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{cls.__name__} needs a mapping; got {type(value).__name__}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise unknown_name(f"field of {cls.__name__}", str(key), fields)
    try:
        return cls(**{k: _named(k, hints[k], v, cls) for k, v in value.items()})
    except TypeError as error:
        raise InvalidInputError(f"{cls.__name__} could not be built: {error}.") from error


def _named(name: str, hint: Any, value: Any, cls: type) -> Any:
    """Coerce one field; a value of the wrong type is reported with the field's name."""
    try:
        return _coerce(hint, value)
    except InvalidInputError as error:
        raise InvalidInputError(f"{cls.__name__}.{name}: {error}") from error


def _coerce(hint: Any, value: Any) -> Any:
    """Give lists back their tuple type and mappings their dataclass."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [h for h in typing.get_args(hint) if h is not type(None)]
        return value if value is None or len(inner) != 1 else _coerce(inner[0], value)
    if typing.get_origin(hint) is tuple and isinstance(value, list):
        inner = [h for h in typing.get_args(hint) if h is not Ellipsis]
        return tuple(
            _coerce(inner[0] if len(inner) == 1 or i >= len(inner) else inner[i], v) for i, v in enumerate(value)
        )
    if hint in (int, float, str, bool) and not _is_a(hint, value):
        raise InvalidInputError(f"Expected {hint.__name__}; got {value!r}.")
    if hint is float:
        return float(value)
    return Path(value) if hint is Path else value


def _is_a(hint: Any, value: Any) -> bool:
    """Whether a JSON value is of a scalar type; whole numbers pass as float, true and false never as numbers."""
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _seal(folder: Path) -> None:
    """Complete the manifest with the digest of every other file, and flush all to disk."""
    manifest = read_json(folder / MANIFEST) if (folder / MANIFEST).exists() else {}
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    manifest["sha256"] = {p.relative_to(folder).as_posix(): digest_file(p) for p in files}
    for file in files:
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    write_json(folder / MANIFEST, manifest)


def _fsync_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
