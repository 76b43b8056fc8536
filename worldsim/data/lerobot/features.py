"""What the features of a recording are read as: which cameras, and which columns make the actions and the state.

Recordings differ: cameras that are depth maps or whose files were left behind, shapes with the channels first, no `action` but
several `action.*`. What is left out or joined is said in notes, in words for people.

Shape legend: H W image, A action.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from worldsim.actions import ActionSpec
from worldsim.arrays import Float64s
from worldsim.core import IMAGES, Camera, is_image
from worldsim.errors import InvalidInputError, StorageError, unknown_name

Features = Mapping[str, Mapping[str, Any]]
"""The `features` of info.json, by name."""
_NUMBERS = ("float", "int", "uint", "bool")
_CHANNELS = (1, 3, 4)
_SINGULAR = "observation.image."


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vector:
    """Columns that are joined into one vector, in order.

    Attributes:
        names: The features.
        widths: Numbers of each in a row; None where info.json does not say.
    """

    names: tuple[str, ...]
    widths: tuple[int | None, ...]


def find_cameras(
    features: Features,
    own: Mapping[str, Any],
    wanted: Sequence[str] | None,
    *,
    absent: Callable[[str], bool],
    path: Path,
) -> tuple[dict[str, Camera], list[str]]:
    """The cameras to read, by the names of their features, and notes on those that are left out.

    Args:
        features: Of info.json.
        own: What worldsim noted of each camera where it wrote the folder, by key, in its order.
        wanted: Names of features or the last parts of them; None for all that can be read.
        absent: Whether a camera's files are missing.
        path: The dataset, for messages.

    Raises:
        UnknownNameError: There is no such camera.
        InvalidInputError: There is no camera that can be read, or one that cannot is asked for, or one twice.
    """
    names = [name for name, feature in features.items() if feature.get("dtype") in ("image", "video")]
    if not names:
        raise InvalidInputError(f"{path} has no image or video feature, only {', '.join(features)}.")
    names.sort(key=lambda name: list(own).index(name) if name in own else len(own))
    chosen = names if wanted is None else _matches("camera", names, wanted)
    why = {name: _unreadable(features[name], name, absent) for name in chosen}
    readable = [name for name in chosen if not why[name]]
    if not readable or (wanted is not None and len(readable) < len(chosen)):
        reasons = "; ".join(f"{name} {reason}" for name, reason in why.items() if reason)
        raise InvalidInputError(
            f"{path}: {reasons}. Give cameras=[...] of those that can be read, or restore the files."
        )
    notes = [f"Camera {name} {reason}: it is left out." for name, reason in why.items() if reason]
    found = {name: _camera(name, features[name], own.get(name, {})) for name in readable}
    shared = [key for key, count in Counter(camera.key for camera in found.values()).items() if count > 1]
    if shared:
        raise InvalidInputError(f"{path} has several cameras that stand for {shared[0]!r}: choose with cameras=[...].")
    return found, notes


def _unreadable(feature: Mapping[str, Any], name: str, absent: Callable[[str], bool]) -> str:
    """Why a camera cannot be read; empty where it can."""
    about: dict[str, Any] = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    if about.get("is_depth_map") or about.get("video.is_depth_map"):
        return "is a depth map, which has no colours"
    return "has no video files in the folder" if feature["dtype"] == "video" and absent(name) else ""


def _camera(name: str, feature: Mapping[str, Any], own: Mapping[str, Any]) -> Camera:
    """Name, size and intrinsics of a camera."""
    height, width = image_size(feature)
    intrinsics = own.get("intrinsics")
    return Camera(
        key=name if is_image(name) else IMAGES + name.removeprefix(_SINGULAR),
        height=height,
        width=width,
        intrinsics=None if intrinsics is None else tuple((float(a), float(b), float(c)) for a, b, c in intrinsics),
    )


def image_size(feature: Mapping[str, Any]) -> tuple[int, int]:
    """H, W of a camera: where its names say, else where no number of channels stands; LeRobot's own order is H, W, channels.

    Raises:
        ValueError: The shape is not one of three numbers.
    """
    shape = [int(n) for n in feature["shape"]]
    if len(shape) != 3:
        raise ValueError(f"an image shape of 3 numbers; it has {shape}")
    named = feature.get("names")
    names = [str(n).lower() for n in named] if isinstance(named, list) and len(named) == 3 else []
    for height, width in (("height", "width"), ("h", "w")):
        if height in names and width in names:
            return shape[names.index(height)], shape[names.index(width)]
    first = shape[0] in _CHANNELS and shape[2] not in _CHANNELS
    return (shape[1], shape[2]) if first or (names and names[0].startswith("c")) else (shape[0], shape[1])


def find_vector(
    features: Features, base: str, wanted: Sequence[str] | None, *, setting: str, path: Path
) -> tuple[Vector | None, list[str]]:
    """The columns that make a vector, and a note where several are joined without being asked for.

    Args:
        features: Of info.json.
        base: The feature that is read where it is there; else all numbers below it, ``base.*``, in the order of info.json.
        wanted: Names of features, or the last parts of them, to join in this order instead; None for the default.
        setting: What the caller's setting is called, for messages.
        path: The dataset, for messages.

    Returns:
        None where there is no such feature.

    Raises:
        UnknownNameError: There is no such feature.
        InvalidInputError: A feature is named twice or holds no numbers.
    """
    notes = list[str]()
    numbers = [name for name, f in features.items() if str(f.get("dtype")).startswith(_NUMBERS)]
    if wanted is not None:
        names = _matches(setting, numbers, wanted)
    elif base in features:
        names = _matches(setting, numbers, [base])
    else:
        names = [name for name in numbers if name.startswith(base + ".")]
        notes = [
            f"There is no feature {base!r}: {setting} = [{', '.join(names)}], joined in this order. Choose others with "
            f"{setting}=[...]."
        ]
    if not names:
        return None, []
    return Vector(names=tuple(names), widths=tuple(_width(features[name]) for name in names)), notes


def fill_widths(vector: Vector, table: Callable[[list[str]], pa.Table]) -> Vector:
    """The same vector with the widths that info.json leaves open, as the first row of the data has them.

    Args:
        vector: What is read.
        table: Reads columns of the first data file.
    """
    if None not in vector.widths:
        return vector
    row = table([name for name, width in zip(vector.names, vector.widths, strict=True) if width is None]).slice(0, 1)
    seen = {name: np.size(row[name][0].as_py()) for name in row.column_names if row.num_rows}
    widths = zip(vector.names, vector.widths, strict=True)
    return dataclasses.replace(vector, widths=tuple(width or seen.get(name) for name, width in widths))


def _width(feature: Mapping[str, Any]) -> int | None:
    """Numbers in a row; None where the shape is written as []."""
    shape = [int(n) for n in feature["shape"]]
    return math.prod(shape) if shape else None


def _matches(what: str, names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The features meant by `wanted`, each a full name or the last part of one."""
    chosen = []
    for given in wanted:
        matches = [n for n in names if given == n] or [n for n in names if given == n.rpartition(".")[2]]
        if len(matches) != 1:
            raise unknown_name(what, given, names)
        chosen += matches
    if not chosen or len(set(chosen)) != len(chosen):
        raise InvalidInputError(
            f"Each {what} must be named once; got {list(wanted)}. There are {', '.join(names)}."
            if what != "camera"
            else f"Cameras must be named once each; got {list(wanted)}. There are {', '.join(names)}."
        )
    return chosen


def action_spec(
    vector: Vector,
    features: Features,
    stats: Mapping[str, Any],
    tables: Callable[[Sequence[str]], Iterable[pa.Table]],
    *,
    rate_hz: float,
) -> tuple[ActionSpec, list[str]]:
    """Names and limits of recorded actions: limits from the statistics where they are there and finite, else from the data.

    Args:
        vector: Where they are.
        features: Of info.json.
        stats: Of stats.json; may be empty.
        tables: Reads columns of all data files.
        rate_hz: Actions per second.

    Raises:
        StorageError: The data holds no finite action.
        InvalidInputError: A limit is unreasonable.
    """
    names, low, high = list[str](), list[float](), list[float]()
    for name, width in zip(vector.names, vector.widths, strict=True):
        limits = _stated(stats.get(name), width)
        if limits is None:
            limits = _seen(tables([name]), name, width)
        labels = _flat_names(features[name].get("names"))
        if len(set(labels)) != len(limits[0]) or len(labels) != len(limits[0]):
            short = name.rpartition(".")[2]
            labels = (
                [short]
                if len(vector.names) > 1 and len(limits[0]) == 1
                else [f"{short}_{i}" for i in range(len(limits[0]))]
            )
        names += labels
        low, high = [*low, *limits[0]], [*high, *limits[1]]
    if len(set(names)) < len(names):
        names = [f"action_{i}" for i in range(len(names))]
    still = [lo >= hi for lo, hi in zip(low, high, strict=True)]
    notes = [f"Action {name} is always {value:g}." for name, value, s in zip(names, low, still, strict=True) if s]
    spec = ActionSpec(
        names=tuple(names),
        units=("unknown",) * len(names),
        low=tuple(lo - 0.5 * s for lo, s in zip(low, still, strict=True)),
        high=tuple(hi + 0.5 * s for hi, s in zip(high, still, strict=True)),
        rate_hz=rate_hz,
    )
    return spec, notes


def _stated(stats: Any, width: int | None) -> tuple[list[float], list[float]] | None:
    """Limits by the statistics, where they are of use."""
    try:
        low, high = (np.ravel(np.array(stats[k], np.float64)) for k in ("min", "max"))
    except (KeyError, TypeError, ValueError):
        return None
    fits = len(low) == len(high) == (width or len(low)) > 0
    return (low.tolist(), high.tolist()) if fits and np.isfinite([low, high]).all() else None


def _seen(tables: Iterable[pa.Table], name: str, width: int | None) -> tuple[list[float], list[float]]:
    """Limits of a column's finite rows; rows of another width are left to the episodes that hold them."""
    ranges: dict[int, list[Float64s]] = {}
    count = Counter[int]()
    for rows in (part for table in tables for part in _rectangles(table[name])):
        finite = rows[np.isfinite(rows).all(1)]
        if len(finite):
            count[rows.shape[1]] += len(finite)
            ranges.setdefault(rows.shape[1], []).append(np.stack([finite.min(0), finite.max(0)]))
    usual = width or next(iter(max(count.items(), key=lambda item: item[1], default=(0,))))
    if usual not in ranges:
        raise StorageError(f"No row of the data holds a finite {name!r}" + (f" of {width} numbers." if width else "."))
    found = np.array(ranges[usual])
    return found[:, 0].min(0).tolist(), found[:, 1].max(0).tolist()


def stored(column: pa.ChunkedArray) -> pa.Array:
    """A column as lists and numbers; matrices become extension types where a process has imported `datasets`."""
    array = column.combine_chunks()
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array


def _rectangles(column: pa.ChunkedArray) -> Iterator[Float64s]:
    """The filled rows of a column, as [rows, width] for each width."""
    array = stored(column).drop_null()
    if not pa.types.is_nested(array.type):
        yield array.cast(pa.float64()).to_numpy(zero_copy_only=False)[:, None]
        return
    rows = [np.ravel(np.array(row, np.float64)) for row in array.to_pylist()]
    for width in {len(row) for row in rows}:
        yield np.array([row for row in rows if len(row) == width])


def _flat_names(names: Any) -> list[str]:
    """Names come as a list, or as lists by group."""
    if isinstance(names, dict):
        return [n for group in names.values() for n in _flat_names(group)]
    return [str(n) for n in names] if isinstance(names, list) else []
