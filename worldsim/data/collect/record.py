"""Runs behaviours in a Gymnasium environment and records what happens, one durable episode after the other.

Everything about an episode (its start, its behaviour, the behaviour's parameters and noise) follows from the seed and
the episode's number, so a run that was killed continues as if it had not been. Not for judging policies
(`worldsim.triage`).

Shape legend: n=1 episode, T actions, A action.
"""

import dataclasses
import itertools
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from worldsim.actions import ActionSpec
from worldsim.data.collect.env_adapter import Watched
from worldsim.data.collect.exploration import Behaviour
from worldsim.data.collect.recorder import LONGEST, Recorder, episode_key
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import EpisodeWriter, episode_writer
from worldsim.errors import InvalidInputError, StorageError

EnvFactory = Callable[[], gymnasium.Env[Any, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collection:
    """What is in the folder after collecting.

    Attributes:
        episodes: How many.
        frames: Observations in all.
        new: Episodes that this call added.
        solved: Share of episodes whose last observation is a success; nan where success is unknown.
        behaviours: Episodes by behaviour.
    """

    episodes: int
    frames: int
    new: int
    solved: float
    behaviours: Mapping[str, int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a collection will cost: frames, bytes on disk, and seconds of one core."""

    frames: int
    bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class View:
    """How the environment is looked at and for how long.

    Attributes:
        camera: Which of several cameras; None for the only one.
        image_px: Side to which frames are brought; None leaves them.
        steps: Longest episode; None for the environment's own limit.
        action: Meaning of the actions; None for the environment's own.
        task: One sentence; None for the environment's own.
        video: Store mp4 instead of lossless pictures.
    """

    camera: str | None = None
    image_px: int | None = None
    steps: int | None = None
    action: ActionSpec | None = None
    task: str | None = None
    video: bool = False


def collect(
    env_factory: EnvFactory,
    behaviours: Sequence[Behaviour],
    *,
    episodes: int,
    out: str | Path,
    seed: int = 0,
    view: View | None = None,
) -> Collection:
    """Record episodes into a LeRobotDataset v3.0 folder, continuing where an earlier call stopped.

    Args:
        env_factory: Makes the environment, see `worldsim.data.collect.env_adapter` for what it must give.
        behaviours: What acts; each episode draws one by weight.
        episodes: How many the folder shall hold in the end. More may be asked for later.
        out: The folder.
        seed: Everything follows from it and the episode's number.
        view: How the environment is looked at.

    Raises:
        InvalidInputError: The environment gives no pixels, a behaviour gives bad actions or needs what is not there,
            or the folder was begun with other settings.
        StorageError: The folder is in use or holds something else, or the disk is full or will be.
    """
    view = view or View()
    _check(behaviours, episodes, seed)
    out = Path(out)
    env = env_factory()
    try:
        watched = Watched(env, camera=view.camera, image_px=view.image_px, action=view.action)
        recorder = Recorder(watched, behaviours, seed=seed, steps=view.steps)
        spec = _record_spec(watched, view, seed)
        with episode_writer(out, spec, request=_request(watched, behaviours, seed, view)) as writer:
            return fill(writer, lambda number: [recorder.episode(number)], episodes=episodes)
    finally:
        env.close()


def estimate(
    env_factory: EnvFactory, behaviours: Sequence[Behaviour], *, episodes: int, seed: int = 0, view: View | None = None
) -> Estimate:
    """Try two episodes in a temporary folder and extrapolate; arguments and errors as `collect`."""
    return extrapolate(
        lambda out: collect(env_factory, behaviours, episodes=2, out=out, seed=seed, view=view), episodes=episodes
    )


def extrapolate(trial: Callable[[Path], Collection], *, episodes: int) -> Estimate:
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
    return Estimate(frames=round(tried.frames * scale), bytes=round(size * scale), seconds=seconds * scale)


def fill(writer: EpisodeWriter, make: Callable[[int], Iterable[Episode]], *, episodes: int) -> Collection:
    """Write episodes until the folder holds as many as it shall.

    Args:
        writer: An open writer; what it holds already stays.
        make: Gives the episodes from a number on, one or more.
        episodes: How many the folder shall hold in the end.

    Raises:
        StorageError: The disk is full, or will be: the first new episode tells.
    """
    before = writer.count
    with _progress(episodes, before) as advance:
        while writer.count < episodes:
            for episode in itertools.islice(make(writer.count), episodes - writer.count):
                writer.write(episode)
                if writer.count == before + 1:
                    _room(writer, episodes)
                advance()
    return _summary(writer, before)


def _check(behaviours: Sequence[Behaviour], episodes: int, seed: int) -> None:
    """Are the arguments sensible?"""
    names = [b.name for b in behaviours]
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(f"collect needs behaviours with different names; got {names}.")
    if episodes < 1 or not 0 <= seed < 2**63:
        raise InvalidInputError(f"collect needs at least one episode and a seed in 0..2**63-1; got {episodes}, {seed}.")


def _record_spec(watched: Watched, view: View, seed: int) -> RecordSpec:
    """Find out what the environment gives, with one step that is not recorded."""
    _, first = episode_key(seed, 0)
    observation, info = watched.env.reset(seed=first)
    begin = watched.look(observation, info)
    idle = np.array(watched.action.idle, np.float32).astype(watched.env.action_space.dtype)
    observation, _, _, _, info = watched.env.step(idle)
    seen = watched.look(observation, info)
    known = begin.true_state is not None and seen.true_state is not None
    return RecordSpec(
        action=watched.action,
        image_size=(seen.frame.shape[0], seen.frame.shape[1]),
        proprio_dim=len(seen.proprio),
        true_state_dim=len(seen.true_state) if known and seen.true_state is not None else 0,
        has_success=math.isfinite(seen.success),
        has_progress=math.isfinite(seen.progress),
        success_at=watched.success_at,
        task=watched.task if view.task is None else view.task,
        task_id=watched.task_id,
        video=view.video,
    )


def _request(watched: Watched, behaviours: Sequence[Behaviour], seed: int, view: View) -> dict[str, Any]:
    """What a continuation must repeat."""
    return {
        "seed": seed,
        "behaviours": {b.name: b.weight for b in behaviours},
        "steps": view.steps or watched.max_steps or LONGEST,
        "camera": view.camera,
        "image_px": view.image_px,
    }


def _size(path: Path) -> int:
    """Bytes of a dataset's data and videos."""
    return sum(p.stat().st_size for kind in ("data", "videos") for p in (path / kind).rglob("*.*"))


def _room(writer: EpisodeWriter, episodes: int) -> None:
    """Stop now rather than after hours if the disk will not hold it all."""
    out = writer.path
    needed = _size(out) / writer.count * (episodes - writer.count)
    free = shutil.disk_usage(out).free
    if needed > free:
        raise StorageError(
            f"{episodes - writer.count} more episodes need about {needed / 1e9:.2f} GB; {out} has {free / 1e9:.2f} GB "
            "free. Free space, ask for fewer episodes, or store video."
        )


def _summary(writer: EpisodeWriter, before: int) -> Collection:
    rows = writer.rows
    names = [str(r["behaviour"]) for r in rows]
    ends = [r["end_success"] for r in rows]
    known = [e for e in ends if e is not None]
    return Collection(
        episodes=len(rows),
        frames=sum(int(r["length"]) for r in rows),
        new=len(rows) - before,
        solved=sum(known) / len(known) if known else math.nan,
        behaviours={n: names.count(n) for n in sorted(set(names))},
    )


@contextmanager
def _progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal's standard error, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("collecting", total=total, completed=done)
        yield lambda: bar.advance(task)
