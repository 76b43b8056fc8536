"""Random recordings, written by LeRobot, and their comparison with LeRobot's own reader, row by row and pixel by pixel."""

import dataclasses
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worldsim.data.lerobot.read import Dataset

TASKS = ("open the drawer", "close the drawer", "press the button")
SIZES = ((64, 96), (96, 64), (64, 64), (80, 112))
CODECS = {"libsvtav1": "yuv420p", "h264": "yuv420p", "hevc": "yuv420p"}
DATA = "data/*/*.parquet"
EPISODES = "meta/episodes/*/*.parquet"


def load_lerobot(cache: Path) -> Any:
    """The class of LeRobot's datasets, without network, with its caches in a folder."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache), "SVT_LOG": "1"}
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    import datasets
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    datasets.config.HF_DATASETS_CACHE = cache / "datasets"
    datasets.disable_progress_bars()
    return LeRobotDataset


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
    """What a random recording holds.

    Attributes:
        fps: Rows per second.
        cameras: Sizes (H, W) by feature.
        videos: Cameras that are stored as video.
        codec: Of those.
        lengths: Rows of each episode.
        tasks: Sentence of each episode.
        file_mb: How large files may grow.
    """

    fps: int
    cameras: dict[str, tuple[int, int]]
    videos: tuple[str, ...]
    codec: str
    lengths: tuple[int, ...]
    tasks: tuple[str, ...]
    file_mb: float

    @classmethod
    def draw(cls, rng: np.random.Generator, *, video: bool | None = None) -> "Recording":
        """A random one; `video` says how its first camera is stored."""
        names = ["observation.images.top", "observation.images.wrist"][: 1 + int(rng.random() < 0.4)]
        stored = [bool(rng.random() < 0.6) for _ in names]
        stored[0] = stored[0] if video is None else video
        count = int(rng.integers(3, 5))
        return cls(
            fps=int(rng.choice([5, 10, 15, 24, 30])),
            cameras={name: SIZES[int(rng.integers(len(SIZES)))] for name in names},
            videos=tuple(name for name, s in zip(names, stored, strict=True) if s),
            codec=str(rng.choice(list(CODECS))),
            lengths=tuple(int(n) for n in rng.integers(6, 10, count)),
            tasks=tuple(str(t) for t in rng.choice(TASKS, count)),
            file_mb=float(rng.choice([0.0001, 100.0])),
        )

    def features(self) -> dict[str, Any]:
        """As LeRobot takes them."""
        found: dict[str, Any] = {
            name: {
                "dtype": "video" if name in self.videos else "image",
                "shape": (*size, 3),
                "names": ["height", "width", "channels"],
            }
            for name, size in self.cameras.items()
        }
        found["observation.state"] = {"dtype": "float32", "shape": (3,), "names": ["x", "y", "angle"]}
        found["action"] = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
        one: dict[str, Any] = {"shape": (1,), "names": None}
        return found | {"next.success": {"dtype": "bool", **one}, "next.reward": {"dtype": "float32", **one}}

    def write(self, lerobot: Any, root: Path, rng: np.random.Generator) -> None:
        """Write it; every frame is unlike all others, success stands in the last row alone."""
        from lerobot.configs.video import RGBEncoderConfig

        quality = {"crf": 20} | ({"preset": 12} if self.codec == "libsvtav1" else {"preset": "ultrafast"})
        writer = lerobot.create(
            "local/x",
            fps=self.fps,
            features=self.features(),
            root=root,
            use_videos=bool(self.videos),
            video_backend="pyav",
            rgb_encoder=RGBEncoderConfig(vcodec=self.codec, pix_fmt=CODECS[self.codec], **quality),
            data_files_size_in_mb=self.file_mb,
            video_files_size_in_mb=self.file_mb,
        )
        for length, task in zip(self.lengths, self.tasks, strict=True):
            for row in range(length):
                frames = {name: picture(rng, size) for name, size in self.cameras.items()}
                last = row == length - 1
                vectors = {"observation.state": rng.normal(size=3), "action": rng.uniform(-1, 1, 2)}
                numbers = {"next.reward": rng.random(1)}
                values = {k: v.astype(np.float32) for k, v in {**vectors, **numbers}.items()}
                writer.add_frame(
                    {**frames, **values, "next.success": np.array([last and bool(rng.random() < 0.5)]), "task": task}
                )
            writer.save_episode()
        writer.finalize()


def picture(rng: np.random.Generator, size: tuple[int, int]) -> Any:
    """Large squares of random colours: [H, W, 3]."""
    height, width = size
    small = rng.integers(0, 255, (-(-height // 16), -(-width // 16), 3), np.uint8)
    return small.repeat(16, 0).repeat(16, 1)[:height, :width]


def difference(lerobot: Any, root: Path, ours: Dataset) -> str:
    """What LeRobot reads otherwise than worldsim; empty where all rows are equal."""
    theirs = lerobot("local/x", root=root, video_backend="pyav", return_uint8=True)
    rows: dict[int, list[dict[str, Any]]] = {}
    for index in range(len(theirs)):
        item = theirs[index]
        rows.setdefault(int(item["episode_index"]), []).append(item)
    if len(rows) != ours.episodes:
        return f"{ours.episodes} episodes, LeRobot has {len(rows)}"
    for number, items in enumerate(rows.values()):
        if found := _compare(ours, number, items):
            return f"episode {number}: {found}"
    return ""


def _compare(ours: Dataset, number: int, items: list[dict[str, Any]]) -> str:
    """What differs in one episode."""
    episode = ours.episode(number)
    if episode.last_action is None or len(episode.proprio) != len(items):
        return f"{len(episode.proprio)} rows or no last action, LeRobot has {len(items)} rows"
    action = np.concatenate([episode.action, episode.last_action[None]])
    reward = [*episode.reward, episode.last_reward]
    for row, item in enumerate(items):
        pairs = {
            "action": (action[row], item["action"].numpy().ravel()),
            "reward": (reward[row], float(item["next.reward"])),
        }
        pairs["state"] = (episode.proprio[row], item["observation.state"].numpy().ravel())
        for camera, name in zip(ours.cameras, ours.features, strict=True):
            pairs[name] = (episode.frames[camera.key][row], _pixels(item[name]))
        for what, (mine, other) in pairs.items():
            if not np.array_equal(mine, other):
                return f"{what} of row {row}"
    if bool(episode.success.max()) != any(bool(item["next.success"]) for item in items):
        return "success"
    sentences = list(dict.fromkeys(item["task"] for item in items))
    return "" if episode.task == "; ".join(sentences) else f"task {episode.task!r}"


def _pixels(value: Any) -> Any:
    """A picture of LeRobot's as uint8 [H, W, 3]."""
    pixels = value.permute(1, 2, 0).numpy()
    return pixels if pixels.dtype == np.uint8 else np.round(pixels * 255).astype(np.uint8)


def files(root: Path, pattern: str = DATA) -> list[Path]:
    """The parquet files of a recording."""
    return sorted(root.glob(pattern))


def replace_columns(file: Path, columns: dict[str, Any]) -> None:
    """Replace columns of a parquet file in their places, None drops one; other columns and metadata stay."""
    table = pq.read_table(file, partitioning=None)
    for name, values in columns.items():
        place = table.column_names.index(name) if name in table.column_names else table.num_columns
        if name in table.column_names:
            table = table.remove_column(place)
        if values is not None:
            table = table.add_column(place, name, values if isinstance(values, pa.Array) else pa.array(values))
    pq.write_table(table.replace_schema_metadata(_metadata(table, columns)), file)


def _metadata(table: pa.Table, columns: dict[str, Any]) -> Any:
    """The metadata of a table, unless a column was dropped that it speaks of."""
    return None if any(values is None for values in columns.values()) else table.schema.metadata
