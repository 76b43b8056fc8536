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

from worldsim import noise, storage
from worldsim.actions import ActionSpec
from worldsim.arrays import Bytes, Float32s
from worldsim.core import STATE, TRUE_STATE, Camera
from worldsim.data.collect.env_adapter import EnvAdapter, EnvObservation, EnvView
from worldsim.data.collect.env_state import EnvState, state_kind
from worldsim.data.collect.fill import RecordingCost, RecordingSummary, extrapolate, fill
from worldsim.data.collect.pictures import ImageSize
from worldsim.data.collect.random_exploration import Behaviour
from worldsim.data.collect.success import NAMES, SuccessRule
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import EXTRA, RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import EnvError, InvalidInputError, unknown_name
from worldsim.progress import Progress, silent
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
        image_px: Side, or height and width, into which frames of every camera are scaled; their aspect is kept, and what
            is missing is black. None leaves them.
        steps: Longest episode; None for the environment's own limit.
        action: Meaning of the actions; None for the environment's own.
        task: One sentence; None for the environment's own.
        video: Store mp4 instead of lossless pictures.
        success: When the task is solved; None for what the environment's info says.
        timeout_s: How long one call into the environment may take; None for ever.
        env: What the environment is called, to be kept where its id does not say it.
        source: What else a continuation must repeat, as JSON values.
    """

    cameras: tuple[str, ...] | None = None
    image_px: ImageSize | None = None
    steps: int | None = None
    action: ActionSpec | None = None
    task: str | None = None
    video: bool = False
    success: SuccessRule | None = None
    timeout_s: float | None = None
    env: str = ""
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def view(self) -> EnvView:
        """How the environment is looked at."""
        fields = {f.name for f in dataclasses.fields(EnvView)}
        return EnvView(**{name: value for name, value in vars(self).items() if name in fields})


def collect(
    env_factory: EnvFactory,
    behaviours: Sequence[Behaviour],
    *,
    episodes: int,
    out: str | Path,
    seed: int = 0,
    options: RecordingOptions | None = None,
    progress: Progress = silent,
) -> RecordingSummary:
    """Record episodes into a LeRobotDataset v3.0 folder, continuing where an earlier call stopped.

    Args:
        env_factory: Makes the environment, see `worldsim.data.collect.env_adapter` for what it must give.
        behaviours: What acts; each episode draws one by weight.
        episodes: How many the folder shall hold in the end. More may be asked for later.
        out: The folder.
        seed: Everything follows from it and the episode's number.
        options: How the environment is observed and recorded.
        progress: Called with how many episodes the folder holds.

    Raises:
        InvalidInputError: The environment gives no pixels or what cannot be read, a behaviour gives bad actions or needs
            what is not there, success is reported in a later episode for the first time, or the folder was begun with
            other settings.
        EnvError: The environment raised, hung or changed its shapes; the episode and step are named, and the episodes
            before are in the folder.
        MissingExtraError: The environment lacks a library.
        StorageError: The folder is in use or holds something else, or the disk is full or will be.
    """
    options = options or RecordingOptions()
    _check(behaviours, episodes, seed)
    out = Path(out)
    env = env_factory()
    try:
        adapter = EnvAdapter(env, options.view)
        recorder = Recorder(adapter, behaviours, seed=seed, steps=options.steps)
        spec = _record_spec(recorder, options, out)
        with episode_writer(out, spec, request=_request(adapter, behaviours, seed, options)) as writer:
            filled = fill(writer, lambda number: [recorder.episode(number)], episodes=episodes, progress=progress)
        return dataclasses.replace(filled, read_as=adapter.describe())
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


def _record_spec(recorder: "Recorder", options: RecordingOptions, out: Path) -> RecordSpec:
    """Find out what the environment gives, with one step that is not recorded."""
    adapter = recorder.adapter
    _, first = episode_key(recorder.seed, 0)
    begin = adapter.read(*adapter.reset(first))
    idle, _ = adapter.executable(adapter.action.check(torch.tensor(adapter.action.idle)))
    observation, reward, _, info = adapter.step(idle)
    seen = adapter.read(observation, info, reward)
    known = begin.true_state is not None and seen.true_state is not None
    recorder.has_success = math.isfinite(seen.success) or _tells_success(recorder, options, out)
    recorder.has_progress = math.isfinite(seen.progress)
    return RecordSpec(
        action=adapter.action,
        cameras=tuple(Camera(key=k, height=v.shape[0], width=v.shape[1]) for k, v in seen.frames.items()),
        proprio_dim=len(seen.proprio),
        true_state_dim=len(seen.true_state) if known and seen.true_state is not None else 0,
        has_success=recorder.has_success,
        has_progress=recorder.has_progress,
        success_at=adapter.success_at,
        task=adapter.task if options.task is None else options.task,
        task_id=adapter.task_id,
        video=options.video,
    )


def _tells_success(recorder: "Recorder", options: RecordingOptions, out: Path) -> bool:
    """Whether an environment that tells no success at its first step does so later in its first episode.

    Raises:
        UnknownNameError: The rule names what is not there in all of the episode.
    """
    if (out / EXTRA).exists():  # found out when the folder was begun; another answer would not continue it
        return bool(storage.read_json(out / EXTRA).get("spec", {}).get("has_success", False))
    if np.isfinite(recorder.episode(0, keep=True).success[1:]).any():
        return True
    rule = options.success
    if rule is None:
        return False
    if rule.text.strip() in {f"info.{name}" for name in NAMES}:  # reported by some environments only when it is so
        return True
    raise unknown_name("name in the success rule", rule.text, recorder.adapter.names)


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
        **({} if options.success is None else {"success": options.success.text}),
        **({} if options.env in ("", adapter.task_id) else {"env": options.env}),
        **options.source,
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
        self.has_success: bool | None = None
        self.has_progress: bool | None = None
        weights = torch.tensor([b.weight for b in behaviours], dtype=torch.float64)
        self.bounds = (weights / weights.sum()).cumsum(0)
        kind = state_kind(adapter)
        self._state = None if kind == "seed" else EnvState(adapter.env, kind)
        self._kept: Episode | None = None

    def episode(self, index: int, *, keep: bool = False) -> Episode:
        """Play episode `index` from the beginning.

        Args:
            index: Its number.
            keep: Return it once more, without playing it, when it is asked for next.

        Raises:
            WorldsimError: The environment or the behaviour failed; the episode is named.
        """
        if self._kept is not None and index == 0 and not keep:
            kept, self._kept = self._kept, None
            return self._complete(kept, index)
        key, seed = episode_key(self.seed, index)
        choice = float(noise.uniform(key, 0, (1,), stream=_CHOICE))
        behaviour = self.behaviours[min(int((self.bounds <= choice).sum()), len(self.behaviours) - 1)]
        self.adapter.episode = f"episode {index}"
        with torch.random.fork_rng(devices=[]), torch.inference_mode():
            torch.manual_seed(seed)
            try:
                episode = self._play(behaviour, key, seed)
            except InvalidInputError as error:
                if self.adapter.episode in str(error):
                    raise
                where = self.adapter.where
                raise InvalidInputError(f"{where[0].upper()}{where[1:]}: {error}") from error
        if keep:
            self._kept = episode
            return episode
        return self._complete(episode, index)

    def _play(self, behaviour: Behaviour, key: Tensor, seed: int) -> Episode:
        adapter, policy = self.adapter, behaviour.policy
        keys = noise.fold(noise.fold(key, POLICY_STREAM).expand(self.steps), torch.arange(self.steps))
        chosen = None if behaviour.start_seed is None else behaviour.start_seed(keys[:1])
        seed = seed if chosen is None else chosen
        observation, info = adapter.reset(seed)
        simulator = np.array([seed], np.float64) if self._state is None else self._state.read()
        seen, actions, rewards = [adapter.read(observation, info)], [], []
        carry = policy.initial(1)
        for t in range(self.steps):
            given, carry = policy.act(_observation(seen[-1], policy.needs, behaviour.name), carry, keys[t : t + 1])
            action, executed = adapter.executable(check_actions(given, adapter.action, name=behaviour.name, n=1)[0])
            actions.append(executed)
            observation, reward, over, info = adapter.step(action)
            seen.append(adapter.read(observation, info, reward))
            rewards.append(reward)
            if over:
                break
        states = [s.true_state for s in seen if s.true_state is not None]
        return Episode(
            frames=self._stack_frames([s.frames for s in seen]),
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

    def _complete(self, episode: Episode, index: int) -> Episode:
        """The episode with success and progress at every step, where the dataset has them at all.

        What is reported at some steps only holds until it is reported again; what was not reported yet is not solved.
        """
        if self.has_success is False and np.isfinite(episode.success[1:]).any():
            raise InvalidInputError(
                f"The environment {self.adapter.name} tells success in episode {index} and did not before, so the dataset was "
                "begun without it. Begin a new folder with a success rule, for example --success info.is_success, which "
                "takes what is not reported for not solved."
            )
        success = _without_gaps(episode.success) if self.has_success else episode.success
        progress = _without_gaps(episode.progress) if self.has_progress else episode.progress
        return dataclasses.replace(episode, success=success, progress=progress)

    def _stack_frames(self, seen: Sequence[Mapping[str, Bytes]]) -> dict[str, Bytes]:
        """Frames [T + 1, H, W, 3] by camera.

        Raises:
            EnvError: Cameras come, go or change their size within an episode.
        """
        shapes = [{k: v.shape[:2] for k, v in frames.items()} for frames in seen]
        for t, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise EnvError(
                    f"The cameras of the environment {self.adapter.name} are {shape} after step {t} of "
                    f"{self.adapter.episode}; before they were {shapes[0]}. Name the ones that stay: --camera."
                )
        return {key: np.stack([frames[key] for frames in seen]) for key in seen[0]}


def _without_gaps(value: Float32s) -> Float32s:
    """The latest known value at every step; 0 before the first, but at the beginning itself nan stays nan."""
    known = np.where(np.isfinite(value), np.arange(len(value)), -1)
    latest = np.maximum.accumulate(known)
    filled = np.where(latest < 0, np.float32(0), value[latest])
    filled[0] = value[0]
    return filled


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
