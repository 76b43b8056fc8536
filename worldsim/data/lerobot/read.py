"""Reads LeRobotDataset v3.0 folders, worldsim's own and other people's, without LeRobot.

`open_dataset` reads `meta/` only; frames are unpacked when an episode is asked for.

Shape legend: T actions, T + 1 observations (rows), H W image, P proprio, A action, E true state.
"""

import copy
import math
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float64s
from worldsim.core import SIMULATOR, STATE, TASK, TRUE_STATE, Camera, text_rows
from worldsim.data.episode import Episode
from worldsim.data.lerobot import format as layout
from worldsim.data.lerobot.columns import check_times, join_columns, read_column
from worldsim.data.lerobot.convert import as_version_3
from worldsim.data.lerobot.read_meta import Contents, read_contents
from worldsim.data.starts import Starts
from worldsim.decode import TOLERANCE_S, read_frames_at
from worldsim.errors import InvalidInputError, StorageError
from worldsim.hub import local_folder
from worldsim.video import decode_image


def open_dataset(
    path: str | Path,
    *,
    cameras: Sequence[str] | None = None,
    action: Sequence[str] | None = None,
    proprio: Sequence[str] | None = None,
) -> "Dataset":
    """Open a dataset folder. Features are named in full or by their last parts.

    Args:
        path: The folder, with `meta/` inside, or ``hf://datasets/OWNER/NAME``. A folder of version 2.1 is copied and the
            copy converted by LeRobot, once.
        cameras: Image features to read, the main one first; None for all that can be read.
        action: Features that are joined to the actions, in this order; None for `action`, or all of `action.*`.
        proprio: Features that are joined to the proprioception; None for `observation.state`, or all of
            `observation.state.*`, or one zero where there is none.

    Raises:
        StorageError: There is no dataset, it is of another version or cannot be converted, or `meta/` is damaged.
        MissingExtraError: It is of version 2.1, and LeRobot is not installed.
        UnknownNameError: There is no such feature; those that there are are listed.
        InvalidInputError: There is no camera that can be read or no action, or a feature is named twice.
    """
    return Dataset(read_contents(as_version_3(local_folder(path)), cameras, action=action, proprio=proprio))


class Dataset:
    """Recorded episodes; made by `open_dataset`."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._left_out: frozenset[int] = frozenset()
        self.path = contents.path

    @property
    def name(self) -> str:
        """What messages call it: its folder."""
        return str(self.path)

    @property
    def weights(self) -> tuple[float, ...]:
        """How often a frame of each episode is drawn, relative to each other; empty for all alike."""
        return ()

    @property
    def episodes(self) -> int:
        """How many episodes there are."""
        return len(self._contents.rows)

    def without(self, indices: Collection[int]) -> Self:
        """The same episodes under the same numbers, of which some are not to be used; see `used`."""
        other = copy.copy(self)
        other._left_out = self._left_out | frozenset(indices)
        return other

    @property
    def used(self) -> list[int]:
        """Numbers of the episodes that are to be used: all but those that were left out."""
        return [i for i in range(self.episodes) if i not in self._left_out]

    @property
    def left_out(self) -> list[int]:
        """Numbers of the episodes that were left out by `without`."""
        return sorted(self._left_out)

    @property
    def cameras(self) -> tuple[Camera, ...]:
        """What is read of each observation, the main camera first."""
        return self._contents.cameras

    @property
    def features(self) -> tuple[str, ...]:
        """The feature that each camera is read from, as info.json calls it."""
        return tuple(self._contents.features.values())

    @property
    def only_camera(self) -> Camera:
        """The camera, for those who read one.

        Raises:
            InvalidInputError: Several are read; they are listed.
        """
        if len(self.cameras) > 1:
            names = ", ".join(self.features)
            raise InvalidInputError(f"{self.path} has several cameras; name one of them: {names}.")
        return self.cameras[0]

    @property
    def action_spec(self) -> ActionSpec:
        """Meaning of the actions; limits are those seen in the data where the folder does not say."""
        return self._contents.action

    @property
    def proprio_features(self) -> tuple[tuple[str, int | None], ...]:
        """The features that are joined to the proprioception, and how many numbers each has where info.json says."""
        vector = self._contents.vectors.get(STATE)
        return () if vector is None else tuple(zip(vector.names, vector.widths, strict=True))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out, joined or assumed, in sentences for people; empty where the data is read as it stands."""
        return self._contents.notes

    @property
    def rate_hz(self) -> float:
        """Observations per second."""
        return self._contents.rate_hz

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
    def env(self) -> str:
        """What the environment was called when it was recorded, for example ``module:function``; or empty."""
        return self._contents.env

    @property
    def success_rule(self) -> str:
        """By which rule success was recorded, see `worldsim.data.collect.success`; empty for the environment's own."""
        return self._contents.success_rule

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

    @property
    def lengths(self) -> tuple[int, ...]:
        """Observations of every episode."""
        return tuple(self.length(i) for i in range(self.episodes))

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
        return storage.digest_bytes("\n".join([*self.features, self.task, *parts]).encode())

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
        firsts = [self._first(i) for i in indices]
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

    def _first(self, index: int) -> Episode:
        """The first observation of an episode."""
        return self._read(index, rows=1)

    def _row(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self.episodes:
            raise InvalidInputError(f"Episode {index} given; {self.path} has episodes 0 to {self.episodes - 1}.")
        return self._contents.rows[index]

    def _read(self, index: int, *, rows: int | None) -> Episode:
        """An episode, or its first `rows` observations."""
        row = self._row(index)
        file = self._contents.data_file(row)
        try:
            table = self._table(file, row)
            if table.num_rows != row["length"]:
                raise ValueError(f"{table.num_rows} rows, expected {row['length']}")
            times_s = check_times(table, self.rate_hz)
            table = table.slice(0, rows)
            frames = {c.key: self._frames(file, table, row, c, times_s) for c in self.cameras}
            return self._assemble(table, row, frames)
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, IndexError) as error:
            if isinstance(error, StorageError):
                raise StorageError(f"Episode {row['episode_index']} of {self.path}: {error}") from error
            raise StorageError(
                f"{file} does not hold episode {row['episode_index']} as meta/ describes it ({error}). Restore it, or leave "
                "it out."
            ) from error

    def _table(self, file: Path, row: dict[str, Any]) -> pa.Table:
        """The rows of one episode, in order."""
        data = file.read_bytes() if row.get("sha256") else None
        if data is not None and storage.digest_bytes(data) != row["sha256"]:
            raise StorageError(f"{file} does not match its sha256 in meta/: it is corrupt or was edited. Restore it.")
        source = pq.ParquetFile(file if data is None else pa.BufferReader(data))
        wanted = {layout.REWARD, layout.SUCCESS, layout.PROGRESS, "timestamp"}
        wanted |= {name for vector in self._contents.vectors.values() for name in vector.names}
        wanted |= {"frame_index", "episode_index", "task_index", *self._contents.features.values()}
        there = source.schema_arrow.names
        if missing := sorted(wanted & self._contents.columns - set(there)):
            raise KeyError(f"no column {missing[0]!r}, which {layout.INFO} promises")
        groups = _groups(source, int(row["episode_index"]))
        table = source.read_row_groups(groups, columns=[c for c in there if c in wanted])
        return table.filter(pc.equal(table["episode_index"], int(row["episode_index"])))

    def _frames(self, file: Path, table: pa.Table, row: dict[str, Any], camera: Camera, times_s: Float64s) -> Bytes:
        """Frames of one camera, uint8 [rows, H, W, 3]."""
        name = self._contents.features[camera.key]
        if camera.key in self._contents.videos:
            video, start_s = self._contents.video_file(row, name)
            digest = row.get(layout.VIDEO_SHA256) or row.get(f"{layout.VIDEO_SHA256}/{name}")
            if digest and storage.digest_file(video) != digest:
                raise StorageError(
                    f"{video} does not match its sha256 in meta/: it is corrupt or was edited. Restore it."
                )
            end_s = row.get(f"videos/{name}/to_timestamp")
            if end_s is not None and start_s + times_s[-1] > end_s + TOLERANCE_S:
                raise ValueError(
                    f"its last row is at {times_s[-1]:g} s and its part of {video.name} ends after {end_s - start_s:g} s"
                )
            frames = read_frames_at(video, (start_s + times_s[: table.num_rows]).tolist())
            if frames.shape[1:3] != camera.size:
                raise ValueError(f"{name} is {frames.shape[1:3]} pixels, expected {camera.size}")
            return frames
        frames = np.empty((table.num_rows, *camera.size, 3), np.uint8)
        for number, cell in enumerate(table[name].to_pylist()):
            frame = self._picture(file, cell)
            if frame.shape[:2] != camera.size:
                raise ValueError(f"{name} is {frame.shape[:2]} pixels in row {number}, expected {camera.size}")
            frames[number] = frame
        return frames

    def _picture(self, file: Path, cell: Any) -> Bytes:
        """One frame: bytes inside the table, or a file inside the dataset."""
        if not isinstance(cell, dict):
            raise TypeError("a picture is neither bytes nor the path of a file")
        if cell.get("bytes") is not None:
            return decode_image(cell["bytes"], source=file)
        picture = storage.inside_folder(self.path, str(cell.get("path")))
        return decode_image(picture.read_bytes(), source=picture)

    def _assemble(self, table: pa.Table, row: dict[str, Any], frames: dict[str, Bytes]) -> Episode:
        """Columns to arrays; next.* of row t describes observation t + 1."""
        count = table.num_rows
        vectors = {key: join_columns(table, vector) for key, vector in self._contents.vectors.items()}
        following = {
            k: read_column(table, k, 1)[:, 0] if k in table.column_names else np.full(count, np.nan, np.float32)
            for k in (layout.REWARD, layout.SUCCESS, layout.PROGRESS)
        }
        first = {layout.SUCCESS: row.get("start_success"), layout.PROGRESS: row.get("start_progress")}
        along = {
            k: np.concatenate([[np.nan if first[k] is None else first[k]], following[k][:-1]]).astype(np.float32)
            for k in first
        }
        if np.isnan(along[layout.SUCCESS][0]) and layout.SUCCESS in table.column_names:
            along[layout.SUCCESS][0] = 0.0  # unless said otherwise, an episode does not begin solved
        if count == row["length"]:  # others mark success in the last row, after which they record no observation
            along[layout.SUCCESS][-1] = np.fmax(along[layout.SUCCESS][-1], following[layout.SUCCESS][-1])
        acted = count == row["length"] and (not self._contents.ours or bool(row.get("acted_last")))
        simulator = row.get("simulator_state")
        return Episode(
            frames=frames,
            proprio=vectors.get(STATE, np.zeros((count, 1), np.float32)),
            action=vectors[layout.ACTION][:-1],
            success=along[layout.SUCCESS],
            progress=along[layout.PROGRESS],
            reward=following[layout.REWARD][:-1],
            last_action=vectors[layout.ACTION][-1] if acted else None,
            last_reward=float(following[layout.REWARD][-1]) if acted else math.nan,
            true_state=vectors.get(TRUE_STATE),
            simulator=None if simulator is None else np.array(simulator, np.float64),
            seed=int(row.get("seed", -1)),
            behaviour=str(row.get("behaviour") or ""),
            task=self._task(table, row),
        )

    def _task(self, table: pa.Table, row: dict[str, Any]) -> str:
        """The sentence of an episode; where it changes on the way, all of them in order."""
        tasks = self._contents.tasks
        if "task_index" not in table.column_names or not tasks:
            return str(next(iter(row.get("tasks") or ()), self.task))
        numbers = list(dict.fromkeys(table["task_index"].to_pylist()))
        if unknown := [n for n in numbers if n not in tasks]:
            raise ValueError(f"task_index {unknown[0]} is not in {layout.TASKS}")
        return "; ".join(tasks[n] for n in numbers)


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
