"""Reads and checks the `meta/` folder of any LeRobotDataset v3.0: version, cameras, actions, tasks, episodes.

Shape legend: H W image, A action.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.core import IMAGES, Camera, is_image
from worldsim.data.lerobot import format as layout
from worldsim.errors import InvalidInputError, StorageError, unknown_name

_FIELD = re.compile(r"\{(video_key|(chunk|file)_index(:0?\d{1,2}d)?)\}")
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What `meta/` says.

    Attributes:
        path: The dataset's folder.
        cameras: What is read, the main camera first. A key is the feature's name; a feature that has no observation key
            of LeRobot's is known as ``observation.images.NAME``.
        features: The feature of each camera, by key.
        action: Meaning of the actions.
        tasks: Sentences by task index.
        task_id: Gymnasium id, or empty.
        success_at: When an episode counts as solved.
        dreamed_by: Name of the learned world that drew the frames, or empty.
        data_path: Template of data files.
        video_path: Template of video files.
        videos: Keys of the cameras whose frames are video files; others' are pictures inside the data files.
        rows: One mapping per episode, in order, without statistics.
    """

    path: Path
    cameras: tuple[Camera, ...]
    features: Mapping[str, str]
    action: ActionSpec
    tasks: Mapping[int, str]
    task_id: str
    success_at: Literal["end", "any"]
    dreamed_by: str
    data_path: str
    video_path: str
    videos: frozenset[str]
    rows: tuple[dict[str, Any], ...]


def read_contents(path: Path, cameras: Sequence[str] | None) -> Contents:
    """Read and check `meta/`; errors as `worldsim.data.lerobot.read.open_dataset`."""
    if not path.is_dir():
        raise StorageError(
            f"There is no dataset folder at {path}. Check the path, or make one with `worldsim collect`."
        )
    info = _info(path)
    try:
        features = dict(info["features"])
        extra = storage.read_json(path / layout.EXTRA)["spec"] if (path / layout.EXTRA).exists() else {}
        found = _cameras(features, extra, path)
        chosen = _chosen(list(found), cameras)
        action = extra.get("action")
        return Contents(
            path=path,
            cameras=tuple(found[name] for name in chosen),
            features={found[name].key: name for name in chosen},
            action=storage.from_json(ActionSpec, action) if action else _seen_actions(path, info, features),
            tasks=_tasks(path),
            task_id=str(extra.get("task_id", "")),
            success_at="any" if extra.get("success_at") == "any" else "end",
            dreamed_by=str(extra.get("dreamed_by", "")),
            data_path=_template(info, "data_path", layout.DATA_PATH),
            video_path=_template(info, "video_path", layout.VIDEO_PATH),
            videos=frozenset(found[name].key for name in chosen if features[name]["dtype"] == "video"),
            rows=_rows(path),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InvalidInputError | LookupError) and not isinstance(error, KeyError):
            raise
        raise StorageError(f"{path / layout.INFO} lacks or misstates {error}. Restore meta/.") from error


def _info(path: Path) -> dict[str, Any]:
    """The content of info.json, of the right version."""
    info = storage.read_json(path / layout.INFO)
    version = str(info.get("codebase_version", "")) if isinstance(info, dict) else ""
    if version.startswith(("v2", "v1")):
        raise StorageError(
            f"{path} is a LeRobotDataset {version}; worldsim reads {layout.VERSION}. Convert it: {CONVERTER} "
            f"--repo-id=NAME --root={path}"
        )
    if version.split(".")[0] != layout.VERSION.split(".")[0]:
        raise StorageError(
            f"{path} has dataset version {version!r}; worldsim reads {layout.VERSION}. Give such a folder."
        )
    return dict(info)


def _cameras(features: dict[str, Any], extra: dict[str, Any], path: Path) -> dict[str, Camera]:
    """Every camera by the name of its feature; worldsim's own order where it wrote the folder."""
    names = [k for k, f in features.items() if f.get("dtype") in ("image", "video")]
    if not names:
        raise InvalidInputError(f"{path} has no image or video feature, only {', '.join(features)}.")
    if layout.ACTION not in features:
        raise InvalidInputError(f"{path} has no {layout.ACTION!r} feature, only {', '.join(features)}.")
    own = {c["key"]: c for c in extra.get("cameras", [])}
    names.sort(key=lambda name: list(own).index(name) if name in own else len(own))
    found = {}
    for name in names:
        height, width = _image_size(features[name])
        intrinsics = own.get(name, {}).get("intrinsics")
        found[name] = Camera(
            key=name if is_image(name) else IMAGES + name,
            height=height,
            width=width,
            intrinsics=None if intrinsics is None else tuple((float(a), float(b), float(c)) for a, b, c in intrinsics),
        )
    return found


def _chosen(names: list[str], wanted: Sequence[str] | None) -> list[str]:
    """The features meant by `wanted`, each a full name or the last part of one; all of them for None."""
    if wanted is None:
        return names
    chosen = []
    for given in wanted:
        matches = [n for n in names if given == n] or [n for n in names if given == n.rpartition(".")[2]]
        if len(matches) != 1:
            raise unknown_name("camera", given, names)
        chosen += matches
    if not chosen or len(set(chosen)) != len(chosen):
        raise InvalidInputError(f"Cameras must be named once each; got {list(wanted)}. There are {', '.join(names)}.")
    return chosen


def _image_size(feature: dict[str, Any]) -> tuple[int, int]:
    """H, W; shapes are HWC, or CHW where the names say so."""
    shape, names = [int(n) for n in feature["shape"]], feature.get("names") or []
    if len(shape) != 3:
        raise ValueError(f"an image shape of 3 numbers; it has {shape}")
    first = str(names[0]) if isinstance(names, list) and names else ""
    return (shape[1], shape[2]) if first.startswith("channel") else (shape[0], shape[1])


def _seen_actions(path: Path, info: dict[str, Any], features: dict[str, Any]) -> ActionSpec:
    """A spec from the range of the data."""
    width = math.prod(int(n) for n in features[layout.ACTION]["shape"])
    stats = storage.read_json(path / layout.STATS)[layout.ACTION]
    low, high = [[float(x) for x in stats[k]] for k in ("min", "max")]
    if not len(low) == len(high) == width:
        raise ValueError(f"action statistics of {width} numbers; there are {len(low)}")
    names = _flat_names(features[layout.ACTION].get("names"))
    if len(set(names)) != width or len(names) != width:
        names = [f"action_{i}" for i in range(width)]
    still = [lo >= hi for lo, hi in zip(low, high, strict=True)]
    return ActionSpec(
        names=tuple(names),
        units=("unknown",) * width,
        low=tuple(lo - 0.5 * s for lo, s in zip(low, still, strict=True)),
        high=tuple(hi + 0.5 * s for hi, s in zip(high, still, strict=True)),
        rate_hz=float(info["fps"]),
    )


def _flat_names(names: Any) -> list[str]:
    """Names come as a list, or as lists by group."""
    if isinstance(names, dict):
        return [n for group in names.values() for n in _flat_names(group)]
    return [str(n) for n in names] if isinstance(names, list) else []


def _template(info: dict[str, Any], key: str, default: str) -> str:
    """A path template with the known fields only."""
    template = str(info.get(key) or default)
    if set("{}") & set(_FIELD.sub("", template)):
        raise ValueError(f"{key}: {template!r} has unknown fields")
    return template


def _tasks(path: Path) -> dict[int, str]:
    """Sentences by task index."""
    if not (path / layout.TASKS).exists():
        return {}
    rows = _parquet(path / layout.TASKS).to_pylist()
    found = {int(r["task_index"]): str(r.get("task") or r.get("__index_level_0__") or "") for r in rows}
    return dict(sorted(found.items()))


def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    """Every episode's row, in order."""
    files = sorted((path / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise StorageError(
            f"{path / 'meta' / 'episodes'} holds no parquet file. Restore meta/, or finish the recording."
        )
    rows: list[dict[str, Any]] = []
    for file in files:
        names = [n for n in _names(file) if not n.startswith("stats/")]
        rows += _parquet(file, columns=names).to_pylist()
    for key in ("episode_index", "length", "data/chunk_index", "data/file_index"):
        if any(not isinstance(r.get(key), int) for r in rows):
            raise StorageError(f"{files[0]} lacks {key!r} for some episode. Restore meta/.")
    return tuple(sorted(rows, key=lambda r: int(r["episode_index"])))


def _names(file: Path) -> list[str]:
    try:
        return list(pq.read_schema(file).names)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{file} is not a readable parquet file ({error}). Restore it.") from error


def _parquet(file: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(file, columns=columns, partitioning=None)
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{file} is not a readable parquet file ({error}). Restore it.") from error
