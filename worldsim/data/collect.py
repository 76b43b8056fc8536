"""Runs behaviours in a Gymnasium environment and records what happens, one durable episode after the other.

Everything about an episode (its start, its behaviour, the behaviour's parameters and noise) follows from the seed and
the episode's number, so a run that was killed continues as if it had not been. Not for judging policies
(`worldsim.triage`).

Shape legend: n=1 episode, T actions, A action.
"""

import dataclasses
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldsim import noise
from worldsim.actions import ActionSpec
from worldsim.data.behaviours import Behaviour
from worldsim.data.environment import Seen, Watched
from worldsim.data.episode import Episode
from worldsim.data.layout import RecordSpec
from worldsim.data.writer import EpisodeWriter, episode_writer
from worldsim.errors import InvalidInputError, StorageError
from worldsim.types import IMAGE, STATE, TRUE_STATE

EnvFactory = Callable[[], gymnasium.Env[Any, Any]]
_CHOICE, _POLICY = 0xC401CE, 0xAC7
"""Noise streams of the choice of behaviour, and of behaviours themselves."""
_LONGEST = 1000
"""Steps after which an episode is cut where neither the caller nor the environment sets a limit."""


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
        env_factory: Makes the environment, see `worldsim.data.environment` for what it must give.
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
        recorder = _Recorder(watched, behaviours, seed=seed, steps=view.steps)
        spec = _record_spec(watched, view, seed)
        with episode_writer(out, spec, request=_request(watched, behaviours, seed, view)) as writer:
            before = writer.count
            with _progress(episodes, writer.count) as advance:
                while writer.count < episodes:
                    writer.write(recorder.episode(writer.count))
                    if writer.count == before + 1:
                        _room(out, writer, episodes)
                    advance()
            return _summary(writer, before)
    finally:
        env.close()


def estimate(
    env_factory: EnvFactory, behaviours: Sequence[Behaviour], *, episodes: int, seed: int = 0, view: View | None = None
) -> Estimate:
    """Try two episodes in a temporary folder and extrapolate; arguments and errors as `collect`."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        tried = collect(env_factory, behaviours, episodes=2, out=Path(folder) / "trial", seed=seed, view=view)
        seconds = time.process_time() - started
        size = sum(
            p.stat().st_size for kind in ("data", "videos") for p in (Path(folder) / "trial" / kind).rglob("*.*")
        )
    scale = episodes / tried.episodes
    return Estimate(frames=round(tried.frames * scale), bytes=round(size * scale), seconds=seconds * scale)


class _Recorder:
    """Plays single episodes."""

    def __init__(self, watched: Watched, behaviours: Sequence[Behaviour], *, seed: int, steps: int | None) -> None:
        self.watched, self.behaviours, self.seed = watched, behaviours, seed
        self.steps = steps or watched.max_steps or _LONGEST
        weights = torch.tensor([b.weight for b in behaviours], dtype=torch.float64)
        self.bounds = (weights / weights.sum()).cumsum(0)

    def episode(self, index: int) -> Episode:
        """Play episode `index` from the beginning."""
        key, seed = episode_key(self.seed, index)
        choice = float(noise.uniform(key, 0, (1,), stream=_CHOICE))
        behaviour = self.behaviours[min(int((self.bounds <= choice).sum()), len(self.behaviours) - 1)]
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            return self._play(behaviour, key, seed)

    def _play(self, behaviour: Behaviour, key: Tensor, seed: int) -> Episode:
        env, watched, policy = self.watched.env, self.watched, behaviour.policy
        observation, info = env.reset(seed=seed)
        simulator = watched.simulator_state()
        seen, actions, rewards = [watched.look(observation, info)], [], []
        carry = policy.initial(1)
        keys = noise.fold(noise.fold(key, _POLICY).expand(self.steps), torch.arange(self.steps))
        for t in range(self.steps):
            given, carry = policy.act(_observation(seen[-1], policy.needs, behaviour.name), carry, keys[t : t + 1])
            actions.append(_checked(given, watched.action, behaviour.name))
            observation, reward, terminated, truncated, info = env.step(actions[-1].astype(env.action_space.dtype))
            seen.append(watched.look(observation, info))
            rewards.append(float(reward))
            if terminated or truncated:
                break
        states = [s.true_state for s in seen if s.true_state is not None]
        return Episode(
            frames=np.stack([s.frame for s in seen]),
            proprio=np.stack([s.proprio for s in seen]),
            action=np.stack(actions),
            success=np.array([s.success for s in seen], np.float32),
            progress=np.array([s.progress for s in seen], np.float32),
            reward=np.array(rewards, np.float32),
            true_state=np.stack(states) if len(states) == len(seen) else None,
            simulator=simulator,
            seed=seed,
            behaviour=behaviour.name,
        )


def episode_key(seed: int, index: int) -> tuple[Tensor, int]:
    """The noise key int64 [1] of an episode and the seed (31 bits) that its environment is reset with."""
    key = noise.fold(torch.tensor([index]), seed)
    return key, int(key) & 0x7FFFFFFF


def _observation(seen: Seen, needs: frozenset[str], name: str) -> dict[str, Tensor]:
    """What the behaviour asked for, with a leading axis of one."""
    there = {IMAGE: seen.frame, STATE: seen.proprio, TRUE_STATE: seen.true_state}
    missing = [k for k in needs if there.get(k) is None]
    if missing:
        raise InvalidInputError(
            f"Behaviour {name!r} needs {', '.join(sorted(missing))}, which this environment lacks. Leave it out."
        )
    return {k: torch.from_numpy(np.ascontiguousarray(there[k]))[None] for k in needs}


def _checked(given: Tensor, action: ActionSpec, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One finite action within the limits, float32 [A]."""
    try:
        if given.shape != (1, action.dim):
            raise InvalidInputError(f"actions of shape {tuple(given.shape)}, expected (1, {action.dim}).")
        return action.check(given)[0].numpy().astype(np.float32)
    except InvalidInputError as error:
        raise InvalidInputError(f"Behaviour {name!r}: {error}") from error


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
        "steps": view.steps or watched.max_steps or _LONGEST,
        "camera": view.camera,
        "image_px": view.image_px,
    }


def _room(out: Path, writer: EpisodeWriter, episodes: int) -> None:
    """Stop now rather than after hours if the disk will not hold it all."""
    used = sum(p.stat().st_size for kind in ("data", "videos") for p in (out / kind).rglob("*.*"))
    needed = used / writer.count * (episodes - writer.count)
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
