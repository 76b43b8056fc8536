"""Writes the episodes of a source as a LeRobotDataset v3 folder: all of them, or the folder does not appear.

A source is read twice: once without pictures, for the range of the actions and for what must be left out, and once to
write. Episodes are written into `OUT.importing`, which takes its final name when the last is there; a killed import is
continued by the same call.

Shape legend: T rows, H W image, P proprio, A action.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from worldsim import storage
from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float32s
from worldsim.core import IMAGES, Camera
from worldsim.data.episode import Episode
from worldsim.data.lerobot import format as layout
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError
from worldsim.progress import Progress, silent
from worldsim.runs import require_same_request
from worldsim.text import printable

MOST_PICTURE_BYTES = 4 << 30
"""Frames of one camera and episode that are larger are refused before they are unpacked."""
UNFINISHED = ".importing"
_MARGIN = 0.5
_LISTED = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """What is taken from a source, and how it is stored.

    Attributes:
        action: Fields that are joined to the actions, in this order; empty for the source's own choice.
        state: Fields that are joined to the proprioception; empty for the source's own choice.
        cameras: Cameras, the main one first; empty for all that every episode has.
        rate_hz: Rows per second; None for what the source says.
        episodes: How many to take from the beginning; None for all.
        turn: ``"rows"`` turns pictures upside down, ``"half"`` by half a turn; ``"none"`` leaves them as they are stored.
        video: Store mp4 instead of lossless pictures.
    """

    action: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    rate_hz: float | None = None
    episodes: int | None = None
    turn: Literal["none", "rows", "half"] = "none"
    video: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SourceEpisode:
    """One episode as a source has it: row t holds observation t and what was done there.

    Attributes:
        name: Where it is, for messages.
        action: float32 [T, A].
        state: float32 [T, P].
        reward: float32 [T], or None.
        task: One sentence, or empty.
        absent: Cameras that have no real pictures in this episode.
        pictures: From a camera's name to its frames, uint8 [T, H, W, 3]; unpacked when they are asked for.
    """

    name: str
    action: Float32s
    state: Float32s
    reward: Float32s | None
    task: str
    absent: frozenset[str]
    pictures: Callable[[str], Bytes]


class Source(Protocol):
    """Recordings of another format.

    Attributes:
        rate_hz: Rows per second, or None.
        cameras: Names of the cameras that may be taken, in order.
        action_names: Of the A dimensions.
        notes: What is joined, taken and left out, in sentences for people.
        identity: Names and sizes of the files; the same for the same content.
    """

    rate_hz: float | None
    cameras: tuple[str, ...]
    action_names: tuple[str, ...]
    notes: tuple[str, ...]
    identity: dict[str, int]

    def read(self) -> Iterator[SourceEpisode]:
        """The episodes in order; rows [T, ...] as `SourceEpisode` says."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImportSummary:
    """What an import did.

    Attributes:
        out: The dataset folder.
        episodes: How many it holds.
        frames: Their observations.
        solved: Episodes that count as solved; None where success is not known.
        notes: What was joined, taken, assumed and left out, in sentences for people.
    """

    out: Path
    episodes: int
    frames: int
    solved: int | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Survey:
    """What the first reading found."""

    kept: frozenset[int]
    names: tuple[str, ...]
    cameras: tuple[Camera, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    proprio_dim: int
    task: str
    knows_success: bool
    frames: int
    solved: int
    notes: tuple[str, ...]


def import_episodes(source: Source, out: Path, options: ImportOptions, *, progress: Progress = silent) -> ImportSummary:
    """Write a dataset folder from a source; called again after a kill, it continues.

    Args:
        source: What to read; rows [T, ...] as `SourceEpisode` says.
        out: The folder; there must be none yet, unless the same import made it.
        options: What to take.
        progress: Called as it advances.

    Raises:
        StorageError: A file of the source is damaged, or the disk is full.
        InvalidInputError: The rate is not known, nothing can be taken, or `out` holds something else.
    """
    rate = options.rate_hz or source.rate_hz
    if rate is None:
        raise InvalidInputError(
            "The source does not say how many rows a second it has. Give the rate, for example --rate 5 (BridgeData), 3 "
            "(RT-1, fractal), 15 (DROID) or 20 (robomimic, LIBERO)."
        )
    survey = _survey(source, options, progress)
    spec = RecordSpec(
        action=ActionSpec(
            names=source.action_names,
            units=("unknown",) * len(source.action_names),
            low=survey.low,
            high=survey.high,
            rate_hz=rate,
        ),
        cameras=survey.cameras,
        proprio_dim=survey.proprio_dim,
        has_success=survey.knows_success,
        has_progress=False,
        task=survey.task,
        video=options.video,
    )
    request = {"import": source.identity, "options": storage.to_json(options)}
    if out.exists():
        _require_same(out, spec, request)
    else:
        _write(source, out, spec, request, survey, options, progress)
    return ImportSummary(
        out=out,
        episodes=len(survey.kept),
        frames=survey.frames,
        solved=survey.solved if survey.knows_success else None,
        notes=(f"Rate: {rate:g} Hz.", *source.notes, *survey.notes),
    )


def _require_same(out: Path, spec: RecordSpec, request: dict[str, object]) -> None:
    """Accept a finished folder of the same import only."""
    if not (out / layout.EXTRA).is_file():
        raise InvalidInputError(f"{out} exists and is no import. Choose a new folder.")
    wanted = {"version": 1, "spec": layout.spec_json(spec), "request": storage.to_json(request)}
    require_same_request(out, storage.read_json(out / layout.EXTRA), wanted)


def _write(
    source: Source,
    out: Path,
    spec: RecordSpec,
    request: dict[str, object],
    survey: _Survey,
    options: ImportOptions,
    progress: Progress,
) -> None:
    """Write what is not there yet, then give the folder its name."""
    unfinished = out.with_name(out.name + UNFINISHED)
    with episode_writer(unfinished, spec, request=request) as writer:
        waiting = (e for i, e in enumerate(source.read()) if i in survey.kept)
        for number, episode in enumerate(waiting):
            if number >= writer.count:
                writer.write(_episode(episode, survey, options))
            progress("episodes", number + 1, len(survey.kept), {})
            if number + 1 == len(survey.kept):
                break
    os.rename(unfinished, out)
    storage.fsync_folder(out.parent)


def _survey(source: Source, options: ImportOptions, progress: Progress) -> _Survey:
    """Read everything but pictures: ranges, lengths, labels, and what cannot be taken."""
    wanted = frozenset(source.cameras) if options.cameras else frozenset[str]()
    tally = _Tally(absent=dict.fromkeys(source.cameras, 0))
    for index, episode in enumerate(source.read()):
        if index == options.episodes:
            break
        progress("looking", index + 1, index + 1, {})
        tally.add(index, episode, _refusal(episode, wanted))
    if not tally.kept:
        raise InvalidInputError(f"No episode can be taken: {'; '.join(tally.left_out[:_LISTED]) or 'there is none'}.")
    names = tuple(k for k in source.cameras if not tally.absent[k])
    if not names:
        raise InvalidInputError(
            "No camera has pictures in every episode. Name one by --camera, and episodes without it are left out: "
            f"{', '.join(tally.absent) or 'there is none'}."
        )
    knows, solved, rule = _success(tally.rewards)
    low, high, tasks = tally.low, tally.high, list(tally.tasks)
    return _Survey(
        kept=frozenset(tally.kept),
        names=names,
        cameras=tuple(tally.cameras[name] for name in names),
        low=tuple(np.where(low < high, low, low - _MARGIN).astype(float).tolist()),
        high=tuple(np.where(low < high, high, high + _MARGIN).astype(float).tolist()),
        proprio_dim=tally.proprio_dim,
        task=tasks[0],
        knows_success=knows,
        frames=tally.frames,
        solved=solved,
        notes=(
            *_camera_notes(names, tally.absent),
            f"{len(tasks)} task{'s' if len(tasks) > 1 else ''}.",
            rule,
            *_left_out_notes(tally.left_out),
        ),
    )


@dataclasses.dataclass(kw_only=True, eq=False)
class _Tally:
    """What has been read so far; fields as `_Survey`."""

    absent: dict[str, int]
    kept: list[int] = dataclasses.field(default_factory=list)
    left_out: list[str] = dataclasses.field(default_factory=list)
    rewards: list[Float32s | None] = dataclasses.field(default_factory=list)
    tasks: dict[str, None] = dataclasses.field(default_factory=dict)
    cameras: dict[str, Camera] = dataclasses.field(default_factory=dict)
    low: Float32s = dataclasses.field(default_factory=lambda: np.array(np.inf, np.float32))
    high: Float32s = dataclasses.field(default_factory=lambda: np.array(-np.inf, np.float32))
    proprio_dim: int = 0
    frames: int = 0

    def add(self, index: int, episode: SourceEpisode, refusal: str) -> None:
        """Count an episode, which is left out if there is a reason."""
        if refusal:
            self.left_out.append(f"{episode.name}: {refusal}")
            return
        if not self.kept:  # frames can be asked for only while the source is at this episode
            self.cameras = {k: _camera(k, episode.pictures(k)) for k in self.absent if k not in episode.absent}
            self.proprio_dim = episode.state.shape[1]
        self.kept.append(index)
        self.low = np.minimum(self.low, episode.action.min(axis=0))
        self.high = np.maximum(self.high, episode.action.max(axis=0))
        self.absent = {k: n + (k in episode.absent) for k, n in self.absent.items()}
        self.rewards.append(episode.reward)
        self.frames += len(episode.action)
        self.tasks[printable(episode.task)] = None


def _refusal(episode: SourceEpisode, cameras: frozenset[str]) -> str:
    """Why an episode cannot be taken with these cameras; empty where it can."""
    if len(episode.action) < 2:
        return "it has one row only"
    for name, values in (("action", episode.action), ("state", episode.state)):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            return f"{name} {bad[0, 1]} holds NaN or infinity in row {bad[0, 0]}"
    missing = sorted(episode.absent & cameras)
    return f"it has no pictures of {', '.join(missing)}" if missing else ""


def _camera(name: str, frames: Bytes) -> Camera:
    """A camera from frames, uint8 [T, H, W, 3]."""
    return Camera(key=IMAGES + name.replace("/", "_"), height=frames.shape[1], width=frames.shape[2])


def _camera_notes(names: Sequence[str], absent: dict[str, int]) -> Iterator[str]:
    yield f"Cameras: {', '.join(names)}."
    for name, count in absent.items():
        if name not in names:
            yield f"Camera {name} is left out: {count} episodes have no pictures of it."


def _left_out_notes(left_out: Sequence[str]) -> Iterator[str]:
    if left_out:
        more = f"; and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else ""
        yield f"{len(left_out)} episodes are left out: {'; '.join(left_out[:_LISTED])}{more}."


def _success(rewards: Sequence[Float32s | None]) -> tuple[bool, int, str]:
    """Whether rewards say what is solved, how many episodes are, and the rule in words."""
    known = [r for r in rewards if r is not None]
    values = np.concatenate(known) if known else np.zeros(0, np.float32)
    if len(known) < len(rewards):
        return False, 0, "Success is unknown: there are no rewards. Label episodes, or rank with a judge."
    if not np.isin(values, (0, 1)).all():
        return False, 0, "Success is unknown: rewards are not 0 or 1. They are kept as rewards."
    if not values.any():
        return False, 0, "Success is unknown: all rewards are 0, which also stands for none."
    solved = sum(bool(r[-2:].max() > 0) for r in known)
    return (
        True,
        solved,
        f"Success: reward 1 (after the row that pays it); {solved} of {len(known)} episodes end solved.",
    )


def _episode(source: SourceEpisode, survey: _Survey, options: ImportOptions) -> Episode:
    """An episode of ours; the last row's action leads to nothing recorded, and is kept as the last action."""
    rows = len(source.action)
    reward = np.full(rows, np.nan, np.float32) if source.reward is None else source.reward
    success: Float32s = np.full(rows, np.nan, np.float32)
    if survey.knows_success:
        success = np.concatenate([[0], reward[:-1] > 0]).astype(np.float32)
        success[-1] = max(success[-1], float(reward[-1] > 0))
    frames = {}
    for name, camera in zip(survey.names, survey.cameras, strict=True):
        taken = source.pictures(name)
        if taken.shape != (rows, *camera.size, 3):
            raise InvalidInputError(
                f"{source.name}: pictures of {name} are {taken.shape}; expected {(rows, *camera.size, 3)}, as in the first "
                "episode. Import recordings of one size."
            )
        frames[camera.key] = _turned(taken, options.turn)
    return Episode(
        frames=frames,
        proprio=source.state,
        action=source.action[:-1],
        success=success,
        progress=np.full(rows, np.nan, np.float32),
        reward=reward[:-1],
        last_action=source.action[-1],
        last_reward=float(reward[-1]),
        task=printable(source.task),
    )


def _turned(frames: Bytes, turn: str) -> Bytes:
    """Frames [T, H, W, 3] as they are, upside down, or by half a turn."""
    upright = {"none": frames, "rows": frames[:, ::-1], "half": frames[:, ::-1, ::-1]}[turn]
    return np.ascontiguousarray(upright)


def check_size(shape: Sequence[int], *, where: str) -> None:
    """Refuse pictures of shape [T, H, W, 3] that no recording has.

    Raises:
        InvalidInputError: They take more than `MOST_PICTURE_BYTES`.
    """
    size = 1
    for side in shape:
        size *= int(side)
    if size > MOST_PICTURE_BYTES:
        raise InvalidInputError(
            f"{where} would take {size} bytes as pictures; at most {MOST_PICTURE_BYTES} are unpacked for one episode."
        )
