"""Records what policies do in a world, learned or simulated: many episodes in one pass, each durable on its own.

Which policy plays episode n, from which start and with which noise follows from the seed, n and how many policies and
starts there are. So two worlds with the same starts give episodes that pair by number, a killed run continues as if it
had not been, and a longer recording begins with the shorter one. Behaviours that explore are recorded by
`worldsim.data.collect.record`; policies are ranked by `worldsim.triage`.

Shape legend: B episodes of a batch, K policies, S starts, T actions.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim import noise
from worldsim.core import SIMULATOR, TASK, TRUE_STATE, Observation, row_texts
from worldsim.data.collect.fill import RecordingCost, RecordingSummary, extrapolate, fill
from worldsim.data.episode import Episode
from worldsim.data.lerobot.format import RecordSpec
from worldsim.data.lerobot.write import episode_writer
from worldsim.errors import InvalidInputError
from worldsim.progress import Progress, silent
from worldsim.protocols import Policy, Startable, require_drawable
from worldsim.rollout import Actor, Played, play

_BATCH = 128
"""Episodes of a batch, about: more are no faster, and a kill loses at most one batch."""
_TABLE = 2**16
"""Up to so many starts take turns; from more, every episode draws its own."""
_STARTS, _TURNS = 0x57A7, 0x7A12
"""Noise streams that order starts and policies."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutOptions:
    """What a recording of rollouts depends on, policies and world aside.

    Attributes:
        seed: Everything follows from it and the episode's number.
        steps: Actions per episode; None for the world's horizon.
        batch: Episodes played together; None for a multiple of the policies near 128. Learned networks may round
            differently in batches of another size, so a batch is always played to its end, and a continuation keeps the size.
        video: Store mp4 instead of lossless pictures.
        has_success: Whether the world tells success; False leaves it out of the dataset.
        has_progress: Whether it tells progress, likewise.
        name: The world's name; a learned world's is kept as what dreamed the frames.
        source: What else a continuation must repeat, as JSON values: digests of the policies and the world.

    Raises:
        InvalidInputError: A number out of its range, or no name.
    """

    seed: int = 0
    steps: int | None = None
    batch: int | None = None
    video: bool = False
    has_success: bool = True
    has_progress: bool = True
    name: str = "world"
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**63 or min(self.steps or 1, self.batch or 1) < 1 or 0 in (self.steps, self.batch):
            raise InvalidInputError(
                f"A recording needs a seed in 0..2**63-1, and steps and batch of 1 or more; got {self.seed}, "
                f"{self.steps} and {self.batch}."
            )
        if not self.name:
            raise InvalidInputError("The world needs a name, which is kept with the episodes that it imagined.")


def record_rollouts(
    world: Startable,
    policies: Mapping[str, Policy],
    *,
    episodes: int,
    out: str | Path,
    options: RolloutOptions | None = None,
    progress: Progress = silent,
) -> RecordingSummary:
    """Record episodes into a LeRobotDataset v3.0 folder, continuing where an earlier call stopped.

    Policies take turns in rounds, so any number of episodes is spread evenly. In a learned world, one that does not start from
    SIMULATOR, frames are the world's drawings, success (at least even odds) and progress are what its heads say, and
    the dataset says so (`Dataset.dreamed_by`). The reward is the progress, as in `worldsim.envs.WorldEnv`.

    Args:
        world: Where they act; it brings the starts and must be able to draw.
        policies: What acts, by the name that is kept with each episode. All are held in memory.
        episodes: How many the folder shall hold in the end. More may be asked for later.
        out: The folder.
        options: Seed, size of batches and so on.
        progress: Called with how many episodes the folder holds.

    Raises:
        InvalidInputError: No policy or episode; a policy gives bad actions or needs what is not there; the world cannot
            draw; or the folder was begun with other settings.
        PolicyError: As the policies' `act`.
        StorageError: The folder is in use or holds something else, or the disk is full or will be.
    """
    if episodes < 1 or not policies:
        raise InvalidInputError(f"Recording needs an episode and a policy; got {episodes} and {len(policies)}.")
    options = options or RolloutOptions()
    player = _BatchPlayer(world, policies, options)
    request = {
        "seed": options.seed,
        "policies": list(policies),
        "steps": player.steps,
        "batch": player.batch,
        "world": options.name,
        **options.source,
    }
    with episode_writer(Path(out), player.record_spec(), request=request) as writer:
        return fill(writer, player.episodes, episodes=episodes, progress=progress)


def estimate_rollouts(
    world: Startable, policies: Mapping[str, Policy], *, episodes: int, options: RolloutOptions | None = None
) -> RecordingCost:
    """Record one batch in a temporary folder and extrapolate; arguments and errors as `record_rollouts`."""
    options = options or RolloutOptions()
    batch = options.batch or batch_size(len(policies))
    return extrapolate(
        lambda out: record_rollouts(world, policies, episodes=batch, out=out, options=options), episodes=episodes
    )


def batch_size(policies: int) -> int:
    """How many episodes make a batch: a multiple of the policies near 128, so that all batches are alike."""
    return max(1, _BATCH // max(1, policies)) * policies if policies <= _BATCH else _BATCH


class _BatchPlayer:
    """Plays batches."""

    def __init__(self, world: Startable, policies: Mapping[str, Policy], options: RolloutOptions) -> None:
        self.world, self.policies, self.options = world, policies, options
        self.steps = options.steps or world.spec.horizon
        self.batch = options.batch or batch_size(len(policies))
        self.real = SIMULATOR in world.spec.observes
        self._order: Tensor | None = None
        if world.num_starts <= _TABLE:
            ticket = noise.fold(noise.fold(torch.arange(world.num_starts), options.seed), _STARTS)
            self._order = torch.argsort(ticket, stable=True)

    def episodes(self, number: int) -> Iterator[Episode]:
        """The episodes from `number` to the end of its batch; all of the batch is played."""
        first = number // self.batch * self.batch
        numbers = torch.arange(first, first + self.batch)
        key, policy, start = self._assign(numbers)
        names = list(self.policies)
        actors = [
            Actor(name=names[p], policy=self.policies[names[p]], rows=(policy == p).nonzero().flatten())
            for p in policy.unique().tolist()
        ]
        starts = self.world.starts(start)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(key[0]) & 0x7FFFFFFF)
            played = play(self.world, actors, starts, key, steps=self.steps).played()
        for row in range(number - first, self.batch):
            yield self._episode(played, starts, row, behaviour=names[int(policy[row])], seed=int(start[row]))

    def record_spec(self) -> RecordSpec:
        """Find out what the world gives, with one step that is not recorded."""
        spec = self.world.spec
        starts = self.world.starts(torch.zeros(1, dtype=torch.int64))
        state = self.world.reset(starts, torch.zeros(1, dtype=torch.int64))
        _, step = self.world.step(state, torch.tensor([spec.action.idle], dtype=torch.float32))
        require_drawable(self.world)
        known = step.true_state is not None and TRUE_STATE in starts
        return RecordSpec(
            action=spec.action,
            cameras=spec.cameras,
            proprio_dim=spec.proprio_dim,
            true_state_dim=step.true_state.shape[1] if known and step.true_state is not None else 0,
            has_success=self.options.has_success,
            has_progress=self.options.has_progress,
            success_at=spec.success_at,
            task=spec.task,
            task_id=spec.task_id,
            video=self.options.video,
            dreamed_by="" if self.real else self.options.name,
        )

    def _assign(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noise key, policy and start of episodes, int64 [B] each.

        Every K episodes are a round, in which each policy has one turn; the order is drawn for each round, so that every
        tenth episode, say, is not always the same policy's. The starts of a table take turns too, and after each
        lcm(K, S) episodes move on by one: no policy meets a start twice before it has met all.
        """
        key, count = noise.fold(numbers, self.options.seed), len(self.policies)
        rounds = numbers // count
        turn = torch.empty_like(numbers)
        for number in rounds.unique().tolist():
            ticket = noise.fold(noise.fold(torch.arange(count), self.options.seed), _TURNS)
            order, here = torch.argsort(noise.fold(ticket, number), stable=True), rounds == number
            turn[here] = order[numbers[here] % count]
        if self._order is None:
            return key, turn, (key & 0x7FFFFFFF) % self.world.num_starts
        place = rounds * count + turn
        place = place + place // math.lcm(count, len(self._order))
        return key, turn, self._order[place % len(self._order)]

    def _episode(self, played: Played, starts: Observation, row: int, *, behaviour: str, seed: int) -> Episode:
        odds = played.success[row].numpy() if self.options.has_success else np.full(len(played.success[row]), np.nan)
        progress = played.progress[row].float().numpy()
        true_state = None
        if played.true_state is not None and TRUE_STATE in starts:
            parts = [starts[TRUE_STATE][row : row + 1].cpu().float(), played.true_state[row].float()]
            true_state = torch.cat(parts).numpy()
        known = self.real and SIMULATOR in starts
        return Episode(
            frames={key: frames[row].numpy() for key, frames in played.frames.items()},
            proprio=played.proprio[row].float().numpy(),
            action=played.action[row].numpy(),
            success=np.where(np.isnan(odds), odds, odds >= 0.5).astype(np.float32),
            progress=progress if self.options.has_progress else np.full_like(progress, np.nan),
            reward=progress[1:],
            true_state=true_state,
            simulator=starts[SIMULATOR][row].double().numpy() if known else None,
            seed=seed,
            behaviour=behaviour,
            task=row_texts(starts[TASK][row : row + 1])[0] if TASK in starts else "",
        )
