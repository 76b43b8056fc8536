"""Writes the `meta/` folder of a dataset: a view of its data files, made again from them at any time; its statistics too.

An episode's statistics are exact; the dataset's are merged from them as LeRobot merges (parallel variance; quantiles averaged
by count). Nothing in worldsim is normalised with them: `ActionSpec` and the models do that themselves.

Shape legend: R rows, D values of a row, E episodes.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldsim import storage
from worldsim.arrays import Bytes
from worldsim.core import is_image
from worldsim.data.lerobot import format as layout
from worldsim.data.lerobot.format import RecordSpec
from worldsim.errors import StorageError
from worldsim.json_values import parse_json


def recorded_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of every finished episode in a folder that worldsim writes, from its data files; leftovers are removed.

    Raises:
        StorageError: A data file is unreadable, or one is missing between others.
    """
    for stray in [*path.glob("data/*/.*.tmp"), *path.glob("videos/*/*/.*.tmp"), *path.glob("meta/**/.*.tmp")]:
        stray.unlink(missing_ok=True)
    files = {p.relative_to(path).as_posix() for p in path.glob("data/*/*.parquet")}
    rows = []
    for index in range(len(files)):
        file = path / layout.data_file(index)
        try:
            data = file.read_bytes()
            footer = pq.ParquetFile(pa.BufferReader(data)).schema_arrow.metadata[layout.FOOTER]
            rows.append({**parse_json(footer, source=file), "sha256": storage.digest_bytes(data)})
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"{file} is missing or unreadable ({error}) though there are {len(files)} data files. Restore it, or "
                "collect into another folder."
            ) from error
    return rows


def write_meta(path: Path, spec: RecordSpec, rows: Sequence[Mapping[str, Any]], *, durable: bool) -> None:
    """Write everything under `meta/` but worldsim.json, from the episodes' rows."""
    if not rows:
        return
    names = sorted(rows[0]["stats"])
    merged = {k: _shaped(k, merge_stats([r["stats"][k] for r in rows])) for k in names}
    sentences = layout.distinct_tasks(rows, spec)
    tasks = pa.table({"task_index": pa.array(range(len(sentences)), pa.int64()), "task": sentences})
    frames = int(rows[-1]["dataset_to_index"])
    files = {
        layout.TASKS: _to_bytes(tasks.replace_schema_metadata(_TASKS_INDEX)),
        layout.EPISODES: _to_bytes(_episode_table(spec, rows, names)),
        layout.STATS: _json_bytes(merged),
        layout.INFO: _json_bytes(layout.info(spec, episodes=len(rows), frames=frames, tasks=len(sentences))),
    }
    for name, data in files.items():
        if durable:
            storage.write_bytes(path / name, data)
        else:
            _replace(path / name, data)


_TASKS_INDEX = {
    "pandas": json.dumps(
        {
            "index_columns": ["task"],
            "column_indexes": [],
            "columns": [
                {"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None}
                for n, p, t in (("task_index", "int64", "int64"), ("task", "unicode", "object"))
            ],
            "creator": {"library": "pyarrow", "version": "0"},
            "pandas_version": "2.0.0",
        }
    )
}
"""Tells pandas, and through it LeRobot, that the task's text is the index of the table."""


def _episode_table(spec: RecordSpec, rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> pa.Table:
    """The episodes table: one row per episode."""
    places = [layout.place(r["episode_index"]) for r in rows]
    columns: dict[str, Any] = {k: pa.array([r[k] for r in rows], pa.int64()) for k in ("episode_index", "length")}
    columns["tasks"] = pa.array([[layout.task_of(r, spec)] for r in rows], pa.list_(pa.string()))
    columns |= {
        k: pa.array([r[k] for r in rows], pa.int64()) for k in ("dataset_from_index", "dataset_to_index", "seed")
    }
    cameras = [c.key for c in spec.cameras] if spec.video else []
    for prefix in ("data", *(f"videos/{key}" for key in cameras)):
        columns[f"{prefix}/chunk_index"] = pa.array([c for c, _ in places], pa.int64())
        columns[f"{prefix}/file_index"] = pa.array([f for _, f in places], pa.int64())
    for key in cameras:
        columns[f"videos/{key}/from_timestamp"] = pa.array([0.0] * len(rows))
        columns[f"videos/{key}/to_timestamp"] = pa.array([r["length"] / spec.action.rate_hz for r in rows])
        column = layout.video_digest_column(spec, key)
        columns[column] = [r[column] for r in rows]
    columns |= {k: pa.array([r[k] for r in rows], pa.string()) for k in ("behaviour", "sha256")}
    if any(r.get("acted_last") for r in rows):
        columns["acted_last"] = pa.array([bool(r.get("acted_last")) for r in rows])
    columns |= {
        k: pa.array([r[k] for r in rows], pa.float64()) for k in ("start_success", "start_progress", "end_success")
    }
    columns["simulator_state"] = pa.array([r["simulator_state"] for r in rows], pa.list_(pa.float64()))
    columns |= {f"meta/episodes/{k}": pa.array([0] * len(rows), pa.int64()) for k in ("chunk_index", "file_index")}
    for name in names:
        for statistic in sorted(rows[0]["stats"][name]):
            values = [_shaped(name, r["stats"][name])[statistic] for r in rows]
            columns[f"stats/{name}/{statistic}"] = pa.array(values)
    return pa.table(columns)


def _shaped(name: str, stats: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """LeRobot keeps statistics of pictures as [3, 1, 1]."""
    if not is_image(name):
        return dict(stats)
    return {k: v if k == "count" else [[[x]] for x in v] for k, v in stats.items()}


def _to_bytes(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="snappy")
    return bytes(sink.getvalue())


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=4, sort_keys=True, allow_nan=False) + "\n").encode()


def _replace(path: Path, data: bytes) -> None:
    """Write atomically without waiting for the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise StorageError(
            f"Could not write {path}: {error.strerror or error}. Free space or choose another place."
        ) from error


QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", *QUANTILES)
"""Every statistic but the count."""
Stats = Mapping[str, Sequence[float]]
"""Statistic name -> one number per value of the row; `count` -> [R]."""


def numeric_stats(columns: Mapping[str, NDArray[np.generic]]) -> dict[str, dict[str, list[float]]]:
    """Statistics of an episode's low-dimensional columns.

    Args:
        columns: Name -> [R] or [R, D].

    Returns:
        Name -> statistic -> D numbers.
    """
    parts = {k: v.reshape(len(v), -1).astype(np.float64) for k, v in columns.items()}
    everything = np.concatenate(list(parts.values()), axis=1)
    table = np.concatenate(
        [
            [everything.min(0), everything.max(0), everything.mean(0), everything.std(0)],
            np.quantile(everything, list(QUANTILES.values()), axis=0),
        ]
    )
    found, column = {}, 0
    for name, part in parts.items():
        width = part.shape[1]
        found[name] = {s: table[i, column : column + width].tolist() for i, s in enumerate(NAMES)} | {
            "count": [len(part)]
        }
        column += width
    return found


def image_stats(frames: Bytes) -> dict[str, list[float]]:
    """Statistics of frames uint8 [R, H, W, 3] per colour, as fractions of 255; `count` is that of frames."""
    counts = np.stack([np.bincount(frames[..., c].ravel(), minlength=256) for c in range(3)])  # [3, 256]
    levels = np.arange(256) / 255
    total = counts[0].sum()
    mean = counts @ levels / total
    std = np.sqrt(np.maximum(counts @ levels**2 / total - mean**2, 0))
    below = counts.cumsum(1)
    found = {"min": (counts > 0).argmax(1) / 255, "max": (255 - (counts[:, ::-1] > 0).argmax(1)) / 255}
    found |= {"mean": mean, "std": std}
    found |= {name: (below > q * (total - 1)).argmax(1) / 255 for name, q in QUANTILES.items()}
    return {k: v.tolist() for k, v in found.items()} | {"count": [len(frames)]}


def merge_stats(episodes: Sequence[Stats]) -> dict[str, list[float]]:
    """Statistics over all episodes, from those of each."""
    count = np.array([e["count"][0] for e in episodes], np.float64)
    weight = (count / count.sum())[:, None]
    table = {s: np.array([e[s] for e in episodes], np.float64) for s in NAMES}  # each [E, D]
    mean = (weight * table["mean"]).sum(0)
    variance = (weight * (table["std"] ** 2 + (table["mean"] - mean) ** 2)).sum(0)
    merged = {"min": table["min"].min(0), "max": table["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
    merged |= {q: (weight * table[q]).sum(0) for q in QUANTILES}
    return {k: v.tolist() for k, v in merged.items()} | {"count": [int(count.sum())]}
