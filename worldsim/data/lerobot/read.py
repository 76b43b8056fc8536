"""Reads LeRobotDataset v3.0 folders, worldsim's own and other people's, without LeRobot.

`open_dataset` reads `meta/` only; frames are unpacked when an episode is asked for.

Shape legend: T actions, T + 1 observations (rows), H W image, P proprio, A action, E true state.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float32s
from worldsim.core import SIMULATOR, STATE, TASK, TRUE_STATE, Camera, text_rows
from worldsim.data.episode import Episode
from worldsim.data.lerobot import format as layout
from worldsim.data.lerobot.read_meta import Contents, read_contents
from worldsim.data.starts import Starts
from worldsim.decode import read_video
from worldsim.errors import InvalidInputError, StorageError
from worldsim.video import decode_image


def open_dataset(path: str | Path, *, cameras: Sequence[str] | None = None) -> "Dataset":
    """Open a dataset folder.

    Args:
        path: The folder, with `meta/` inside.
        cameras: Image features to read, by their full names or the last parts of them, the main one first; None for all.

    Raises:
        StorageError: There is no dataset, it is of another version (the converter is named), or `meta/` is damaged.
        UnknownNameError: There is no such camera; the cameras are listed.
        InvalidInputError: There is no camera or no action, or a camera is named twice.
    """
    return Dataset(read_contents(Path(path), cameras))


class Dataset:
    """Recorded episodes; made by `open_dataset`."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self.path = contents.path

    @property
    def episodes(self) -> int:
        """How many episodes there are."""
        return len(self._contents.rows)

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """What is read of each observation, the main camera first."""
        return self._contents.cameras

    @property
    def only_camera(self) -> Camera:
        """The camera, for those who read one.

        Raises:
            InvalidInputError: Several are read; they are listed.
        """
        if len(self.cameras) > 1:
            names = ", ".join(self._contents.features.values())
            raise InvalidInputError(f"{self.path} has several cameras; name one of them: {names}.")
        return self.cameras[0]

    @property
    def action_spec(self) -> ActionSpec:
        """Meaning of the actions; limits are those seen in the data where the folder does not say."""
        return self._contents.action

    @property
    def rate_hz(self) -> float:
        """Observations per second."""
        return self._contents.action.rate_hz

    @property
    def tasks(self) -> tuple[str, ...]:
        """The sentences of all tasks; `Episode.task` says which is an episode's."""
        return tuple(self._contents.tasks.values())

    @property
    def task(self) -> str:
        """The first task's sentence; empty where there is none."""
        return next(iter(self.tasks), "")

    @property
    def task_id(self) -> str:
        """Gymnasium id of the environment, where it is known."""
        return self._contents.task_id

    @property
    def success_at(self) -> Literal["end", "any"]:
        """Whether an episode is solved at its last step or at any step."""
        return self._contents.success_at

    @property
    def dreamed_by(self) -> str:
        """Name of the learned world that drew the frames; empty where a camera or simulator saw them, or where it is not known."""
        return self._contents.dreamed_by

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """What each episode was drawn from; -1 where it is not known."""
        return tuple(int(r.get("seed", -1)) for r in self._contents.rows)

    @cached_property
    def behaviours(self) -> tuple[str, ...]:
        """What acted in each episode; empty where it is not known."""
        return tuple(str(r.get("behaviour") or "") for r in self._contents.rows)

    def length(self, index: int) -> int:
        """Observations of an episode, T + 1."""
        return int(self._row(index)["length"])

    @cached_property
    def digest(self) -> str:
        """sha256 of the content. For data that worldsim did not write it reads every file once."""
        rows = self._contents.rows
        if all(r.get("sha256") for r in rows):
            parts = [str(r["sha256"]) for r in rows]
        else:
            folders = [self.path / name for name in ("data", "meta", "videos")]
            files = sorted(
                p for folder in folders for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")
            )
            parts = [f"{p.relative_to(self.path).as_posix()} {storage.digest_file(p)}" for p in files]
        return storage.digest_bytes("\n".join([*self._contents.features.values(), self.task, *parts]).encode())

    def episode(self, index: int) -> Episode:
        """Read one episode.

        Raises:
            StorageError: A file is missing, cut short, changed or does not hold what `meta/` promises; it is named.
            InvalidInputError: There is no such episode.
        """
        return self._read(index, rows=None)

    def starts(self, indices: Sequence[int]) -> Starts:
        """First observations of some episodes.

        True and simulator states are there where all of these episodes have one, tasks where the dataset has several.

        Raises:
            StorageError: As `episode`.
            InvalidInputError: No index is given.
        """
        firsts = [self._read(i, rows=1) for i in indices]
        if not firsts:
            raise InvalidInputError("Starts need at least one episode; no index was given.")
        kept: dict[str, list[Any]] = {c.key: [e.frames[c.key][0] for e in firsts] for c in self.cameras}
        kept[STATE] = [e.proprio[0] for e in firsts]
        kept[TRUE_STATE] = [e.true_state[0] for e in firsts if e.true_state is not None]
        kept[SIMULATOR] = [e.simulator for e in firsts if e.simulator is not None]
        rows = {k: torch.from_numpy(np.stack(v)) for k, v in kept.items() if len(v) == len(firsts)}
        if len(self.tasks) > 1:
            rows[TASK] = text_rows([e.task for e in firsts])
        return Starts(rows)

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.episodes:
            raise InvalidInputError(f"Episode {index} given; {self.path} has episodes 0 to {self.episodes - 1}.")
        return self._contents.rows[index]

    def _read(self, index: int, *, rows: int | None) -> Episode:
        """An episode, or its first `rows` observations."""
        row = self._row(index)
        where = self._contents.data_path.format(chunk_index=row["data/chunk_index"], file_index=row["data/file_index"])
        file = self._inside(where)
        try:
            table = self._table(file, row)
            if table.num_rows != row["length"]:
                raise ValueError(f"{table.num_rows} rows, expected {row['length']}")
            table = table.slice(0, rows)
            frames = {c.key: self._frames(file, table, row, c) for c in self.cameras}
            return self._assemble(table, row, frames)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(
                f"{file} does not hold episode {index} as meta/ describes it ({error}). Restore it, or leave it out."
            ) from error

    def _table(self, file: Path, row: dict[str, Any]) -> pa.Table:
        """The rows of one episode, in order."""
        data = file.read_bytes() if row.get("sha256") else None
        if data is not None and storage.digest_bytes(data) != row["sha256"]:
            raise StorageError(f"{file} does not match its sha256 in meta/: it is corrupt or was edited. Restore it.")
        source = pq.ParquetFile(file if data is None else pa.BufferReader(data))
        wanted = {layout.ACTION, STATE, TRUE_STATE, layout.REWARD, layout.SUCCESS, layout.PROGRESS}
        wanted |= {"frame_index", "episode_index", "task_index", *self._contents.features.values()}
        columns = [c for c in source.schema_arrow.names if c in wanted]
        groups = _groups(source, int(row["episode_index"]))
        table = source.read_row_groups(groups, columns=columns)
        table = table.filter(pc.equal(table["episode_index"], int(row["episode_index"])))
        return table.sort_by("frame_index") if not row.get("sha256") else table

    def _frames(self, file: Path, table: pa.Table, row: dict[str, Any], camera: Camera) -> Bytes:
        """Frames of one camera, uint8 [rows, H, W, 3]."""
        name = self._contents.features[camera.key]
        if camera.key in self._contents.videos:
            prefix = f"videos/{name}"
            place = {k: row[f"{prefix}/{k}"] for k in ("chunk_index", "file_index")}
            video = self._inside(self._contents.video_path.format(video_key=name, **place))
            digest = row.get(layout.VIDEO_SHA256) or row.get(f"{layout.VIDEO_SHA256}/{name}")
            if digest and storage.digest_file(video) != digest:
                raise StorageError(
                    f"{video} does not match its sha256 in meta/: it is corrupt or was edited. Restore it."
                )
            frames, _ = read_video(video, start_s=float(row[f"{prefix}/from_timestamp"]), frames=table.num_rows)
        else:
            frames = np.stack([self._picture(file, cell) for cell in table[name].to_pylist()])
        if frames.shape[1:3] != camera.size:
            raise ValueError(f"{name} is {frames.shape[1:3]} pixels, expected {camera.size}")
        return frames

    def _picture(self, file: Path, cell: dict[str, Any]) -> Bytes:
        """One frame: bytes inside the table, or a file inside the dataset."""
        if cell["bytes"] is not None:
            return decode_image(cell["bytes"], source=file)
        picture = self._inside(str(cell["path"]))
        return decode_image(picture.read_bytes(), source=picture)

    def _inside(self, relative: str) -> Path:
        """A path within the dataset; nothing outside is opened because a dataset names it."""
        found = self.path / relative
        if not found.resolve().is_relative_to(self.path.resolve()):
            raise StorageError(f"{self.path} names a file outside itself, {relative!r}. Do not trust this dataset.")
        return found

    def _assemble(self, table: pa.Table, row: dict[str, Any], frames: dict[str, Bytes]) -> Episode:
        """Columns to arrays; next.* of row t describes observation t + 1."""
        count = table.num_rows
        vectors = {k: _matrix(table[k]) for k in (layout.ACTION, STATE, TRUE_STATE) if k in table.column_names}
        following = {
            k: _matrix(table[k])[:, 0] if k in table.column_names else np.full(count, np.nan, np.float32)
            for k in (layout.REWARD, layout.SUCCESS, layout.PROGRESS)
        }
        first = {layout.SUCCESS: row.get("start_success"), layout.PROGRESS: row.get("start_progress")}
        along = {
            k: np.concatenate([[np.nan if first[k] is None else first[k]], following[k][:-1]]).astype(np.float32)
            for k in first
        }
        if np.isnan(along[layout.SUCCESS][0]) and layout.SUCCESS in table.column_names:
            along[layout.SUCCESS][0] = 0.0  # unless said otherwise, an episode does not begin solved
        if count == row["length"] > 1:  # others mark success in the last row, after which they record no observation
            along[layout.SUCCESS][-1] = np.fmax(along[layout.SUCCESS][-1], following[layout.SUCCESS][-1])
        simulator = row.get("simulator_state")
        return Episode(
            frames=frames,
            proprio=vectors.get(STATE, np.zeros((count, 1), np.float32)),
            action=vectors[layout.ACTION][:-1],
            success=along[layout.SUCCESS],
            progress=along[layout.PROGRESS],
            reward=following[layout.REWARD][:-1],
            true_state=vectors.get(TRUE_STATE),
            simulator=None if simulator is None else np.array(simulator, np.float64),
            seed=int(row.get("seed", -1)),
            behaviour=str(row.get("behaviour") or ""),
            task=self._task(table, row),
        )

    def _task(self, table: pa.Table, row: dict[str, Any]) -> str:
        """The sentence of an episode's first row."""
        tasks = self._contents.tasks
        if "task_index" in table.column_names and tasks:
            index = table["task_index"][0].as_py()
            if index not in tasks:
                raise ValueError(f"task_index {index} is not in {layout.TASKS}")
            return tasks[index]
        return str(next(iter(row.get("tasks") or ()), self.task))


def _matrix(column: pa.ChunkedArray) -> Float32s:
    """A column of numbers or of lists of numbers as float32 [rows, width]."""
    array = column.combine_chunks()
    if array.null_count:
        raise ValueError("a column has empty cells")
    flat = array.flatten() if pa.types.is_nested(array.type) else array
    while pa.types.is_nested(flat.type):
        flat = flat.flatten()
    values = flat.cast(pa.float32()).to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(len(array), -1), np.float32)


def _groups(source: pq.ParquetFile, episode: int) -> list[int]:
    """Row groups that may hold rows of an episode."""
    meta = source.metadata
    leaf = next(i for i in range(meta.num_columns) if meta.schema.column(i).path == "episode_index")
    chosen = []
    for group in range(meta.num_row_groups):
        bounds = meta.row_group(group).column(leaf).statistics
        if bounds is None or not bounds.has_min_max or bounds.min <= episode <= bounds.max:
            chosen.append(group)
    if not chosen:
        raise ValueError(f"no rows of episode {episode}")
    return chosen
