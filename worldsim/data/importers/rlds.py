"""RLDS folders, as Open X-Embodiment publishes them: TFRecord files with an episode per record beside features.json.

Which fields there are, and their shapes, stands in features.json; a step's field of all T steps is one flat list in the
episode's record (TFDS's layout). Pictures are PNG or JPEG inside the record.

Shape legend: T rows, H W image, W width of a field.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldsim import storage
from worldsim.arrays import Bytes, Float32s
from worldsim.data.importers.convert import ImportOptions, SourceEpisode, check_size
from worldsim.data.importers.tfrecord import Feature, parse_example, read_records
from worldsim.errors import InvalidInputError, StorageError, unknown_name
from worldsim.json_values import shown
from worldsim.video import decode_image

FEATURES, INFO = "features.json", "dataset_info.json"
RATES_HZ: Mapping[str, float] = {
    "bridge": 5,
    "bridge_dataset": 5,
    "droid": 15,
    "droid_100": 15,
    "fractal20220817_data": 3,
    "language_table": 10,
}
"""Rows per second of data sets whose rate is published, since RLDS does not record it."""
_WIDEST = 64
"""Numbers of a field that is taken for proprioception unasked; embeddings are wider."""
_STEPS = "steps/"
_SHARD = re.compile(r"-(?P<split>[^-]+)\.tfrecord-(?P<index>\d{5,})-of-(?P<count>\d{5,})$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a step.

    Attributes:
        name: Its path, for example ``"observation/image_0"``.
        kind: ``"number"``, ``"image"`` or ``"text"``.
        shape: Of one step; of a picture it is not relied on.
        dtype: As features.json has it.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def width(self) -> int:
        """Numbers of one step."""
        return math.prod(self.shape)


class RldsSource:
    """An RLDS folder; attributes as `worldsim.data.importers.convert.Source`.

    Args:
        path: The folder with features.json, or one above it.
        options: What to take.

    Raises:
        StorageError: There is no such folder, a file is missing, or features.json is damaged.
        InvalidInputError: There are several versions, or fields that cannot be taken are named.
        UnknownNameError: There is no such field; those that there are are listed.
    """

    def __init__(self, path: Path, options: ImportOptions) -> None:
        self.folder = find_rlds(path)
        tree = storage.read_json(self.folder / FEATURES)
        self.fields = {f.name: f for f in _fields(tree, "", self.folder / FEATURES) if f.name.startswith(_STEPS)}
        self.fields = {
            f.name: f for f in (dataclasses.replace(f, name=f.name.removeprefix(_STEPS)) for f in self.fields.values())
        }
        self.action = self._choose("action", options.action, _default_action(self.fields))
        self.state = self._choose("state", options.state, _default_state(self.fields))
        images = sorted(f.name for f in self.fields.values() if f.kind == "image" and f.dtype == "uint8")
        self._images = {n.removeprefix("observation/"): n for n in images}
        self.cameras = tuple(_named("camera", name, self._images) for name in options.cameras) or tuple(self._images)
        self.task_field = next((n for n in _task_names(self.fields)), None)
        self.files, shard_notes = _files(self.folder)
        self.identity = {f.name: f.stat().st_size for f in self.files}
        name = _dataset_name(self.folder)
        self.rate_hz = RATES_HZ.get(name)
        self.action_names = _names(self.action)
        published = (
            f"{name} is known to have {self.rate_hz:g} rows a second; --rate says otherwise." if self.rate_hz else ""
        )
        self.notes = tuple(filter(None, (*self._describe(), *shard_notes, published if not options.rate_hz else "")))

    def _choose(self, what: str, given: Sequence[str], default: Sequence[Field]) -> tuple[Field, ...]:
        numbers = {f.name: f for f in self.fields.values() if f.kind == "number" and len(f.shape) < 2}
        chosen = tuple(numbers[_named(f"{what} field", name, numbers)] for name in given) or tuple(default)
        if not chosen and what == "action":
            raise InvalidInputError(f"{self.folder} has no action field; name one of {', '.join(numbers)} by --action.")
        return chosen

    def _describe(self) -> Iterator[str]:
        """What is joined in which order."""
        for what, fields in (("action", self.action), ("state", self.state)):
            parts = " + ".join(f"{f.name}[{f.width}]" for f in fields)
            yield f"{what.capitalize()}: {parts or 'none, one zero instead'}."
        yield f"Task: {self.task_field}." if self.task_field else "Task: none is recorded."
        left = [f.name for f in self.fields.values() if f.kind == "image" and f.dtype != "uint8"]
        if left:
            yield f"Pictures that are not 8-bit colour are left out: {', '.join(left)}."

    def read(self) -> Iterator[SourceEpisode]:
        """The episodes in order of files and records; rows [T, ...] as `SourceEpisode` says."""
        for file in self.files:
            number = -1
            for number, record in enumerate(read_records(file)):
                where = f"{file.name} record {number}"
                yield self._episode(parse_example(record, source=where), where)
            promised = _promised(self.folder, file)
            if promised is not None and promised != number + 1:
                raise StorageError(f"{file} holds {number + 1} episodes; {INFO} says {promised}. Download it again.")

    def _episode(self, example: dict[str, Feature], where: str) -> SourceEpisode:
        rows = _rows(example, self.action[0], where)
        reward = self.fields.get("reward")
        cells = example.get(_STEPS + self.task_field) if self.task_field else None
        text = cells[0].decode("utf8", errors="replace") if isinstance(cells, list) and cells else ""
        return SourceEpisode(
            name=where,
            action=_joined(example, self.action, rows, where),
            state=_joined(example, self.state, rows, where) if self.state else np.zeros((rows, 1), np.float32),
            reward=None if reward is None else _joined(example, [reward], rows, where)[:, 0],
            task=text,
            absent=frozenset(n for n in self.cameras if _is_blank(example, self._images[n], where)),
            pictures=functools.partial(_pictures, example, self._images, rows, where),
        )


def find_rlds(path: Path) -> Path:
    """The folder with features.json at `path` or up to two levels below it.

    Raises:
        StorageError: There is none.
        InvalidInputError: There are several; they are listed.
    """
    found = sorted(file.parent for pattern in ("", "*/", "*/*/") for file in path.glob(f"{pattern}{FEATURES}"))
    if len(found) > 1:
        listed = ", ".join(str(f.relative_to(path)) for f in found[:8])
        raise InvalidInputError(f"{path} holds several RLDS datasets: {listed}. Give the folder of one.")
    if not found:
        raise StorageError(
            f"{path} holds no {FEATURES}, which every RLDS folder has. Give the folder of a version (1.0.0)."
        )
    return found[0]


def _fields(node: Any, name: str, source: Path) -> Iterator[Field]:
    """Every field of a tree of features, depth first, in the file's order."""
    if not isinstance(node, Mapping):
        raise StorageError(f"{source} holds {shown(node)} where a feature is expected. Restore it.")
    if "featuresDict" in node or "sequence" in node:
        below = node.get("featuresDict", {}).get("features", {}) if "featuresDict" in node else None
        if below is None:
            yield from _fields(node["sequence"].get("feature"), name, source)
            return
        for key, value in below.items():
            yield from _fields(value, f"{name}/{key}" if name else str(key), source)
        return
    for kind, key in (("number", "tensor"), ("image", "image"), ("text", "text")):
        if key in node:
            yield _field(node[key], name, kind, source)
            return
    if "content" in node or "type" in node:
        raise StorageError(
            f"{source} is of an older TFDS (before 4.5), which is not read. Prepare it again with a newer one."
        )


def _field(leaf: Any, name: str, kind: str, source: Path) -> Field:
    try:
        shape = tuple(int(n) for n in leaf.get("shape", {}).get("dimensions", ()))
        if leaf.get("encoding", "none") not in ("none", "ENCODING_UNSPECIFIED", "NONE"):
            kind = "encoded"
        dtype = str(leaf.get("dtype", ""))
    except (AttributeError, TypeError, ValueError) as error:
        raise StorageError(f"{source}: the shape of {name} is {shown(leaf)}. Restore it.") from error
    if kind == "number" and (dtype == "string" or any(n < 1 for n in shape) or math.prod(shape) > 1 << 24):
        kind = "text" if dtype == "string" else "encoded"
    return Field(name=name, kind=kind, shape=shape, dtype=dtype)


def _default_action(fields: Mapping[str, Field]) -> list[Field]:
    """`action`, or all of `action/`."""
    return [f for n, f in fields.items() if (n == "action" or n.startswith("action/")) and _is_vector(f)]


def _default_state(fields: Mapping[str, Field]) -> list[Field]:
    """`observation/state`, or every small vector of floats of the observation."""
    if "observation/state" in fields and _is_vector(fields["observation/state"]):
        return [fields["observation/state"]]
    small = [f for n, f in fields.items() if n.startswith("observation/") and _is_vector(f) and f.width <= _WIDEST]
    return [f for f in small if f.dtype.startswith("float") and "embedding" not in f.name]


def _is_vector(field: Field) -> bool:
    return field.kind == "number" and len(field.shape) < 2


def _task_names(fields: Mapping[str, Field]) -> Iterator[str]:
    """Text fields that say what is to be done, the likeliest first."""
    wanted = ("language_instruction", "observation/natural_language_instruction", "natural_language_instruction")
    yield from (n for n in wanted if n in fields and fields[n].kind == "text")


def _named(what: str, given: str, names: Mapping[str, Any]) -> str:
    """The full name of a field that is given by its name or last part."""
    matches = [n for n in names if n == given] or [n for n in names if n.rpartition("/")[2] == given]
    if len(matches) != 1:
        raise unknown_name(what, given, names)
    return matches[0]


def _names(fields: Sequence[Field]) -> tuple[str, ...]:
    """A name for every number of some fields; their last parts where those differ."""
    short = [f.name.rpartition("/")[2] for f in fields]
    stems = short if len(set(short)) == len(short) else [f.name for f in fields]
    return tuple(
        n for s, f in zip(stems, fields, strict=True) for n in ([s] if f.width == 1 else _numbered(s, f.width))
    )


def _numbered(stem: str, width: int) -> list[str]:
    return [f"{stem}_{i}" for i in range(width)]


def _dataset_name(folder: Path) -> str:
    info = storage.read_json(folder / INFO) if (folder / INFO).exists() else {}
    return str(info.get("name", "")) if isinstance(info, Mapping) else ""


def _files(folder: Path) -> tuple[list[Path], list[str]]:
    """The TFRecord files in order of their names, and which splits and files of splits are not there, in sentences."""
    files = sorted(p for p in folder.iterdir() if ".tfrecord" in p.name and p.is_file())
    if not files:
        raise StorageError(f"{folder} holds no .tfrecord file. Download the data beside {FEATURES}.")
    shards: dict[tuple[str, int], set[int]] = {}
    for file in files:
        match = _SHARD.search(file.name)
        if match:
            shards.setdefault((match["split"], int(match["count"])), set()).add(int(match["index"]))
    notes = [
        f"Split {split}: {len(there)} of {count} files are here; the others are left out."
        for (split, count), there in shards.items()
        if len(there) < count
    ]
    absent = sorted({str(s.get("name")) for s in _splits(folder)} - {split for split, _ in shards})
    return files, [*notes, *(f"Split {s} is named in {INFO} and has no file: left out." for s in absent if shards)]


def _splits(folder: Path) -> list[Mapping[str, Any]]:
    info = storage.read_json(folder / INFO) if (folder / INFO).exists() else {}
    splits = info.get("splits", []) if isinstance(info, Mapping) else []
    return [s for s in splits if isinstance(s, Mapping)] if isinstance(splits, list) else []


def _promised(folder: Path, file: Path) -> int | None:
    """How many episodes dataset_info.json says that a file holds; None where it does not say."""
    match = _SHARD.search(file.name)
    for split in _splits(folder) if match else ():
        lengths = split.get("shardLengths")
        if match and split.get("name") == match["split"] and isinstance(lengths, list):
            index = int(match["index"])
            if index < len(lengths) and str(lengths[index]).isdecimal():
                return int(lengths[index])
    return None


def _rows(example: Mapping[str, Feature], field: Field, where: str) -> int:
    """T of an episode, from one of its fields."""
    values = example.get(_STEPS + field.name)
    if values is None or isinstance(values, list) or not len(values) or len(values) % field.width:
        count = "none" if values is None else str(len(values))
        raise StorageError(f"{where}: {field.name} has {count} numbers, expected rows of {field.width}.")
    return len(values) // field.width


def _joined(example: Mapping[str, Feature], fields: Sequence[Field], rows: int, where: str) -> Float32s:
    """Fields side by side, float32 [T, W]."""
    parts = []
    for field in fields:
        values = example.get(_STEPS + field.name)
        if values is None or isinstance(values, list) or len(values) != rows * field.width:
            count = "none" if values is None else str(len(values))
            raise StorageError(f"{where}: {field.name} has {count} numbers, expected {rows} rows of {field.width}.")
        parts.append(values.reshape(rows, field.width).astype(np.float32))
    return np.concatenate(parts, axis=1)


def _is_blank(example: Mapping[str, Feature], image: str, where: str) -> bool:
    """Whether a camera has no pictures in an episode, or one picture of one colour, which stands for none.

    Flags such as has_image_0 of the episode's metadata are not asked: published data has them wrong.
    """
    cells = example.get(_STEPS + image)
    if not isinstance(cells, list) or not cells:
        return True
    return cells[0] == cells[-1] and not np.ptp(decode_image(cells[0], source=f"{where}: {image}"), axis=(0, 1)).any()


def _pictures(example: Mapping[str, Feature], images: Mapping[str, str], rows: int, where: str, name: str) -> Bytes:
    """Frames of one camera, uint8 [T, H, W, 3]."""
    cells = example.get(_STEPS + images[name])
    if not isinstance(cells, list) or len(cells) != rows:
        count = len(cells) if isinstance(cells, list) else "no"
        raise StorageError(f"{where}: {name} has {count} pictures for {rows} rows. Download it again.")
    first = decode_image(cells[0], source=f"{where}: {name}")
    check_size((rows, *first.shape), where=f"{where}: {name}")
    frames = np.empty((rows, *first.shape), np.uint8)
    for number, cell in enumerate(cells):
        frame = decode_image(cell, source=f"{where}: {name} row {number}")
        if frame.shape != first.shape:
            raise StorageError(
                f"{where}: {name} is {frame.shape[:2]} pixels in row {number}, before {first.shape[:2]}."
            )
        frames[number] = frame
    return frames
