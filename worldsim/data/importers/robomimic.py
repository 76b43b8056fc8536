"""HDF5 files of robomimic and LIBERO: `data/demo_N` with actions, observations, rewards; attributes with rate and task.

A file of somebody else's may name other files: external links, soft links, external storage and virtual datasets are refused
by name, and every size is looked at before anything is unpacked.

Shape legend: T rows, H W image, W width of a field.
"""

import contextlib
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from worldsim.arrays import Bytes, Float32s
from worldsim.data.importers.convert import ImportOptions, SourceEpisode, check_size
from worldsim.errors import InvalidInputError, StorageError, WorldsimError, missing_extra, unknown_name
from worldsim.json_values import parse_json
from worldsim.text import shorten

SUFFIXES = (".hdf5", ".h5")
STATES = (
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ("ee_states", "gripper_states"),
    ("joint_states", "gripper_states"),
)
"""Fields that are the proprioception where all of a row are there: robomimic's, LIBERO's."""
_WIDEST = 64
_MOST_NUMBERS = 1 << 26
_DEMO = re.compile(r"demo_(\d+)$")
_MOST_ATTRIBUTE = 1 << 20
_DAMAGED = (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError)


class RobomimicSource:
    """HDF5 files of demonstrations; attributes as `worldsim.data.importers.convert.Source`.

    Args:
        path: A file, or a folder of files, which are read in the order of their names.
        options: What to take.

    Raises:
        MissingExtraError: h5py is not installed.
        StorageError: A file is damaged, names other files, or holds no demonstrations.
        InvalidInputError: Nothing can be taken.
        UnknownNameError: There is no such field; those that there are are listed.
    """

    def __init__(self, path: Path, options: ImportOptions) -> None:
        _h5py()
        self.files = find_hdf5(path)
        self.identity = {f.name: f.stat().st_size for f in self.files}
        with _open(self.files[0]) as data:
            demos = _demos(data)
            first = _child(data, demos[0])
            observations = _child(first, "obs")
            shapes = {name: _dataset(observations, name) for name in observations}
            numbers = {n: d.shape[1:] for n, d in shapes.items() if d.ndim in (1, 2) and d.dtype.kind in "fiu"}
            images = {n: d.shape for n, d in shapes.items() if d.ndim == 4 and d.shape[-1] == 3 and d.dtype == np.uint8}
            self._images = {_camera(n): n for n in images}
            self.cameras = tuple(_named("camera", n, self._images) for n in options.cameras) or tuple(self._images)
            self._state = _state(options.state, numbers)
            self._action = options.action or ("actions",)
            widths = [math.prod(_dataset(first, name).shape[1:]) for name in self._action]
            self.rate_hz, libero = _rate(data), "problem_info" in data.attrs
        self.action_names = _names(self._action, widths)
        parts = [f"{n}[{math.prod(numbers[n])}]" for n in self._state]
        left = [n for n in shapes if n not in self._state and n not in images]
        self.notes = (
            f"Action: {' + '.join(f'{n}[{w}]' for n, w in zip(self._action, widths, strict=True))}.",
            f"State: {' + '.join(parts) or 'none, one zero instead'}.",
            *([f"Observations left out: {', '.join(left)}."] if left else []),
            *_turn_notes(options.turn, libero=libero),
        )

    def read(self) -> Iterator[SourceEpisode]:
        """The demonstrations in order of files and numbers; rows [T, ...] as `SourceEpisode` says."""
        for file in self.files:
            with _open(file) as data:
                task = _task(data, file)
                for name in _demos(data):
                    yield self._episode(_child(data, name), f"{file.name} {name}", task)

    def _episode(self, demo: Any, where: str, task: str) -> SourceEpisode:
        action = _joined(demo, self._action, None, where)
        observations = _child(demo, "obs")
        rows = len(action)
        claimed = demo.attrs.get("num_samples")
        if claimed is not None and int(claimed) != rows:
            raise StorageError(
                f"{where} claims {int(claimed)} samples and has {rows} actions. Download the file again."
            )
        there = [n for n in self.cameras if self._images[n] in observations]
        return SourceEpisode(
            name=where,
            action=action,
            state=_joined(observations, self._state, rows, where) if self._state else np.zeros((rows, 1), np.float32),
            reward=_joined(demo, ("rewards",), rows, where)[:, 0] if "rewards" in demo else None,
            task=task,
            absent=frozenset(self.cameras) - frozenset(there),
            pictures=functools.partial(_pictures, observations, self._images, rows, where),
        )


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "import") from error
    return h5py


def find_hdf5(path: Path) -> list[Path]:
    """The HDF5 file at `path`, or those in a folder.

    Raises:
        StorageError: There is none.
    """
    files = sorted(p for p in path.iterdir() if p.suffix in SUFFIXES) if path.is_dir() else [path]
    if not files or not all(f.is_file() for f in files):
        raise StorageError(f"There is no HDF5 file ({', '.join(SUFFIXES)}) at {path}. Check the path.")
    return files


@contextlib.contextmanager
def _open(file: Path) -> Iterator[Any]:
    """The group `data` of a file; whatever the library makes of damage names the file."""
    try:
        with _h5py().File(file, "r") as handle:
            yield _child(handle, "data")
    except _DAMAGED as error:
        if isinstance(error, WorldsimError):
            raise
        raise StorageError(
            f"{file} could not be read ({shorten(str(error), width=200)}). Download it again."
        ) from error


def _child(group: Any, name: str) -> Any:
    """What a group holds in itself under a name.

    Raises:
        StorageError: Nothing, or a link to somewhere else.
    """
    link = group.get(name, getlink=True)
    where = f"{group.file.filename}: {group.name.rstrip('/')}/{name}"
    if link is None:
        raise StorageError(f"{where} is missing; there are {', '.join(list(group)[:12]) or 'no entries'}.")
    if not isinstance(link, _h5py().HardLink):
        raise StorageError(f"{where} is a link to somewhere else ({type(link).__name__}). Do not trust this file.")
    return group[name]


def _dataset(group: Any, name: str) -> Any:
    """A dataset that lies in the file itself."""
    found = _child(group, name)
    where = f"{group.file.filename}: {group.name}/{name}"
    if not isinstance(found, _h5py().Dataset):
        raise StorageError(f"{where} is a group; an array is expected there.")
    if found.is_virtual or found.external:
        raise StorageError(f"{where} keeps its values in other files. Do not trust this file.")
    return found


def _demos(data: Any) -> list[str]:
    """Names of the demonstrations, in order of their numbers."""
    found = sorted((int(m[1]), name) for name in data if (m := _DEMO.fullmatch(name)))
    if not found:
        raise StorageError(f"{data.file.filename} holds no data/demo_N. Give a file of robomimic's or LIBERO's form.")
    return [name for _, name in found]


def _camera(name: str) -> str:
    """What a camera is called without saying that it makes pictures."""
    return name.removesuffix("_image").removesuffix("_rgb")


def _named(what: str, given: str, names: Mapping[str, Any]) -> str:
    if given in names:
        return given
    matches = [n for n, full in names.items() if full == given]
    if not matches:
        raise unknown_name(what, given, names)
    return matches[0]


def _state(given: Sequence[str], numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Fields of the proprioception: those that are named, else the known ones, else every small vector of the robot."""
    for name in given:
        if name not in numbers:
            raise unknown_name("state field", name, numbers)
    known = next((row for row in STATES if all(n in numbers for n in row)), None)
    small = [n for n, shape in numbers.items() if math.prod(shape) <= _WIDEST]
    robot = [n for n in small if n.startswith("robot0_")]
    return tuple(given or known or robot or small)


def _names(fields: Sequence[str], widths: Sequence[int]) -> tuple[str, ...]:
    stems = ["action"] if tuple(fields) == ("actions",) else list(fields)
    return tuple(f"{s}_{i}" if w > 1 else s for s, w in zip(stems, widths, strict=True) for i in range(w))


def _turn_notes(turn: str, *, libero: bool) -> list[str]:
    """What is done about pictures that are upside down."""
    if turn != "none":
        return [f"Pictures are turned: {'upside down' if turn == 'rows' else 'by half a turn'}."]
    if not libero:
        return []
    return [
        "LIBERO stores its pictures upside down; they are taken as they are. --turn rows sets them upright; --turn half makes "
        "what LeRobot's and OpenVLA's copies hold."
    ]


def _attribute(data: Any, name: str) -> Mapping[str, Any]:
    """An attribute that holds JSON; empty where there is none."""
    if name not in data.attrs:
        return {}
    value = data.attrs[name]
    text = value.decode("utf8", errors="replace") if isinstance(value, bytes) else value
    if not isinstance(text, str) or len(text) > _MOST_ATTRIBUTE:
        raise StorageError(
            f"{data.file.filename}: the attribute {name} is no text of at most {_MOST_ATTRIBUTE} characters."
        )
    found = parse_json(text, source=f"{data.file.filename}: the attribute {name}")
    return found if isinstance(found, Mapping) else {}


def _rate(data: Any) -> float | None:
    """Rows per second, as the environment's arguments have it."""
    settings = _attribute(data, "env_args").get("env_kwargs")
    rate = settings.get("control_freq") if isinstance(settings, Mapping) else None
    return float(rate) if isinstance(rate, int | float) and 0 < rate < 1e6 else None


def _task(data: Any, file: Path) -> str:
    """LIBERO's instruction, else the name of robomimic's environment, else the file's."""
    instruction = _attribute(data, "problem_info").get("language_instruction")
    if isinstance(instruction, list):
        instruction = " ".join(map(str, instruction))
    name = _attribute(data, "env_args").get("env_name")
    return shorten(str(instruction or name or file.stem), width=500)


def _joined(group: Any, fields: Sequence[str], rows: int | None, where: str) -> Float32s:
    """Fields side by side, float32 [T, W]."""
    parts = []
    for name in fields:
        values = _dataset(group, name)
        rows = len(values) if rows is None else rows
        if values.ndim not in (1, 2) or len(values) != rows or values.dtype.kind not in "fiub" or not values.size:
            raise StorageError(f"{where}: {name} is {values.dtype} {values.shape}; expected {rows} rows of numbers.")
        if values.size > _MOST_NUMBERS:
            raise InvalidInputError(f"{where}: {name} has {values.size} numbers; at most {_MOST_NUMBERS} are read.")
        parts.append(np.asarray(values[()], np.float32).reshape(rows, -1))
    return np.concatenate(parts, axis=1)


def _pictures(observations: Any, images: Mapping[str, str], rows: int, where: str, name: str) -> Bytes:
    """Frames of one camera, uint8 [T, H, W, 3]."""
    values = _dataset(observations, images[name])
    if values.ndim != 4 or values.shape[-1] != 3 or values.dtype != np.uint8 or len(values) != rows:
        raise StorageError(f"{where}: {name} is {values.dtype} {values.shape}; expected uint8 [{rows}, H, W, 3].")
    check_size(values.shape, where=f"{where}: {name}")
    frames: Bytes = values[()]
    return frames
