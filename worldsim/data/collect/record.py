"""Runs behaviours in a Gymnasium environment and records every episode, each durable before the next begins.

Everything about an episode (its start, its behaviour, the behaviour's parameters and noise) follows from the seed and
the episode's number, so a run that was killed continues as if it had not been.

Shape legend: n=1 episode, T actions, A action.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor

from worldsim import noise
from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes
from worldsim.core import STATE, TRUE_STATE, Camera
from worldsim.data.collect.env_adapter import EnvAdapter, EnvObservation
from worldsim.data.collect.fill import RecordingCost, RecordingSummary, extrapolate, fill
from worldsim.data.collect.random_exploration import Behaviour
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError
from worldsim.rollout import POLICY_STREAM
from worldsim.rollout.fence import check_actions

EnvFactory = Callable[[], gymnasium.Env[Any, Any]]
_CHOICE = 0xC401CE
"""Noise stream of the choice of behaviour."""
LONGEST = 1000
"""Steps after which an episode is cut where neither the caller nor the environment sets a limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordingOptions:
    """How the environment is observed and recorded, and for how long.

    Attributes:
        cameras: Which cameras, by name, the main one first; None for all.
        image_px: Side to which frames of every camera are brought; None leaves them.
        steps: Longest episode; None for the environment's own limit.
        action: Meaning of the actions; None for the environment's own.
        task: One sentence; None for the environment's own.
        video: Store mp4 instead of lossless pictures.
    """

    cameras: tuple[str, ...] | None = None
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
    options: RecordingOptions | None = None,
) -> RecordingSummary:
    """Record episodes into a LeRobotDataset v3.0 folder, continuing where an earlier call stopped.

    Args:
        env_factory: Makes the environment, see `worldsim.data.collect.env_adapter` for what it must give.
        behaviours: What acts; each episode draws one by weight.
        episodes: How many the folder shall hold in the end. More may be asked for later.
        out: The folder.
        seed: Everything follows from it and the episode's number.
        options: How the environment is observed and recorded.

    Raises:
        InvalidInputError: The environment gives no pixels, a behaviour gives bad actions or needs what is not there,
            or the folder was begun with other settings.
        StorageError: The folder is in use or holds something else, or the disk is full or will be.
    """
    options = options or RecordingOptions()
    _check(behaviours, episodes, seed)
    out = Path(out)
    env = env_factory()
    try:
        adapter = EnvAdapter(env, cameras=options.cameras, image_px=options.image_px, action=options.action)
        recorder = Recorder(adapter, behaviours, seed=seed, steps=options.steps)
        spec = _record_spec(adapter, options, seed)
        with episode_writer(out, spec, request=_request(adapter, behaviours, seed, options)) as writer:
            return fill(writer, lambda number: [recorder.episode(number)], episodes=episodes)
    finally:
        env.close()


def estimate_collect(
    env_factory: EnvFactory,
    behaviours: Sequence[Behaviour],
    *,
    episodes: int,
    seed: int = 0,
    options: RecordingOptions | None = None,
) -> RecordingCost:
    """Try two episodes in a temporary folder and extrapolate; arguments and errors as `collect`."""
    return extrapolate(
        lambda out: collect(env_factory, behaviours, episodes=2, out=out, seed=seed, options=options), episodes=episodes
    )


def _check(behaviours: Sequence[Behaviour], episodes: int, seed: int) -> None:
    """Are the arguments sensible?"""
    names = [b.name for b in behaviours]
    if not names or len(set(names)) != len(names):
        raise InvalidInputError(f"collect needs behaviours with different names; got {names}.")
    if episodes < 1 or not 0 <= seed < 2**63:
        raise InvalidInputError(f"collect needs at least one episode and a seed in 0..2**63-1; got {episodes}, {seed}.")


def _record_spec(adapter: EnvAdapter, options: RecordingOptions, seed: int) -> RecordSpec:
    """Find out what the environment gives, with one step that is not recorded."""
    _, first = episode_key(seed, 0)
    observation, info = adapter.env.reset(seed=first)
    begin = adapter.read(observation, info)
    idle, _ = adapter.executable(adapter.action.check(torch.tensor(adapter.action.idle)))
    observation, _, _, _, info = adapter.env.step(idle)
    seen = adapter.read(observation, info)
    known = begin.true_state is not None and seen.true_state is not None
    return RecordSpec(
        action=adapter.action,
        cameras=tuple(Camera(key=k, height=v.shape[0], width=v.shape[1]) for k, v in seen.frames.items()),
        proprio_dim=len(seen.proprio),
        true_state_dim=len(seen.true_state) if known and seen.true_state is not None else 0,
        has_success=math.isfinite(seen.success),
        has_progress=math.isfinite(seen.progress),
        success_at=adapter.success_at,
        task=adapter.task if options.task is None else options.task,
        task_id=adapter.task_id,
        video=options.video,
    )


def _request(
    adapter: EnvAdapter, behaviours: Sequence[Behaviour], seed: int, options: RecordingOptions
) -> dict[str, Any]:
    """What a continuation must repeat."""
    return {
        "seed": seed,
        "behaviours": {b.name: b.weight for b in behaviours},
        "steps": options.steps or adapter.max_steps or LONGEST,
        "camera": None if options.cameras is None else list(options.cameras),
        "image_px": options.image_px,
    }


class Recorder:
    """Plays single episodes.

    Args:
        adapter: The environment.
        behaviours: What acts; each episode draws one by weight.
        seed: Everything follows from it and the episode's number.
        steps: Longest episode; None for the environment's own limit.
    """

    def __init__(self, adapter: EnvAdapter, behaviours: Sequence[Behaviour], *, seed: int, steps: int | None) -> None:
        self.adapter, self.behaviours, self.seed = adapter, behaviours, seed
        self.steps = steps or adapter.max_steps or LONGEST
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
        env, adapter, policy = self.adapter.env, self.adapter, behaviour.policy
        observation, info = env.reset(seed=seed)
        simulator = adapter.simulator_state()
        seen, actions, rewards = [adapter.read(observation, info)], [], []
        carry = policy.initial(1)
        keys = noise.fold(noise.fold(key, POLICY_STREAM).expand(self.steps), torch.arange(self.steps))
        for t in range(self.steps):
            given, carry = policy.act(_observation(seen[-1], policy.needs, behaviour.name), carry, keys[t : t + 1])
            action, executed = adapter.executable(check_actions(given, adapter.action, name=behaviour.name, n=1)[0])
            actions.append(executed)
            observation, reward, terminated, truncated, info = env.step(action)
            seen.append(adapter.read(observation, info))
            rewards.append(float(reward))
            if terminated or truncated:
                break
        states = [s.true_state for s in seen if s.true_state is not None]
        return Episode(
            frames=_stack_frames([s.frames for s in seen]),
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


def _observation(seen: EnvObservation, needs: frozenset[str], name: str) -> dict[str, Tensor]:
    """What the behaviour asked for, with a leading axis of one."""
    there = {**seen.frames, STATE: seen.proprio, TRUE_STATE: seen.true_state}
    given = {k: v for k, v in there.items() if v is not None}
    missing = sorted(needs - given.keys())
    if missing:
        raise InvalidInputError(
            f"Behaviour {name!r} needs {', '.join(missing)}; this environment gives {', '.join(given)}. Leave it out, or "
            "name one of its cameras where it is made."
        )
    return {k: torch.tensor(given[k])[None] for k in needs}


def _stack_frames(seen: Sequence[Mapping[str, Bytes]]) -> dict[str, Bytes]:
    """Frames [T + 1, H, W, 3] by camera.

    Raises:
        InvalidInputError: Cameras come, go or change their size within an episode.
    """
    if len({tuple((k, v.shape) for k, v in frames.items()) for frames in seen}) != 1:
        raise InvalidInputError("The environment's cameras change within an episode. Name the ones that stay: cameras.")
    return {key: np.stack([frames[key] for frames in seen]) for key in seen[0]}
