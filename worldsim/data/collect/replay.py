"""Replays of a dataset's own actions: from its starts, changed at random times for those of other episodes, a tenth of them perturbed.

Where things move is where the dataset's own actions lead to, so these are what contact is found again with, in an environment of
which nothing is known. Episodes in which things move are preferred, and where they begin from their own starts they are played
exactly until something moves: a robot that was disturbed on its way misses what it was to touch. An episode is left for a moment of
another one in which the robot stands alike and soon moves something.

Shape legend: n episodes, E recorded episodes, M recorded actions, S steps of a block, A action, P proprio.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import STATE, Observation
from worldsim.data.collect.random_exploration import BLOCK
from worldsim.data.episode import Episode
from worldsim.data.motion import find_moving
from worldsim.errors import InvalidInputError
from worldsim.noise import uniform

PERTURBED = 0.1
"""Share of the actions that are replaced by uniformly random ones."""
SOON = 8
"""Steps within which a thing that moves makes a moment one to go on from."""
_LOOKED_AT = 150
"""Moments of an episode that are searched for things that move."""
_QUIET = 0.05
"""Weight of episodes and moments in which nothing moves, beside 1."""
_CANDIDATES = 96
"""Moments of which the one nearest in proprioception is gone on from."""
_SOURCE, _STEPS, _MOMENT = 0xE9A0, 0xE9A1, 0xE9A2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RecordedActions:
    """What a dataset's episodes did.

    Attributes:
        action: [M, A], physical units, one episode after another.
        proprio: [M, P] before each action.
        first: Row of the first action of each episode, int64 [E].
        after: For each row, the first one of the next episode, int64 [M].
        moves: Whether something that is not the robot moves within `SOON` steps, bool [M].
        seeds: What each episode's environment was reset with; -1 where it is not known.
    """

    action: Tensor
    proprio: Tensor
    first: Tensor
    after: Tensor
    moves: Tensor
    seeds: tuple[int, ...]

    @classmethod
    def of_episodes(cls, episodes: Sequence[Episode], camera: str) -> "RecordedActions":
        """Take actions out of episodes, and find where things move.

        Args:
            episodes: With frames uint8 [T + 1, H, W, 3], proprioception [T + 1, P] and actions [T, A].
            camera: Key of the frames in which is looked.

        Raises:
            InvalidInputError: None of them holds an action.
        """
        acted = [one for one in episodes if len(one.action)]
        if not acted:
            raise InvalidInputError("None of the episodes holds an action: there is nothing to be played again.")
        lengths = torch.tensor([len(one.action) for one in acted])
        moving = find_moving(acted, camera, moments=_LOOKED_AT)
        soon = [torch.stack([m[t : t + SOON].any() for t in range(len(m) - 1)]) for m in moving]
        return cls(
            action=torch.from_numpy(np.concatenate([one.action for one in acted])),
            proprio=torch.from_numpy(np.concatenate([one.proprio[:-1] for one in acted])),
            first=lengths.cumsum(0) - lengths,
            after=torch.repeat_interleave(lengths.cumsum(0), lengths),
            moves=torch.cat(soon),
            seeds=tuple(one.seed for one in acted),
        )

    @property
    def moving(self) -> float:
        """Share of the rows from which something moves soon."""
        return float(self.moves.float().mean())

    def exact_until(self) -> Tensor:
        """The row of each episode up to which it is played exactly, int64 [E]: where something has begun to move; its first if nothing does."""
        rows, until = torch.arange(len(self.moves)), list[int]()
        for own in rows.tensor_split(self.first[1:]):
            moving = own[self.moves[own]]
            until.append(min(int(moving[0]) + SOON, int(own[-1])) if len(moving) else int(own[0]))
        return torch.tensor(until)

    def shares(self) -> Tensor:
        """Share of each episode's rows from which something moves soon, float64 [E]."""
        parts = self.moves.double().split(torch.diff(self.first, append=torch.tensor([len(self.moves)])).tolist())
        return torch.stack([part.mean() for part in parts])


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplayCarry:
    """Which row is played next, int64 [n], that up to which it is played exactly, int64 [n], and a block of draws, float32 [n, S, 2 + A]."""

    step: int
    row: Tensor
    until: Tensor
    chance: Tensor


class Replay:
    """Plays recorded actions; each episode begins one of them and goes on from moments of others.

    Args:
        recorded: What is played.
        action: Meaning of the actions.
        at_start: Environments are reset to the recorded starts, so that an episode begins with the actions of its start's own;
            else it begins with those of the moment nearest to where the robot stands.
        steps: How long one recording is played, on average.
        perturbed: Share of actions that are replaced by random ones.

    Raises:
        InvalidInputError: Fewer than one step, or a share outside 0..1.
    """

    needs: frozenset[str] = frozenset({STATE})

    def __init__(
        self,
        recorded: RecordedActions,
        action: ActionSpec,
        *,
        at_start: bool = True,
        steps: float = 16.0,
        perturbed: float = PERTURBED,
    ) -> None:
        if not (steps >= 1 and 0 <= perturbed <= 1):
            raise InvalidInputError(f"Replay needs steps >= 1 and a share in 0..1; got {steps} and {perturbed}.")
        self.recorded, self.action, self.at_start = recorded, action, at_start
        self.steps, self.perturbed = steps, perturbed
        self._scale = recorded.proprio.std(0, correction=0).clamp_min(1e-6)
        self._until = recorded.exact_until()
        self._sources = _bounds(recorded.shares())
        self._moments = _bounds(recorded.moves.double())

    def start_seed(self, keys: Tensor) -> int | None:
        """What the environment is to be reset with for the start of the episode that is played first.

        Args:
            keys: Those of the episode's first step, int64 [1].

        Returns:
            The seed; None where it does not matter or is not known.
        """
        seed = self.recorded.seeds[int(self._source(keys))]
        return seed if self.at_start and seed >= 0 else None

    def initial(self, n: int) -> ReplayCarry:
        """Return the carry of n fresh episodes."""
        row = torch.zeros(n, dtype=torch.int64)
        return ReplayCarry(step=0, row=row, until=row, chance=torch.zeros(n, 0, 0))

    def act(self, observation: Observation, carry: ReplayCarry, keys: Tensor) -> tuple[Tensor, ReplayCarry]:
        """Choose actions [n, A]."""
        row, until, chance = carry.row, carry.until, carry.chance
        if carry.step % BLOCK == 0:
            chance = uniform(keys, 0, (BLOCK, 2 + self.action.dim), stream=_STEPS)
        now = chance[:, carry.step % BLOCK]
        over = row == self.recorded.after[row - 1]  # the row before it was the last of its episode
        change = over | ((now[:, 0] * self.steps < 1) & (row >= until))
        if carry.step == 0:
            source = self._source(keys)
            row, change = self.recorded.first[source], torch.full_like(over, not self.at_start)
            until = self._until[source] if self.at_start else torch.zeros_like(row)
        if bool(change.any()):
            row = torch.where(change, self._alike(observation[STATE].float(), keys), row)
            until = torch.where(change, torch.zeros_like(row), until)
        random = self.action.from_unit(now[:, 2:] * 2 - 1)
        disturbed = (now[:, 1] < self.perturbed) & (row >= until)
        action = torch.where(disturbed[:, None], random, self.recorded.action[row])
        return action, ReplayCarry(step=carry.step + 1, row=row + 1, until=until, chance=chance)

    def _source(self, keys: Tensor) -> Tensor:
        """The episode that is played first, int64 [n]."""
        return _drawn(self._sources, uniform(keys, 0, (1,), stream=_SOURCE))[:, 0]

    def _alike(self, proprio_nP: Tensor, keys: Tensor) -> Tensor:
        """A row in which the robot stands about as it does, int64 [n]."""
        rows = _drawn(self._moments, uniform(keys, 0, (_CANDIDATES,), stream=_MOMENT))
        away = (self.recorded.proprio[rows] - proprio_nP[:, None]) / self._scale
        return rows.gather(1, away.square().sum(-1).argmin(1, keepdim=True))[:, 0]


def _bounds(share: Tensor) -> Tensor:
    """Upper bounds in (0, 1] of the draws that give each of several things, preferring those of a large share, float64."""
    weight = share + _QUIET
    return (weight / weight.sum()).cumsum(0)


def _drawn(bounds: Tensor, chance: Tensor) -> Tensor:
    """Uniform draws [n, k] -> which things they give, int64 [n, k]."""
    return torch.searchsorted(bounds, chance.double(), right=True).clamp_max(len(bounds) - 1)
