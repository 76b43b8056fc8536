"""What is planted in copies of recordings for `benchmarks.dataset_faults`: each changes a folder and returns the one to open."""

import hashlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.recordings import EPISODES, files, replace_columns
from worldsim.data.lerobot.read import open_dataset

Rng = np.random.Generator
TOP = "observation.images.top"


def read_info(root: Path) -> dict[str, Any]:
    """The content of info.json."""
    return dict(json.loads((root / "meta/info.json").read_text()))


def edit_info(root: Path, **changes: Any) -> None:
    """Change entries of info.json."""
    (root / "meta/info.json").write_text(json.dumps(read_info(root) | changes))


def keep_rows(root: Path, keep: Callable[[int], bool], fps: float) -> Path:
    """Leave some rows of each episode, with all indices right; timestamps stay true to the video."""
    lengths: dict[int, int] = {}
    for file in files(root):
        table = pq.read_table(file, partitioning=None)
        chosen = [keep(i) for i in table["frame_index"].to_pylist()]
        table = table.filter(pa.array(chosen))
        pq.write_table(table, file)
        episodes, first = table["episode_index"].to_pylist(), sum(lengths.values())
        numbers = []
        for episode in episodes:
            numbers.append(lengths.get(episode, 0))
            lengths[episode] = numbers[-1] + 1
        replace_columns(file, {"frame_index": numbers, "index": list(range(first, first + len(numbers)))})
    for file in files(root, EPISODES):
        count = [lengths[i] for i in pq.read_table(file, partitioning=None)["episode_index"].to_pylist()]
        ends = np.cumsum([lengths[i] for i in sorted(lengths)])
        order = pq.read_table(file, partitioning=None)["episode_index"].to_pylist()
        to = [int(ends[i]) for i in order]
        starts = [e - n for e, n in zip(to, count, strict=True)]
        replace_columns(file, {"length": count, "dataset_from_index": starts, "dataset_to_index": to})
    edit_info(root, fps=fps, total_frames=sum(lengths.values()))
    return root


def thin(root: Path, rng: Rng) -> Path:
    """Every second or third row, and the rate that belongs to it where that is a whole number."""
    fps = read_info(root)["fps"]
    step = next(n for n in (int(rng.integers(2, 4)), 2, 3, 5) if fps % n == 0)
    return keep_rows(root, lambda i: i % step == 0, fps // step)


def thin_only(root: Path, rng: Rng) -> Path:
    """Every second row, and the rate as it was."""
    return keep_rows(root, lambda i: i % 2 == 0, read_info(root)["fps"])


def cut_first(root: Path, rng: Rng) -> Path:
    """Without the first rows of each episode."""
    first = int(rng.integers(1, 4))
    return keep_rows(root, lambda i: i >= first, read_info(root)["fps"])


def recode(root: Path, speed: float, copies: int) -> Path:
    """Every video at another rate, each frame so many times."""
    for file in root.glob(f"videos/{TOP}/*/*.mp4"):
        with av.open(str(file)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            rate = container.streams.video[0].average_rate
        with av.open(str(file), "w") as container:
            stream: Any = container.add_stream(
                "libx264", rate=rate * copies if speed == 1 else round(float(rate) * speed)
            )
            (stream.height, stream.width), stream.pix_fmt = frames[0].shape[:2], "yuv444p"
            for frame in frames:
                for _ in range(copies):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return root


def double_rate(root: Path, rng: Rng) -> Path:
    """Twice the rate, every frame twice."""
    return recode(root, 1, 2)


def other_rate(root: Path, rng: Rng) -> Path:
    """Four fifths of the rate: frames stand between the rows."""
    return recode(root, 0.8, 1)


def shift_times(root: Path, rng: Rng) -> Path:
    """Rows half a frame late."""
    fps = read_info(root)["fps"]
    for file in files(root):
        times = pq.read_table(file, partitioning=None)["timestamp"].to_numpy() + 0.5 / fps
        replace_columns(file, {"timestamp": pa.array(times.astype(np.float32))})
    return root


def turn(root: Path, rng: Rng) -> Path:
    """A quarter or half turn in the container; the declared shape is that of the upright picture, or as it was."""
    degrees, one = int(rng.choice([90, 180, 270])), 1 << 16
    matrix = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0)}[degrees]
    for file in root.glob(f"videos/{TOP}/*/*.mp4"):
        data = bytearray(file.read_bytes())
        place = data.find(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
        for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
            data[place + offset : place + offset + 4] = value.to_bytes(4, "big", signed=True)
        file.write_bytes(data)
    features = read_info(root)["features"]
    if degrees != 180 and rng.random() < 0.7:
        height, width, channels = features[TOP]["shape"]
        features[TOP]["shape"] = [width, height, channels]
    edit_info(root, features=features, turned=degrees)
    return root


def upright(root: Path, original: Path) -> str:
    """Whether the frames stand as the container says."""
    turns = -read_info(root)["turned"] // 90
    for index in range(open_dataset(root).episodes):
        mine, plain = (open_dataset(r).episode(index).frames[TOP] for r in (root, original))
        if not np.array_equal(mine, np.rot90(plain, turns, axes=(1, 2))):
            return f"episode {index} is not upright"
    return ""


def edit_pictures(root: Path, change: Callable[[Image.Image, int], Image.Image], kind: str = "png") -> Path:
    """Change the pictures of a camera by their row."""
    for file in files(root):
        table = pq.read_table(file, partitioning=None)
        cells = table[TOP].to_pylist()
        rows = table["frame_index"].to_pylist()
        changed = []
        for cell, row in zip(cells, rows, strict=True):
            buffer = io.BytesIO()
            change(Image.open(io.BytesIO(cell["bytes"])), row).save(buffer, kind)
            changed.append({"bytes": buffer.getvalue(), "path": cell["path"]})
        replace_columns(file, {TOP: pa.array(changed, table.schema.field(TOP).type)})
    return root


def deepen(root: Path, rng: Rng) -> Path:
    """Gray pictures of 16 bits, PNG or TIFF."""

    def deep(image: Image.Image, row: int) -> Image.Image:
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200)

    return edit_pictures(root, deep, str(rng.choice(["png", "tiff"])))


def resize_midway(root: Path, rng: Rng) -> Path:
    """Half the size from a row on."""
    first = int(rng.integers(1, 5))
    return edit_pictures(root, lambda image, row: image if row < first else image.resize((32, 32)))


def declare_depth(root: Path, rng: Rng) -> Path:
    """The only camera, or all, as depth maps."""
    features = read_info(root)["features"]
    for feature in features.values():
        if feature["dtype"] in ("image", "video"):
            feature["info"] = (feature.get("info") or {}) | {"is_depth_map": True}
    edit_info(root, features=features)
    return root


def channels_first(root: Path, rng: Rng) -> Path:
    """The same pictures, declared in another order, with or without names."""
    features = read_info(root)["features"]
    for feature in features.values():
        if feature["dtype"] in ("image", "video"):
            height, width, channels = feature["shape"]
            feature["shape"] = [channels, height, width]
            names = [["channels", "height", "width"], ["c", "h", "w"], ["rgb", "height", "width"], None]
            feature["names"] = names[int(rng.integers(4))]
    edit_info(root, features=features)
    return root


def shuffle_tasks(root: Path, rng: Rng) -> Path:
    """Other sentences for the episodes; in some a second one in the last rows."""
    count = len(pq.read_table(root / "meta/tasks.parquet"))
    for file in files(root):
        table = pq.read_table(file, partitioning=None)
        episodes = table["episode_index"].to_pylist()
        tasks = {e: int(rng.integers(count)) for e in sorted(set(episodes))}
        late = {e: int(rng.integers(count)) for e in tasks}
        rows = zip(episodes, table["frame_index"].to_pylist(), strict=True)
        replace_columns(file, {"task_index": [tasks[e] if row < 4 or e % 2 else late[e] for e, row in rows]})
    return root


def repeat_index(root: Path, rng: Rng) -> Path:
    """A row's number twice."""
    file = files(root)[-1]
    numbers = pq.read_table(file, partitioning=None)["frame_index"].to_pylist()
    place = int(rng.choice([i for i in range(1, len(numbers)) if numbers[i]]))
    numbers[place] = numbers[place - 1]
    replace_columns(file, {"frame_index": numbers})
    return root


def ragged(root: Path, rng: Rng) -> Path:
    """Rows whose numbers of actions are right in sum only."""
    file = files(root)[0]
    rows = pq.read_table(file, partitioning=None)["action"].to_pylist()
    place = int(rng.integers(1, len(rows) - 1))
    rows[place], rows[place + 1] = [*rows[place], rows[place + 1][0]], rows[place + 1][1:]
    replace_columns(file, {"action": pa.array(rows, pa.list_(pa.float32()))})
    return root


def drop_state(root: Path, rng: Rng) -> Path:
    """A column that info.json promises is not there."""
    for file in files(root)[-1:]:
        replace_columns(file, {"observation.state": None})
    return root


def not_a_number(root: Path, rng: Rng) -> Path:
    """NaN or infinity in one number."""
    file, name = files(root)[-1], str(rng.choice(["action", "observation.state"]))
    column = pq.read_table(file, partitioning=None)[name]
    rows = np.array(column.to_pylist(), np.float32)
    rows[int(rng.integers(len(rows))), int(rng.integers(rows.shape[1]))] = rng.choice([np.nan, np.inf])
    replace_columns(file, {name: pa.array(rows.tolist(), column.type)})
    return root


def hub_cache(root: Path, rng: Rng) -> Path:
    """Every file a link into the repository's store of blobs."""
    repository = root.with_name(root.name + "-hub") / "datasets--me--x"
    snapshot = repository / "snapshots" / ("a1" * 20)
    (repository / "blobs").mkdir(parents=True)
    for file in (p for p in root.rglob("*") if p.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(root)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def split_action(root: Path, rng: Rng) -> Path:
    """Two features of one number each, one of them with a shape written as []."""
    info = read_info(root)
    one: dict[str, Any] = {"dtype": "float32", "shape": [], "names": None}
    features = {k: f for k, f in info["features"].items() if k != "action"}
    edit_info(root, features=features | {"action.a": one, "action.b": one | {"shape": [1]}})
    for file in files(root):
        column = pq.read_table(file, partitioning=None)["action"]
        rows = np.array(column.to_pylist(), np.float32)
        parts = {f"action.{name}": pa.array(rows[:, i]) for i, name in enumerate("ab")}
        replace_columns(file, {"action": None, **parts})
    return root


def joined(root: Path, original: Path) -> str:
    """Whether the actions are as they were."""
    mine, plain = open_dataset(root), open_dataset(original)
    for index in range(plain.episodes):
        if not np.array_equal(mine.episode(index).action, plain.episode(index).action):
            return f"actions of episode {index}"
    return "" if mine.notes else "nothing is said of the order"


def lose_camera(root: Path, rng: Rng) -> Path:
    """No video file is there; other cameras may be stored as pictures."""
    for file in root.glob("videos/*/*/*.mp4"):
        file.unlink()
    return root


def left_out(root: Path, original: Path) -> str:
    """Whether the lost cameras are named, and those that are left are as they were."""
    mine, plain = open_dataset(root), open_dataset(original)
    lost = set(plain.features) - set(mine.features)
    if TOP not in lost or not all(any(name in note for note in mine.notes) for name in lost):
        return f"of {lost} nothing is said"
    for index in range(plain.episodes):
        pairs = [(mine.episode(index).frames[c.key], plain.episode(index).frames[c.key]) for c in mine.cameras]
        if not all(np.array_equal(a, b) for a, b in pairs):
            return f"frames of episode {index}"
    return ""


def cut_file(root: Path, rng: Rng) -> Path:
    """A data or video file whose end is missing."""
    file = Path(str(rng.choice([str(p) for p in (*files(root), *root.glob("videos/*/*/*.mp4"))])))
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * rng.uniform(0.2, 0.9))])
    return root
