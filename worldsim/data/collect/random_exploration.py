"""Random exploration: policies that act by noise alone, and wrappers that corrupt or mix other policies.

For collecting varied data, failures included, without knowledge of the simulator or the robot. Each is a policy
(`worldsim.protocols.Policy`); what an episode draws for itself it draws from its key at the first step and keeps in the
carry. Noise is drawn in blocks of steps, because one draw costs more than one action. Calibrated degradations of a policy
are `worldsim.policies.degraded`.

Shape legend: n episodes, A action, S steps of a block, M policies.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import Observation
from worldsim.errors import InvalidInputError
from worldsim.noise import normal, uniform
from worldsim.protocols import Policy

BLOCK = 64
"""Steps of noise drawn at once."""
_DRAW, _NOISE, _OTHER = 0xBE00, 0xBE01, 0xBE02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Behaviour:
    """Something that acts in a share of the episodes.

    Attributes:
        name: Kept with each episode.
        policy: What acts; variation within a behaviour comes from its keys.
        weight: Share of the episodes, relative to the other behaviours.
        start_seed: Says from the keys int64 [1] of the first step what the environment is reset with; None, or where it gives
            None, for a fresh seed.

    Raises:
        InvalidInputError: The weight is not positive, or the name is empty.
    """

    name: str
    policy: Policy
    weight: float = 1.0
    start_seed: Callable[[Tensor], int | None] | None = None

    def __post_init__(self) -> None:
        if not self.name or not (math.isfinite(self.weight) and self.weight > 0):
            raise InvalidInputError(
                f"A behaviour needs a name and a positive weight; got {self.name!r}, {self.weight}."
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseCarry:
    """Memory of noise: the step, the episode's own parameters, the block of noise and the last value."""

    step: int
    own: Tensor  # float32 [n, *], drawn once
    block: Tensor  # float32 [n, S, *]
    last: Tensor  # float32 [n, A], in [-1, 1]


class Wander:
    """Ornstein-Uhlenbeck noise (Uhlenbeck and Ornstein 1930) in units of half the action's range.

    A gripper opens or closes fully, by the noise's sign: one that hovers half open never holds anything.

    Args:
        action: Meaning of the actions.
        spread: Range from which an episode draws its standard deviation.
        memory: Range from which it draws the correlation of one step with the next.

    Raises:
        InvalidInputError: A range that is not increasing, a negative spread, or memory outside [0, 1).
    """

    needs: frozenset[str] = frozenset()

    def __init__(
        self, action: ActionSpec, *, spread: tuple[float, float] = (0.4, 1.2), memory: tuple[float, float] = (0.6, 0.97)
    ) -> None:
        if not (0 <= spread[0] <= spread[1] < math.inf and 0 <= memory[0] <= memory[1] < 1):
            raise InvalidInputError(
                f"Wander needs 0 <= spread and 0 <= memory < 1, each rising; got {spread}, {memory}."
            )
        self.action, self.spread, self.memory = action, spread, memory
        self.grippers = torch.tensor(action.grippers)

    def initial(self, n: int) -> NoiseCarry:
        """Return the carry of n fresh episodes."""
        return _fresh(n, self.action.dim)

    def act(self, observation: Observation, carry: NoiseCarry, keys: Tensor) -> tuple[Tensor, NoiseCarry]:
        """Choose actions [n, A]."""
        own, block = carry.own, carry.block
        if carry.step == 0:
            own = _between(uniform(keys, 0, (2,), stream=_DRAW), [self.spread, self.memory])
        if carry.step % BLOCK == 0:
            block = normal(keys, 0, (BLOCK, self.action.dim), stream=_NOISE)
        spread, memory = own[:, :1], own[:, 1:]
        fresh = spread * block[:, carry.step % BLOCK]
        last = fresh if carry.step == 0 else memory * carry.last + (1 - memory**2).sqrt() * fresh
        unit = torch.where(self.grippers, last.sign(), last.clamp(-1, 1))
        return self.action.from_unit(unit), NoiseCarry(step=carry.step + 1, own=own, block=block, last=last)


class Hold:
    """Holds a uniformly random action for a while, then another.

    Args:
        action: Meaning of the actions.
        steps: Range from which an episode draws how long it holds, on average.

    Raises:
        InvalidInputError: A range that is not increasing or below 1.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, action: ActionSpec, *, steps: tuple[float, float] = (2.0, 12.0)) -> None:
        if not 1 <= steps[0] <= steps[1] < math.inf:
            raise InvalidInputError(f"Hold needs a rising range of steps, at least 1; got {steps}.")
        self.action, self.steps = action, steps

    def initial(self, n: int) -> NoiseCarry:
        """Return the carry of n fresh episodes."""
        return _fresh(n, self.action.dim)

    def act(self, observation: Observation, carry: NoiseCarry, keys: Tensor) -> tuple[Tensor, NoiseCarry]:
        """Choose actions [n, A]."""
        own, block = carry.own, carry.block
        if carry.step == 0:
            own = _between(uniform(keys, 0, (1,), stream=_DRAW), [self.steps])
        if carry.step % BLOCK == 0:
            block = uniform(keys, 0, (BLOCK, 1 + self.action.dim), stream=_NOISE)
        now = block[:, carry.step % BLOCK]
        change = (now[:, :1] * own < 1) if carry.step else torch.ones_like(now[:, :1], dtype=torch.bool)
        last = torch.where(change, now[:, 1:] * 2 - 1, carry.last)
        return self.action.from_unit(last), NoiseCarry(step=carry.step + 1, own=own, block=block, last=last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corruption:
    """How far `Corrupted` may go; each episode draws its own amounts.

    Attributes:
        rotation_rad: Turns the first two action dimensions by up to this, either way.
        gain: Range of the factor on the distance from the idle action.
        offset: Up to this is added or taken, in units of half the range, per dimension.
        noise: Largest standard deviation of added noise, in the same units.
        random: Largest probability per step of a uniformly random action instead.

    Raises:
        InvalidInputError: A value that is negative or out of its range.
    """

    rotation_rad: float = 0.5
    gain: tuple[float, float] = (0.5, 1.3)
    offset: float = 0.2
    noise: float = 0.4
    random: float = 0.15

    def __post_init__(self) -> None:
        fine = min(self.rotation_rad, self.gain[0], self.offset, self.noise, self.random) >= 0
        if not (fine and self.gain[0] <= self.gain[1] and self.random <= 1):
            raise InvalidInputError(f"Corruption needs values >= 0, a rising gain and random <= 1; got {self}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorruptedCarry:
    """The policy's own carry inside, and the corruption's."""

    inner: Any
    mine: NoiseCarry


class Corrupted:
    """Any policy, made worse by amounts that each episode draws for itself.

    Args:
        policy: What acts.
        action: Meaning of its actions.
        how: How far to go.
    """

    def __init__(self, policy: Policy, action: ActionSpec, how: Corruption | None = None) -> None:
        self.policy, self.action, self.how = policy, action, how or Corruption()

    @property
    def needs(self) -> frozenset[str]:
        """What the policy inside needs."""
        return self.policy.needs

    def initial(self, n: int) -> CorruptedCarry:
        """Return the carry of n fresh episodes."""
        return CorruptedCarry(inner=self.policy.initial(n), mine=_fresh(n, self.action.dim))

    def act(self, observation: Observation, carry: CorruptedCarry, keys: Tensor) -> tuple[Tensor, CorruptedCarry]:
        """Choose actions [n, A]."""
        given, inner = self.policy.act(observation, carry.inner, keys)
        mine, dim = carry.mine, self.action.dim
        own, block = mine.own, mine.block
        if mine.step == 0:
            own = self._amounts(keys)
        if mine.step % BLOCK == 0:
            block = torch.cat(
                [normal(keys, 0, (BLOCK, dim), stream=_OTHER), uniform(keys, 1, (BLOCK, dim + 1), stream=_OTHER)], dim=2
            )
        now = block[:, mine.step % BLOCK]
        idle = self.action.to_unit(given.new_tensor(self.action.idle))
        delta = self.action.to_unit(given.float()) - idle
        if dim >= 2:
            cos, sin = own[:, :1].cos(), own[:, :1].sin()
            x, y = delta[:, :1], delta[:, 1:2]
            delta = torch.cat([cos * x - sin * y, sin * x + cos * y, delta[:, 2:]], dim=1)
        result = idle + own[:, 1:2] * delta + own[:, 2:3] * now[:, :dim] + own[:, 4:]
        result = torch.where(now[:, dim : dim + 1] < own[:, 3:4], now[:, dim + 1 :] * 2 - 1, result).clamp(-1, 1)
        kept = NoiseCarry(step=mine.step + 1, own=own, block=block, last=mine.last)
        return self.action.from_unit(result), CorruptedCarry(inner=inner, mine=kept)

    def _amounts(self, keys: Tensor) -> Tensor:
        """Rotation, gain, noise, random, then offsets: float32 [n, 4 + A]. Squared draws keep most episodes mild."""
        h, dim = self.how, self.action.dim
        draw = uniform(keys, 1, (4 + dim,), stream=_DRAW)
        signed = draw * 2 - 1
        parts = [signed[:, :1].abs() * signed[:, :1] * h.rotation_rad, _between(draw[:, 1:2], [h.gain])]
        parts += [draw[:, 2:3].square() * h.noise, draw[:, 3:4].square() * h.random]
        return torch.cat([*parts, signed[:, 4:].abs() * signed[:, 4:] * h.offset], dim=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SwitchingCarry:
    """Carries of all policies, and which of them acts."""

    step: int
    inner: tuple[Any, ...]
    turn: Tensor  # int64 [n]
    chance: Tensor  # float32 [n, S, 2]


class Switching:
    """Changes between policies within an episode, at random steps; all of them see every observation.

    Args:
        policies: At least one.
        steps: How long one of them acts, on average.

    Raises:
        InvalidInputError: No policy, or fewer than one step.
    """

    def __init__(self, policies: Sequence[Policy], *, steps: float = 12.0) -> None:
        if not policies or not steps >= 1:
            raise InvalidInputError(f"Switching needs policies and steps >= 1; got {len(policies)} and {steps}.")
        self.policies, self.steps = tuple(policies), steps

    @property
    def needs(self) -> frozenset[str]:
        """What any of them needs."""
        return frozenset().union(*(p.needs for p in self.policies))

    def initial(self, n: int) -> SwitchingCarry:
        """Return the carry of n fresh episodes."""
        inner = tuple(p.initial(n) for p in self.policies)
        return SwitchingCarry(step=0, inner=inner, turn=torch.zeros(n, dtype=torch.int64), chance=torch.zeros(n, 0, 2))

    def act(self, observation: Observation, carry: SwitchingCarry, keys: Tensor) -> tuple[Tensor, SwitchingCarry]:
        """Choose actions [n, A]."""
        chance = carry.chance
        if carry.step % BLOCK == 0:
            chance = uniform(keys, 2, (BLOCK, 2), stream=_OTHER)
        now = chance[:, carry.step % BLOCK]
        change = now[:, 0] * self.steps < 1 if carry.step else torch.ones_like(carry.turn, dtype=torch.bool)
        turn = torch.where(change, (now[:, 1] * len(self.policies)).long(), carry.turn)
        results = [p.act(observation, c, keys) for p, c in zip(self.policies, carry.inner, strict=True)]
        actions_MnA = torch.stack([a for a, _ in results])
        action = actions_MnA[turn, torch.arange(len(turn))]
        inner = tuple(c for _, c in results)
        return action, SwitchingCarry(step=carry.step + 1, inner=inner, turn=turn, chance=chance)


def _fresh(n: int, dim: int) -> NoiseCarry:
    return NoiseCarry(step=0, own=torch.zeros(n, 0), block=torch.zeros(n, 0, 0), last=torch.zeros(n, dim))


def _between(unit: Tensor, ranges: Sequence[tuple[float, float]]) -> Tensor:
    """Uniform draws [n, k] in [0, 1) -> draws in k ranges."""
    low, high = (unit.new_tensor([r[i] for r in ranges]) for i in range(2))
    return low + (high - low) * unit
