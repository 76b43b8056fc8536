"""Demonstrations for behaviour cloning, from recorded episodes: observations and the actions to imitate.

Shape legend: N examples, T actions of an episode, H W image, P proprio, E true state, K chunk, A action.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldsim.core import STATE, TRUE_STATE, Observation
from worldsim.data.episode import Episode
from worldsim.data.lerobot.read import Dataset
from worldsim.errors import InvalidInputError
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.protocols import Policy


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """Every step of some episodes."""

    observation: dict[str, Tensor]  # cameras uint8 [N, H, W, 3], STATE [N, P], TRUE_STATE [N, E], as far as needed
    action_NKA: Tensor  # float32, in [-1, 1]
    valid_NK: Tensor  # float32, 0 beyond the end of the episode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Demonstrations:
    """Episodes in memory: what was seen, and the actions to imitate."""

    observations: tuple[dict[str, Tensor], ...]  # per episode, T rows
    actions: tuple[Tensor, ...]  # per episode, float32 [T, A] in [-1, 1]

    def examples(self, episodes: Sequence[int], *, chunk: int) -> Examples:
        """Stack some episodes and cut chunks of actions.

        Args:
            episodes: Indices.
            chunk: K; the last steps of an episode repeat its last action, marked invalid.
        """
        pieces, valid = [], []
        for index in episodes:
            action_TA = self.actions[index]
            ahead_TK = torch.arange(len(action_TA))[:, None] + torch.arange(chunk)
            pieces.append(action_TA[ahead_TK.clamp_max(len(action_TA) - 1)])
            valid.append((ahead_TK < len(action_TA)).float())
        keys = self.observations[0]
        observation = {k: torch.cat([self.observations[i][k] for i in episodes]) for k in keys}
        return Examples(observation=observation, action_NKA=torch.cat(pieces), valid_NK=torch.cat(valid))


def read_demonstrations(
    dataset: Dataset, *, needs: frozenset[str], teacher: Policy | None, quality: Degradation
) -> Demonstrations:
    """Read a dataset for imitation; actions are normalised to [-1, 1].

    Args:
        dataset: The episodes.
        needs: Observations the student reads.
        teacher: Its actions are imitated instead of the recorded ones, which may then be as noisy as they like (the
            states are seen, the mistakes are not learned: Laskey et al., "DART", CoRL 2017). None for the recorded.
        quality: Makes the imitated actions worse.

    Raises:
        InvalidInputError: An episode lacks what the student or the teacher reads.
        StorageError: An episode cannot be read.
    """
    spec = dataset.action_spec
    wanted = needs | (teacher.needs if teacher is not None else frozenset())
    observations, actions = [], []
    for index in dataset.used:
        observation = _observation(dataset.episode(index), wanted, where=f"episode {index} of {dataset.name}")
        recorded = observation.pop(_ACTION)
        policy = DegradedPolicy(teacher or _Replay(recorded), action=spec, how=quality)
        actions.append(spec.normalize(_act_along(policy, observation, key=index)))
        observations.append({k: v for k, v in observation.items() if k in needs})
    return Demonstrations(observations=tuple(observations), actions=tuple(actions))


_ACTION = "action"


class _Replay:
    """Recorded actions of one episode as a policy, so that they can be degraded like any other."""

    needs: frozenset[str] = frozenset()

    def __init__(self, action_TA: Tensor) -> None:
        self._action_TA = action_TA

    def initial(self, n: int) -> int:
        return 0

    def act(self, observation: Observation, carry: int, keys: Tensor) -> tuple[Tensor, int]:
        return self._action_TA[carry : carry + 1], carry + 1


def _observation(episode: Episode, wanted: frozenset[str], *, where: str) -> dict[str, Tensor]:
    """The observations that were acted on, T or with a last action T + 1, and the actions."""
    action = (
        episode.action if episode.last_action is None else np.concatenate([episode.action, episode.last_action[None]])
    )
    steps = len(action)
    held: dict[str, NDArray[Any]] = {**episode.frames, STATE: episode.proprio}
    if episode.true_state is not None:
        held[TRUE_STATE] = episode.true_state
    missing = sorted(wanted - held.keys())
    if missing:
        raise InvalidInputError(
            f"{where} holds {', '.join(held)}, not {', '.join(missing)}, which the policy or its teacher reads. Collect it, "
            "or train another kind of policy from the recorded actions."
        )
    taken = {k: torch.from_numpy(v[:steps].copy()) for k, v in held.items() if k in wanted}
    return {**taken, _ACTION: torch.from_numpy(action.copy())}


def _act_along(policy: Policy, observation: dict[str, Tensor], *, key: int) -> Tensor:
    """Actions [T, A] of a policy along one episode."""
    steps = len(next(iter(observation.values())))
    carry, actions = policy.initial(1), []
    for t in range(steps):
        action, carry = policy.act({k: v[t : t + 1] for k, v in observation.items()}, carry, torch.tensor([key]))
        actions.append(action)
    return torch.cat(actions)
