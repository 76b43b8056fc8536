"""Plays one episode of a behaviour in an environment and keeps everything. Not for files (`worldsim.data.lerobot.write`).

Shape legend: n=1 episode, T actions, A action.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from worldsim import noise
from worldsim.core import IMAGE, STATE, TRUE_STATE
from worldsim.data.collect.env_adapter import Seen, Watched
from worldsim.data.collect.exploration import Behaviour
from worldsim.data.episode import Episode
from worldsim.errors import InvalidInputError
from worldsim.rollout import POLICY_STREAM, checked

_CHOICE = 0xC401CE
"""Noise stream of the choice of behaviour."""
LONGEST = 1000
"""Steps after which an episode is cut where neither the caller nor the environment sets a limit."""


class Recorder:
    """Plays single episodes.

    Args:
        watched: The environment.
        behaviours: What acts; each episode draws one by weight.
        seed: Everything follows from it and the episode's number.
        steps: Longest episode; None for the environment's own limit.
    """

    def __init__(self, watched: Watched, behaviours: Sequence[Behaviour], *, seed: int, steps: int | None) -> None:
        self.watched, self.behaviours, self.seed = watched, behaviours, seed
        self.steps = steps or watched.max_steps or LONGEST
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
        keys = noise.fold(noise.fold(key, POLICY_STREAM).expand(self.steps), torch.arange(self.steps))
        for t in range(self.steps):
            given, carry = policy.act(_observation(seen[-1], policy.needs, behaviour.name), carry, keys[t : t + 1])
            actions.append(checked(given, watched.action, name=behaviour.name, n=1)[0].numpy().astype(np.float32))
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
