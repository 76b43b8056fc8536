"""Writes LeRobotDataset v3.0 folders that survive a kill at any moment.

An episode is one data file (and one video file), on disk before `write` returns. The data files are the truth: each
carries its own row of `meta/`, which is a view that is made again from them whenever a writer opens the folder. So a
killed run loses at most the episode in flight, and a continued one ends with the same bytes.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from worldsim import storage
from worldsim.core import STATE, TRUE_STATE
from worldsim.data.episode import Episode
from worldsim.data.lerobot import format as layout
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write_meta import image_stats, numeric_stats, recorded_rows, write_meta
from worldsim.errors import InvalidInputError, StorageError
from worldsim.runs import hold_folder, require_same_request
from worldsim.video import encode_mp4, encode_png

_META_SHARE = 0.04
"""`meta/` is brought up to date so often that it takes about this share of the time."""


@contextmanager
def episode_writer(
    path: Path, spec: RecordSpec, *, request: Mapping[str, Any] | None = None
) -> Iterator["EpisodeWriter"]:
    """Open a dataset folder for writing; it may hold the first episodes already.

    Args:
        path: The folder.
        spec: What the episodes have in common.
        request: What the data is made from, as JSON values; kept in the folder.

    Yields:
        The writer. When the block is left, on an exception too, `meta/` describes every episode on disk.

    Raises:
        StorageError: Another process writes here, the folder holds something else, or the disk is full.
        InvalidInputError: The folder was begun with another spec or request.
    """
    with hold_folder(path, lock=None):
        writer = EpisodeWriter(path, spec, request or {})
        try:
            yield writer
        except BaseException:
            with suppress(StorageError):  # the first failure says more than a second one about the same disk
                writer.flush()
            raise
        writer.flush()


class EpisodeWriter:
    """Appends episodes to a folder; made by `episode_writer`."""

    def __init__(self, path: Path, spec: RecordSpec, request: Mapping[str, Any]) -> None:
        self.path, self.spec = path, spec
        _bind_folder(path, {"version": 1, "spec": layout.spec_json(spec), "request": storage.to_json(request)})
        self._schema = layout.schema(spec)
        self._rows = recorded_rows(path)
        self._tasks = layout.distinct_tasks(self._rows, spec)
        self._meta_time_s, self._meta_cost_s = 0.0, 0.0

    @property
    def count(self) -> int:
        """Episodes on disk."""
        return len(self._rows)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """One row per episode on disk: seed, behaviour, length, statistics."""
        return self._rows

    def write(self, episode: Episode) -> None:
        """Append one episode; it is on disk, fsynced, when this returns.

        Raises:
            InvalidInputError: The episode does not fit the spec.
            StorageError: The disk is full or the place cannot be written; earlier episodes are not touched.
        """
        self._check(episode)
        row = self._row(episode)
        task = layout.task_of(row, self.spec)
        tasks = self._tasks if task in self._tasks else [*self._tasks, task]
        if self.spec.video:
            row |= self._write_videos(episode)
        columns = self._columns(episode, row["dataset_from_index"], tasks.index(task))
        pictures = {c.key: image_stats(episode.frames[c.key]) for c in self.spec.cameras}
        row["stats"] = {**pictures, **numeric_stats(columns)}
        data = self._parquet(episode, columns, row)
        storage.write_bytes(self.path / layout.data_file(self.count), data)
        self._tasks = tasks
        self._rows.append({**row, "sha256": storage.digest_bytes(data)})
        if time.monotonic() - self._meta_time_s > self._meta_cost_s / _META_SHARE:
            self.flush(durable=False)

    def _write_videos(self, episode: Episode) -> dict[str, str]:
        """Write one file per camera; their digests, by column."""
        digests = {}
        for camera in self.spec.cameras:
            video = encode_mp4(episode.frames[camera.key], rate_hz=self.spec.action.rate_hz, exact=True)
            digests[layout.video_digest_column(self.spec, camera.key)] = storage.digest_bytes(video)
            storage.write_bytes(self.path / layout.video_file(self.count, camera.key), video)
        return digests

    def flush(self, *, durable: bool = True) -> None:
        """Bring `meta/` up to date.

        Args:
            durable: Wait until it is on disk too; without, it survives a kill but not a power failure.
        """
        started = time.monotonic()
        write_meta(self.path, self.spec, self._rows, durable=durable)
        self._meta_time_s = time.monotonic()
        self._meta_cost_s = self._meta_time_s - started

    def _check(self, episode: Episode) -> None:
        """Does the episode belong here?"""
        spec = self.spec
        given = {
            "cameras": {k: v.shape[1:3] for k, v in episode.frames.items()},
            "proprio_dim": episode.proprio.shape[1],
            "action width": episode.action.shape[1],
            "true_state_dim": 0 if episode.true_state is None else episode.true_state.shape[1],
        }
        wanted = {
            "cameras": {c.key: c.size for c in spec.cameras},
            "proprio_dim": spec.proprio_dim,
            "action width": spec.action.dim,
            "true_state_dim": spec.true_state_dim,
        }
        for name, value in wanted.items():
            if given[name] != value:
                raise InvalidInputError(f"This dataset has {name} {value}; the episode has {given[name]}.")
        if not episode.steps:
            raise InvalidInputError("An episode needs at least one action; got none.")
        for name, known in (("success", spec.has_success), ("progress", spec.has_progress)):
            if known and not np.isfinite(getattr(episode, name)[1:]).all():
                raise InvalidInputError(f"This dataset knows {name} at every step; the episode lacks it somewhere.")

    def _row(self, episode: Episode) -> dict[str, Any]:
        """What `meta/` says of the episode, statistics aside."""
        start = self._rows[-1]["dataset_to_index"] if self._rows else 0
        return {
            "episode_index": self.count,
            "length": episode.steps + 1,
            "dataset_from_index": start,
            "dataset_to_index": start + episode.steps + 1,
            "seed": int(episode.seed),
            "behaviour": episode.behaviour,
            "start_success": _number(episode.success[0]),
            "start_progress": _number(episode.progress[0]),
            "end_success": _number(episode.success[-1]),
            "simulator_state": None if episode.simulator is None else episode.simulator.tolist(),
            **({} if episode.last_action is None else {"acted_last": True}),
            **({"task": episode.task} if episode.task not in ("", self.spec.task) else {}),
        }

    def _columns(self, episode: Episode, start: int, task: int) -> dict[str, NDArray[Any]]:
        """Every column but the frames. The last row is the final observation, with the idle action where no last one is known."""
        rows = np.arange(episode.steps + 1)
        following = np.minimum(rows + 1, episode.steps)  # next.* of the last row repeats
        last = self.spec.action.idle if episode.last_action is None else episode.last_action
        reward = np.nan_to_num(episode.reward[following - 1])
        if np.isfinite(episode.last_reward):
            reward[-1] = episode.last_reward
        known = {
            STATE: episode.proprio,
            layout.ACTION: np.concatenate([episode.action, np.array([last], np.float32)]),
            TRUE_STATE: episode.true_state,
            layout.REWARD: reward,
            layout.SUCCESS: episode.success[following] > 0.5,
            layout.PROGRESS: episode.progress[following],
            layout.DONE: following == episode.steps,
            "timestamp": (rows / self.spec.action.rate_hz).astype(np.float32),
            "frame_index": rows,
            "episode_index": np.full_like(rows, self.count),
            "index": start + rows,
            "task_index": np.full_like(rows, task),
        }
        return {k: v for k in (*self.spec.vectors(), *self.spec.scalars()) if (v := known[k]) is not None}

    def _parquet(self, episode: Episode, columns: Mapping[str, NDArray[Any]], row: Mapping[str, Any]) -> bytes:
        """The data file's content."""
        arrays = {}
        for camera in () if self.spec.video else self.spec.cameras:
            pictures = [encode_png(f) for f in episode.frames[camera.key]]
            names = [f"frame-{t:06d}.png" for t in range(len(pictures))]
            arrays[camera.key] = pa.StructArray.from_arrays(
                [pa.array(pictures, pa.binary()), pa.array(names)], ["bytes", "path"]
            )
        for name, values in columns.items():
            kind = self._schema.field(name).type
            flat = pa.array(values.ravel())
            arrays[name] = (
                pa.FixedSizeListArray.from_arrays(flat, type=kind) if pa.types.is_fixed_size_list(kind) else flat
            )
        footer = {layout.FOOTER: json.dumps(row, sort_keys=True, allow_nan=False)}
        table = pa.Table.from_pydict(arrays, schema=self._schema.with_metadata(footer))
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="snappy", use_dictionary=False)
        return bytes(sink.getvalue())


def _number(value: np.float32) -> float | None:
    """JSON has no nan."""
    return float(value) if np.isfinite(value) else None


def _bind_folder(path: Path, extra: Mapping[str, Any]) -> None:
    """Begin a folder, or make sure that it was begun for the same purpose."""
    file = path / layout.EXTRA
    if file.exists():
        require_same_request(path, storage.read_json(file), extra)
        return
    others = sorted(p.name for p in path.iterdir() if p.name != "meta")
    if others or (path / layout.INFO).exists():
        raise StorageError(f"{path} is not empty ({', '.join(others[:3]) or 'meta'}). Choose a new folder.")
    storage.write_json(file, extra)
