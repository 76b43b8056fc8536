"""The format of the LeRobotDataset v3.0 folders that worldsim writes: files, features, columns.

`meta/worldsim.json` beside LeRobot's own files holds what that format has no place for: the action's meaning, the order
and intrinsics of the cameras, the task's id, when an episode counts as solved, whether a learned world drew the frames,
and the request that made the data (LeRobot warns of keys that it does not know in info.json).

Shape legend: H W image, P proprio, A action, E true state.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import pyarrow as pa

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.core import STATE, TRUE_STATE, Camera
from worldsim.errors import InvalidInputError

VERSION = "v3.0"
INFO, STATS, TASKS, EXTRA = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/worldsim.json"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
CHUNK = 1000
"""Files per chunk folder."""
ACTION, REWARD, SUCCESS, PROGRESS, DONE = "action", "next.reward", "next.success", "next.progress", "next.done"
VIDEO_SHA256 = "video_sha256"
FOOTER = b"worldsim"
"""Key of a data file's own metadata that holds its episode's row, so that `meta/` can be made again from `data/`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSpec:
    """What every episode of one dataset has in common.

    Attributes:
        action: Meaning of the actions; its rate is the dataset's.
        cameras: What the frames are, the main camera first.
        proprio_dim: P.
        true_state_dim: E, 0 where there is none.
        has_success: Whether success is known.
        has_progress: Whether progress is known.
        success_at: An episode is solved at its last step, or at any step.
        task: One sentence, for episodes that bring none of their own.
        task_id: Gymnasium id, where there is one.
        video: Store frames as mp4, nearly lossless, instead of as lossless pictures.
        dreamed_by: Name of the learned world that drew the frames and judged them; empty where a camera or a simulator
            saw what really happened.

    Raises:
        InvalidInputError: No camera, two of one key, a key that is no file name, or a width below 1.
    """

    action: ActionSpec
    cameras: tuple[Camera, ...]
    proprio_dim: int
    true_state_dim: int = 0
    has_success: bool = True
    has_progress: bool = True
    success_at: Literal["end", "any"] = "end"
    task: str = ""
    task_id: str = ""
    video: bool = False
    dreamed_by: str = ""

    def __post_init__(self) -> None:
        keys = [c.key for c in self.cameras]
        if not keys or len(set(keys)) != len(keys) or any("/" in k or "\0" in k for k in keys):
            raise InvalidInputError(f"RecordSpec needs cameras with different keys without '/'; got {keys}.")
        if self.proprio_dim < 1 or self.true_state_dim < 0:
            raise InvalidInputError(
                f"RecordSpec needs proprio_dim >= 1 and true_state_dim >= 0; got {self.proprio_dim} and "
                f"{self.true_state_dim}."
            )
        if self.success_at not in ("end", "any"):
            raise InvalidInputError(f"RecordSpec.success_at is 'end' or 'any'; got {self.success_at!r}.")

    def vectors(self) -> dict[str, int]:
        """Width of each vector column."""
        true_state = {TRUE_STATE: self.true_state_dim} if self.true_state_dim else {}
        return {STATE: self.proprio_dim, ACTION: self.action.dim, **true_state}

    def scalars(self) -> dict[str, pa.DataType]:
        """Type of each one-number column, in order."""
        known = {REWARD: pa.float32(), DONE: pa.bool_()}
        known |= {SUCCESS: pa.bool_()} if self.has_success else {}
        known |= {PROGRESS: pa.float32()} if self.has_progress else {}
        names = ("frame_index", "episode_index", "index", "task_index")
        return {**known, "timestamp": pa.float32(), **dict.fromkeys(names, pa.int64())}


def schema(spec: RecordSpec) -> pa.Schema:
    """Columns of a data file. As in LeRobot, a vector of width 1 is a plain number and video frames are elsewhere."""
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [] if spec.video else [(camera.key, picture) for camera in spec.cameras]
    fields += [(k, pa.float32() if n == 1 else pa.list_(pa.float32(), n)) for k, n in spec.vectors().items()]
    return pa.schema([*fields, *spec.scalars().items()])


def features(spec: RecordSpec) -> dict[str, Any]:
    """The `features` entry of info.json."""
    found = {camera.key: _camera_feature(camera, spec) for camera in spec.cameras}
    for name, width in spec.vectors().items():
        names = list(spec.action.names) if name == ACTION else [f"{name.rpartition('.')[2]}_{i}" for i in range(width)]
        found[name] = {"dtype": "float32", "shape": [width], "names": names}
    for name, kind in spec.scalars().items():
        found[name] = {"dtype": "float32" if kind == pa.float32() else str(kind), "shape": [1], "names": None}
    return found


def _camera_feature(camera: Camera, spec: RecordSpec) -> dict[str, Any]:
    """The feature of one camera."""
    picture: dict[str, Any] = {
        "dtype": "video" if spec.video else "image",
        "shape": [camera.height, camera.width, 3],
        "names": ["height", "width", "channels"],
    }
    if spec.video:
        picture["info"] = {
            "video.height": camera.height,
            "video.width": camera.width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv444p",
            "video.fps": fps(spec),
            "video.channels": 3,
            "has_audio": False,
            "is_depth_map": False,
        }
    return picture


def spec_json(spec: RecordSpec) -> dict[str, Any]:
    """A spec as worldsim.json keeps it.

    Fields that older folders lack are left out where they say nothing, so that those folders can be continued.
    """
    values: dict[str, Any] = storage.to_json(spec)
    if not spec.dreamed_by:
        del values["dreamed_by"]
    if spec.cameras == (Camera(height=spec.cameras[0].height, width=spec.cameras[0].width),):
        values["image_size"] = list(spec.cameras[0].size)
        del values["cameras"]
    return values


def info(spec: RecordSpec, *, episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """The content of info.json."""
    return {
        "codebase_version": VERSION,
        "fps": fps(spec),
        "features": features(spec),
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if spec.video else None,
        "robot_type": None,
        "splits": {"train": f"0:{episodes}"},
    }


def fps(spec: RecordSpec) -> int | float:
    """The rate as LeRobot likes it: a whole number where it is one."""
    rate = spec.action.rate_hz
    return int(rate) if rate == int(rate) else rate


def place(index: int) -> tuple[int, int]:
    """Chunk and file number of an episode."""
    return index // CHUNK, index % CHUNK


def data_file(index: int) -> str:
    """Relative path of an episode's data file."""
    chunk, file = place(index)
    return DATA_PATH.format(chunk_index=chunk, file_index=file)


def video_file(index: int, camera: str) -> str:
    """Relative path of an episode's video file of one camera."""
    chunk, file = place(index)
    return VIDEO_PATH.format(video_key=camera, chunk_index=chunk, file_index=file)


def video_digest_column(spec: RecordSpec, camera: str) -> str:
    """Column of the episodes table with the sha256 of a camera's video files."""
    return VIDEO_SHA256 if len(spec.cameras) == 1 else f"{VIDEO_SHA256}/{camera}"


def task_of(row: Mapping[str, Any], spec: RecordSpec) -> str:
    """An episode's sentence; its row names the task where it is not the dataset's."""
    return str(row.get("task", spec.task))


def distinct_tasks(rows: Iterable[Mapping[str, Any]], spec: RecordSpec) -> list[str]:
    """The sentences of some episodes in order of appearance: position is LeRobot's `task_index`."""
    return list(dict.fromkeys(task_of(row, spec) for row in rows))
