"""Made-up episodes, specs and environments for the tests of the data package."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import IMAGE, STATE, Camera
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.noise import uniform

ACTION = ActionSpec(names=("vx", "vy"), units=("m/s", "m/s"), low=(-0.4, -0.4), high=(0.4, 0.4), rate_hz=10)
CAMERA = Camera(height=16, width=24)
TOP, WRIST = "observation.images.top", "observation.images.wrist_left"
PAIR = (
    Camera(key=WRIST, height=18, width=30, intrinsics=((30.0, 0.0, 15.0), (0.0, 30.0, 9.0), (0.0, 0.0, 1.0))),
    Camera(key=TOP, height=32, width=20),
)
"""Two cameras of different sizes; the main one is not the first in the alphabet."""
FIELDS = (
    "proprio",
    "action",
    "success",
    "progress",
    "reward",
    "true_state",
    "simulator",
    "seed",
    "behaviour",
)


def spec(**changes: Any) -> RecordSpec:
    return RecordSpec(**{"action": ACTION, "cameras": (CAMERA,), "proprio_dim": 3, "task": "push it", **changes})


def episode(
    index: int,
    *,
    steps: int = 6,
    true_state_dim: int = 0,
    cameras: tuple[Camera, ...] = (CAMERA,),
    task: str = "",
) -> Episode:
    r = np.random.default_rng(index)
    rows = steps + 1
    return Episode(
        frames={c.key: film(rows, c.size, index + 20 * i) for i, c in enumerate(cameras)},
        proprio=r.normal(size=(rows, 3)).astype(np.float32),
        action=r.uniform(-0.4, 0.4, (steps, 2)).astype(np.float32),
        success=(r.random(rows) > 0.5).astype(np.float32),
        progress=r.random(rows).astype(np.float32),
        reward=r.normal(size=steps).astype(np.float32),
        true_state=r.normal(size=(rows, true_state_dim)).astype(np.float32) if true_state_dim else None,
        simulator=r.normal(size=5),
        seed=100 + index,
        behaviour=f"b{index % 2}",
        task=task,
    )


def film(rows: int, size: tuple[int, int], shade: int) -> Any:
    """Frames of a bright patch that moves over a bar."""
    frames = np.zeros((rows, *size, 3), np.uint8)
    frames[:, 4:9] = (200, 30, 40)
    for t in range(rows):
        frames[t, 2:8, t : t + 6] = (20, 90, 255 - 3 * shade)
    return frames


def write(path: Path, count: int, *, tasks: tuple[str, ...] = ("",), **changes: Any) -> Path:
    """Episode i has 4 + i steps and the sentence i of `tasks`, which repeat."""
    given = {k: changes[k] for k in ("true_state_dim", "cameras") if k in changes}
    with episode_writer(path, spec(**changes)) as writer:
        for i in range(writer.count, count):
            writer.write(episode(i, steps=4 + i, task=tasks[i % len(tasks)], **given))
    return path


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def child_env() -> dict[str, str]:
    """Environment of a child process that imports worldsim and, as `toys`, this file."""
    here = Path(__file__).parent
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)])}


class DotEnv(gymnasium.Env[Any, Any]):
    """A dot driven about by its velocity, and a block that it pushes along; everything a dataset can hold."""

    metadata = {"render_fps": 10, "task": "Push the block."}  # noqa: RUF012
    action_spec = ACTION

    def __init__(self, steps: int = 8) -> None:
        self.observation_space = gymnasium.spaces.Dict(
            pixels=gymnasium.spaces.Box(0, 255, (16, 24, 3), np.uint8),
            agent_pos=gymnasium.spaces.Box(-1, 1, (3,), np.float32),
        )
        self.action_space = gymnasium.spaces.Box(-0.4, 0.4, (2,), np.float32)
        self.steps = steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.dot, self.block, self.t = self.np_random.uniform(0.2, 0.8, 2), self.np_random.uniform(0.3, 0.7, 2), 0
        return self.observe(), self.info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.dot = np.clip(self.dot + 0.3 * np.asarray(action, float), 0, 1)
        if np.linalg.norm(self.dot - self.block) < 0.2:
            self.block = np.clip(self.block + 0.3 * np.asarray(action, float), 0, 1)
        self.t += 1
        info = self.info()
        return self.observe(), info.get("progress", 0.0), False, self.t >= self.steps, info

    def pixels(self) -> Any:
        return DotEnv.observe(self)["pixels"]

    def observe(self) -> dict[str, Any]:
        frame = np.full((16, 24, 3), 230, np.uint8)
        for (y, x), colour in ((self.block, (200, 30, 30)), (self.dot, (30, 30, 220))):
            row, column = int(y * 13), int(x * 21)
            frame[row : row + 3, column : column + 3] = colour
        return {"pixels": frame, "agent_pos": np.array([*self.dot, 0], np.float32)}

    def info(self) -> dict[str, Any]:
        away = float(np.linalg.norm(self.block - 0.5))
        return {"is_success": away < 0.1, "progress": max(0.0, 1 - away)}

    def get_state(self) -> Any:
        return np.array([*self.dot, *self.block])

    def set_state(self, state: Any) -> None:
        self.dot, self.block = state[:2].copy(), state[2:].copy()


class Noisy:
    """Drives about, as its keys say; keeps the frames it is given."""

    def __init__(self, gain: float = 0.4, needs: frozenset[str] = frozenset({IMAGE, STATE})) -> None:
        self.gain, self.needs = gain, needs
        self.seen: list[Tensor] = []

    def initial(self, n: int) -> None:
        return None

    def act(self, observation: dict[str, Tensor], carry: Any, keys: Tensor) -> tuple[Tensor, None]:
        self.seen.append(observation[next(k for k in (IMAGE, TOP) if k in self.needs)])
        return (uniform(keys, 0, (2,)) * 2 - 1) * self.gain, None


def as_foreign(path: Path) -> Path:
    """Turn a folder that worldsim wrote into one that another program might have written."""
    (path / "meta/worldsim.json").unlink()
    file = path / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    own = ("seed", "behaviour", "sha256", "start_success", "start_progress", "end_success", "simulator_state")
    digests = [name for name in table.column_names if name.startswith("video_sha256")]
    pq.write_table(table.drop_columns([*own, *digests]), file)
    return path


def edit_info(path: Path, **changes: Any) -> None:
    """Change entries of info.json."""
    file = path / "meta/info.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_rows(path: Path, index: int = 1, **columns: Any) -> None:
    """Change columns of an episode's data file, each given as a list or an arrow array; None drops one."""
    file = path / f"data/chunk-000/file-{index:03d}.parquet"
    table = pq.read_table(file)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values) if isinstance(values, list) else values)
    pq.write_table(table, file)


def edit_episodes(path: Path, **columns: Any) -> None:
    """Change columns of the episodes table; None drops one."""
    file = path / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    for name, values in columns.items():
        if name in table.column_names:
            table = table.drop_columns([name])
        if values is not None:
            table = table.append_column(name, pa.array(values))
    pq.write_table(table, file)


def as_hub_cache(source: Path, place: Path) -> Path:
    """The same files as the hub's cache lays them out: links into `blobs`."""
    repository = place / "datasets--me--d"
    snapshot = repository / "snapshots" / ("a1" * 20)
    (repository / "blobs").mkdir(parents=True)
    for file in (p for p in source.rglob("*") if p.is_file()):
        blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


def features(path: Path) -> dict[str, Any]:
    """The features of info.json."""
    return dict(json.loads((path / "meta/info.json").read_text())["features"])


def rename_column(path: Path, index: int, old: str, new: str) -> None:
    """Rename a column of an episode's data file."""
    file = path / f"data/chunk-000/file-{index:03d}.parquet"
    table = pq.read_table(file)
    pq.write_table(table.rename_columns([new if name == old else name for name in table.column_names]), file)


def cut_rows(path: Path, index: int, count: int) -> None:
    """Leave only the first rows of an episode."""
    file = path / f"data/chunk-000/file-{index:03d}.parquet"
    pq.write_table(pq.read_table(file).slice(0, count), file)
    table = pq.read_table(path / "meta/episodes/chunk-000/file-000.parquet")
    lengths = [count if i == index else n for i, n in enumerate(table["length"].to_pylist())]
    edit_episodes(path, length=lengths)
