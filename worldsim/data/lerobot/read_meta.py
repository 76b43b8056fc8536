"""Reads and checks the `meta/` folder of any LeRobotDataset v3.0: version, cameras, columns, tasks, episodes."""

import dataclasses
import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.core import STATE, TRUE_STATE, Camera
from worldsim.data.lerobot import format as layout
from worldsim.data.lerobot.convert import OLD
from worldsim.data.lerobot.features import (
    Features,
    Vector,
    action_spec,
    fill_widths,
    find_cameras,
    find_vector,
)
from worldsim.errors import InvalidInputError, StorageError

_FIELD = re.compile(r"\{(video_key|((chunk|file)_index|episode_(chunk|file|index))(:0?\d{1,2}d)?)\}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Contents:
    """What `meta/` says.

    Attributes:
        path: The dataset's folder.
        ours: Whether worldsim wrote it: then the last row of an episode holds no action that was done.
        cameras: What is read, the main camera first. A key is the feature's name; a feature that has no observation key
            of LeRobot's is known as ``observation.images.NAME``.
        features: The feature of each camera, by key.
        vectors: The columns of the actions, the state and the true state, by LeRobot key; those that there are.
        columns: All features that data files should hold as columns.
        action: Meaning of the actions.
        rate_hz: Rows per second.
        tasks: Sentences by task index.
        task_id: Gymnasium id, or empty.
        env: What the environment was called when it was recorded, for example ``module:function``; or empty.
        success_rule: By which rule success was recorded (`worldsim.data.collect.success`); empty for the environment's own.
        success_at: When an episode counts as solved.
        dreamed_by: Name of the learned world that drew the frames, or empty.
        data_path: Template of data files.
        video_path: Template of video files.
        videos: Keys of the cameras whose frames are video files; others' are pictures inside the data files.
        rows: One mapping per episode, in order, without statistics.
        notes: What is left out, joined or assumed, in sentences.
    """

    path: Path
    ours: bool
    cameras: tuple[Camera, ...]
    features: Mapping[str, str]
    vectors: Mapping[str, Vector]
    columns: frozenset[str]
    action: ActionSpec
    rate_hz: float
    tasks: Mapping[int, str]
    task_id: str
    env: str
    success_rule: str
    success_at: Literal["end", "any"]
    dreamed_by: str
    data_path: str
    video_path: str
    videos: frozenset[str]
    rows: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]

    def data_file(self, row: Mapping[str, Any]) -> Path:
        """The data file of an episode.

        Raises:
            StorageError: It would be outside the folder.
        """
        return storage.inside_folder(self.path, _filled(self.data_path, row, "data"))

    def video_file(self, row: Mapping[str, Any], feature: str) -> tuple[Path, float]:
        """The video file of an episode and a camera's feature, and when the episode begins in it, in seconds.

        Raises:
            StorageError: It would be outside the folder, or `meta/` does not say where it is.
        """
        prefix = f"videos/{feature}"
        places = [row.get(f"{prefix}/{name}") for name in ("chunk_index", "file_index", "from_timestamp")]
        if len(self.rows) > 1 and None in places:
            raise StorageError(
                f"{self.path}: meta/episodes does not say where camera {feature} of episode {row['episode_index']} is. "
                "Restore meta/."
            )
        return storage.inside_folder(self.path, _filled(self.video_path, row, prefix, feature)), float(places[2] or 0)


def _filled(template: str, row: Mapping[str, Any], prefix: str, feature: str = "") -> str:
    """A path of an episode. Where its row names no files, there is one episode, which has the first of each."""
    chunk, file = (int(row.get(f"{prefix}/{kind}_index") or 0) for kind in ("chunk", "file"))
    fields = {"chunk_index": chunk, "file_index": file, "episode_chunk": chunk, "episode_file": file}
    return template.format(**fields, episode_index=row["episode_index"], video_key=feature)


def read_contents(
    path: Path,
    cameras: Sequence[str] | None = None,
    *,
    action: Sequence[str] | None = None,
    proprio: Sequence[str] | None = None,
) -> Contents:
    """Read and check `meta/`; arguments and errors as `worldsim.data.lerobot.read.open_dataset`."""
    if not path.is_dir():
        raise StorageError(
            f"There is no dataset folder at {path}. Check the path, or make one with `worldsim collect`."
        )
    info = _info(path)
    try:
        return _read(path, info, cameras, {layout.ACTION: action, STATE: proprio})
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InvalidInputError | LookupError) and not isinstance(error, KeyError):
            raise
        raise StorageError(f"{path / layout.INFO} lacks or misstates {error}. Restore meta/.") from error


def _read(
    path: Path, info: dict[str, Any], cameras: Sequence[str] | None, wanted: dict[str, Sequence[str] | None]
) -> Contents:
    """As `read_contents`, with the errors of Python's own types."""
    features: Features = dict(info["features"])
    extra, request = _own(path)
    rows = _rows(path, info)
    data_path, video_path = (
        _template(info, key, default)
        for key, default in (("data_path", layout.DATA_PATH), ("video_path", layout.VIDEO_PATH))
    )

    def absent(feature: str) -> bool:
        names = {_filled(video_path, row, f"videos/{feature}", feature) for row in rows}
        return not any(storage.inside_folder(path, name).is_file() for name in names)

    found, notes = find_cameras(
        features, {c["key"]: c for c in extra.get("cameras", [])}, cameras, absent=absent, path=path
    )
    vectors, said = _vectors(path, features, wanted)
    first = storage.inside_folder(path, _filled(data_path, rows[0], "data")) if rows else path
    vectors = {key: fill_widths(vector, functools.partial(_parquet, first)) for key, vector in vectors.items()}
    spec, more = _action(path, info, extra if wanted[layout.ACTION] is None else {}, vectors[layout.ACTION], rows)
    return Contents(
        path=path,
        ours=bool(extra),
        cameras=tuple(found.values()),
        features={camera.key: name for name, camera in found.items()},
        vectors=vectors,
        columns=frozenset(key for key, feature in features.items() if feature.get("dtype") != "video"),
        action=spec,
        rate_hz=spec.rate_hz,
        tasks=_tasks(path),
        task_id=str(extra.get("task_id", "")),
        env=str(request.get("env", "")),
        success_rule=str(request.get("success", "")),
        success_at="any" if extra.get("success_at") == "any" else "end",
        dreamed_by=str(extra.get("dreamed_by", "")),
        data_path=data_path,
        video_path=video_path,
        videos=frozenset(camera.key for name, camera in found.items() if features[name]["dtype"] == "video"),
        rows=rows,
        notes=(*notes, *said, *more),
    )


def _own(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What worldsim wrote of a dataset, and the request that it was recorded by; both empty for those of others."""
    file = storage.inside_folder(path, layout.EXTRA)
    written = storage.read_json(file) if file.exists() else {"spec": {}}
    return written["spec"], written.get("request", {})


def _vectors(
    path: Path, features: Features, wanted: Mapping[str, Sequence[str] | None]
) -> tuple[dict[str, Vector], list[str]]:
    """The columns of actions, state and true state, and notes on what is joined."""
    vectors, notes = dict[str, Vector](), list[str]()
    for base in (layout.ACTION, STATE, TRUE_STATE):
        setting = "action" if base == layout.ACTION else "proprio"
        vector, said = find_vector(features, base, wanted.get(base), setting=setting, path=path)
        if vector is not None:
            vectors[base] = vector
            notes += said
    if layout.ACTION not in vectors:
        raise InvalidInputError(
            f"{path} has no {layout.ACTION!r} feature, only {', '.join(features)}. Give action=[...] of those that are "
            "actions."
        )
    return vectors, notes


def _action(
    path: Path, info: Mapping[str, Any], extra: Mapping[str, Any], vector: Vector, rows: Sequence[Mapping[str, Any]]
) -> tuple[ActionSpec, list[str]]:
    """Meaning of the actions: as worldsim wrote it, else from names, statistics and data."""
    if extra.get("action"):
        return storage.from_json(ActionSpec, extra["action"]), []
    file = storage.inside_folder(path, layout.STATS)
    stats = storage.read_json(file) if file.exists() else {}
    template = _template(info, "data_path", layout.DATA_PATH)

    def tables(columns: Sequence[str]) -> Iterator[pa.Table]:
        for name in sorted({_filled(template, row, "data") for row in rows}):
            yield _parquet(storage.inside_folder(path, name), columns=list(columns))

    stated = stats if isinstance(stats, dict) else {}
    return action_spec(vector, info["features"], stated, tables, rate_hz=float(info["fps"]))


def _info(path: Path) -> dict[str, Any]:
    """The content of info.json, of the right version."""
    info = storage.read_json(storage.inside_folder(path, layout.INFO))
    version = str(info.get("codebase_version", "")) if isinstance(info, dict) else ""
    if version.split(".")[0] != layout.VERSION.split(".")[0]:
        raise StorageError(
            f"{path} has dataset version {version!r}; worldsim reads {layout.VERSION}, and {OLD}, which LeRobot converts. "
            "Give such a folder."
        )
    return dict(info)


def _template(info: Mapping[str, Any], key: str, default: str) -> str:
    """A path template with the known fields only."""
    template = str(info.get(key) or default)
    if set("{}") & set(_FIELD.sub("", template)):
        raise ValueError(f"{key}: {template!r} has unknown fields")
    return template


def _tasks(path: Path) -> dict[int, str]:
    """Sentences by task index, which is their place in the table too: LeRobot reads them by it."""
    file = storage.inside_folder(path, layout.TASKS)
    if not file.exists():
        return {}
    rows = _parquet(file).to_pylist()
    found = [(int(r["task_index"]), str(r.get("task") or r.get("__index_level_0__") or "")) for r in rows]
    if [index for index, _ in found] != list(range(len(found))):
        raise StorageError(
            f"{file} does not number its tasks 0, 1, 2, ... in order, so it is not clear which one an episode has. "
            "Restore meta/."
        )
    return dict(found)


def _rows(path: Path, info: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Every episode's row, in order."""
    folder = path / "meta" / "episodes"
    names = sorted(p.relative_to(path).as_posix() for p in folder.glob("*/*.parquet"))
    if not names:
        raise StorageError(f"{folder} holds no parquet file. Restore meta/, or finish the recording.")
    rows: list[dict[str, Any]] = []
    for file in (storage.inside_folder(path, name) for name in names):
        rows += _parquet(file, columns=[n for n in _names(file) if not n.startswith("stats/")]).to_pylist()
    needed = ["episode_index", "length"] + ["data/chunk_index", "data/file_index"] * (len(rows) > 1)
    for key in needed:
        if any(not isinstance(r.get(key), int) for r in rows):
            raise StorageError(f"{path / names[0]} lacks {key!r} for some episode. Restore meta/.")
    numbers = [r["episode_index"] for r in rows]
    repeated = [n for n, count in Counter(numbers).items() if count > 1]
    if repeated:
        raise StorageError(f"{folder} lists episode {repeated[0]} more than once. Restore meta/.")
    promised = info.get("total_episodes")
    if isinstance(promised, int) and promised > len(rows) and not (path / layout.EXTRA).exists():
        raise StorageError(
            f"{path / layout.INFO} promises {promised} episodes, and meta/episodes lists {len(rows)}. Restore meta/, or "
            "download the rest."
        )
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
