"""Makes sense of the `meta/` folder of any LeRobotDataset v3.0: versions, cameras, actions, episodes.

Everything is checked here once, so that reading episodes needs no second look. Not for frames
(`worldsim.data.lerobot.read`).

Shape legend: H W image, A action.
"""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.data.lerobot import format as layout
from worldsim.errors import InvalidInputError, StorageError, unknown_name

_FIELD = re.compile(r"\{(video_key|(chunk|file)_index(:0?\d{1,2}d)?)\}")
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What `meta/` says.

    Attributes:
        path: The dataset's folder.
        camera: Image feature to read.
        image_size: H, W of its frames.
        action: Meaning of the actions.
        task: The first task's sentence.
        task_id: Gymnasium id, or empty.
        success_at: When an episode counts as solved.
        dreamed_by: Name of the learned world that drew the frames, or empty.
        data_path: Template of data files.
        video_path: Template of video files, None where frames are pictures inside the data files.
        rows: One mapping per episode, in order, without statistics.
    """

    path: Path
    camera: str
    image_size: tuple[int, int]
    action: ActionSpec
    task: str
    task_id: str
    success_at: Literal["end", "any"]
    dreamed_by: str
    data_path: str
    video_path: str | None
    rows: tuple[dict[str, Any], ...]


def read_contents(path: Path, camera: str | None) -> Contents:
    """Read and check `meta/`; errors as `worldsim.data.lerobot.read.open_dataset`."""
    if not path.is_dir():
        raise StorageError(
            f"There is no dataset folder at {path}. Check the path, or make one with `worldsim collect`."
        )
    info = _info(path)
    try:
        features = dict(info["features"])
        name = _camera(features, camera, path)
        kind = features[name]["dtype"]
        extra = storage.read_json(path / layout.EXTRA)["spec"] if (path / layout.EXTRA).exists() else {}
        action = extra.get("action")
        return Contents(
            path=path,
            camera=name,
            image_size=_image_size(features[name]),
            action=storage.from_json(ActionSpec, action) if action else _seen_actions(path, info, features),
            task=_task(path),
            task_id=str(extra.get("task_id", "")),
            success_at="any" if extra.get("success_at") == "any" else "end",
            dreamed_by=str(extra.get("dreamed_by", "")),
            data_path=_template(info, "data_path", layout.DATA_PATH),
            video_path=_template(info, "video_path", layout.VIDEO_PATH) if kind == "video" else None,
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


def _camera(features: dict[str, Any], camera: str | None, path: Path) -> str:
    """The image feature meant by `camera`."""
    cameras = [k for k, f in features.items() if f.get("dtype") in ("image", "video")]
    if not cameras:
        raise InvalidInputError(f"{path} has no image or video feature, only {', '.join(features)}.")
    if layout.ACTION not in features:
        raise InvalidInputError(f"{path} has no {layout.ACTION!r} feature, only {', '.join(features)}.")
    if camera is None:
        if len(cameras) > 1:
            raise InvalidInputError(f"{path} has several cameras; name one of them: {', '.join(cameras)}.")
        return cameras[0]
    matches = [c for c in cameras if camera in (c, c.rpartition(".")[2])]
    if len(matches) != 1:
        raise unknown_name("camera", camera, cameras)
    return matches[0]


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


def _task(path: Path) -> str:
    """The sentence with task index 0."""
    if not (path / layout.TASKS).exists():
        return ""
    for row in _parquet(path / layout.TASKS).to_pylist():
        if row.get("task_index") == 0:
            return str(row.get("task") or row.get("__index_level_0__") or "")
    return ""


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
