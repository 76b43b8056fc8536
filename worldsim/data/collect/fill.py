"""Fills a dataset folder up to a number of episodes, and estimates what that will cost.

Shared by recordings of environments (`worldsim.data.collect.record`) and of rollouts (`worldsim.data.collect.rollouts`).
"""

import dataclasses
import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from worldsim.data.episode import Episode
from worldsim.data.lerobot.write import EpisodeWriter
from worldsim.errors import StorageError
from worldsim.progress import Progress, silent


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingSummary:
    """What is in the folder after collecting.

    Attributes:
        episodes: How many.
        frames: Observations in all.
        new: Episodes that this call added.
        solved: Share of episodes whose last observation is a success; nan where success is unknown.
        behaviours: Episodes by behaviour.
        read_as: What was read from the environment, in words; empty where there was none.
    """

    episodes: int
    frames: int
    new: int
    solved: float
    behaviours: Mapping[str, int]
    read_as: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingCost:
    """What a collection will cost: frames, bytes on disk, and seconds of one core."""

    frames: int
    bytes: int
    seconds: float


def extrapolate(trial: Callable[[Path], RecordingSummary], *, episodes: int) -> RecordingCost:
    """What `episodes` will cost, from a few that are recorded in a temporary folder.

    Args:
        trial: Records a few episodes into the folder given.
        episodes: How many are wanted.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        tried = trial(Path(folder) / "trial")
        seconds = time.process_time() - started
        size = _size(Path(folder) / "trial")
    scale = episodes / tried.episodes
    return RecordingCost(frames=round(tried.frames * scale), bytes=round(size * scale), seconds=seconds * scale)


def fill(
    writer: EpisodeWriter, make: Callable[[int], Iterable[Episode]], *, episodes: int, progress: Progress = silent
) -> RecordingSummary:
    """Write episodes until the folder holds as many as it shall.

    Args:
        writer: An open writer; what it holds already stays.
        make: Gives the episodes from a number on, one or more.
        episodes: How many the folder shall hold in the end.
        progress: Called with how many it holds.

    Raises:
        StorageError: The disk is full, or will be: the first new episode tells.
    """
    before = writer.count
    while writer.count < episodes:
        for episode in itertools.islice(make(writer.count), episodes - writer.count):
            writer.write(episode)
            if writer.count == before + 1:
                _check_disk(writer, episodes)
            progress("episodes", writer.count, episodes, {})
    return _summary(writer, before)


def _size(path: Path) -> int:
    """Bytes of a dataset's data and videos."""
    return sum(p.stat().st_size for kind in ("data", "videos") for p in (path / kind).rglob("*.*"))


def _check_disk(writer: EpisodeWriter, episodes: int) -> None:
    """Stop now rather than after hours if the disk will not hold it all."""
    out = writer.path
    needed = _size(out) / writer.count * (episodes - writer.count)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise StorageError(
            f"{episodes - writer.count} more episodes need about {needed / 1e9:.2f} GB; {out} has {free / 1e9:.2f} GB "
            "free. Free space, ask for fewer episodes, or store video."
        )


def _summary(writer: EpisodeWriter, before: int) -> RecordingSummary:
    rows = writer.rows
    names = [str(r["behaviour"]) for r in rows]
    ends = [r["end_success"] for r in rows]
    known = [e for e in ends if e is not None]
    return RecordingSummary(
        episodes=len(rows),
        frames=sum(int(r["length"]) for r in rows),
        new=len(rows) - before,
        solved=sum(known) / len(known) if known else math.nan,
        behaviours={n: names.count(n) for n in sorted(set(names))},
    )
