"""Policies made worse on purpose: noise, delay, gain, offset, rotation, random and frozen actions over any policy.

They widen the behaviour in collected data and give triage policies whose order is known.

Shape legend: n episodes, A action width, D delay in steps.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import Observation
from worldsim.errors import InvalidInputError
from worldsim.noise import normal, uniform
from worldsim.policies.checks import checked_action
from worldsim.protocols import Policy

_NOISE, _CHANCE, _RANDOM = 0xDE60, 0xDE61, 0xDE62  # noise streams; `salt` keeps nested wrappers apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Degradation:
    """What to do to the actions, applied in the order of the fields; the default does nothing.

    Attributes:
        rotation_rad: Turns the first two action dimensions about their idle value.
        gain: Factor on the distance from the idle action.
        offset: Added in units of half the range between the limits; one number per dimension, or empty.
        random: Probability per step of a uniform random action instead, 0..1.
        noise: Standard deviation of added Gaussian noise, in units of half the range.
        noise_memory: Correlation of that noise from step to step, 0 (white) to below 1 (slow wander).
        delay_steps: Actions arrive this many steps late; idle until the first does.
        frozen_after: From this step on the last action before it is repeated; None for never.
        salt: Changes the noise, so that one degradation inside another draws its own.

    Raises:
        InvalidInputError: A value out of its range.
    """

    rotation_rad: float = 0.0
    gain: float = 1.0
    offset: tuple[float, ...] = ()
    random: float = 0.0
    noise: float = 0.0
    noise_memory: float = 0.0
    delay_steps: int = 0
    frozen_after: int | None = None
    salt: int = 0

    def __post_init__(self) -> None:
        checks = {
            "rotation_rad": math.isfinite(self.rotation_rad),
            "gain": math.isfinite(self.gain),
            "offset": all(math.isfinite(v) for v in self.offset),
            "random": 0 <= self.random <= 1,
            "noise": 0 <= self.noise < math.inf,
            "noise_memory": 0 <= self.noise_memory < 1,
            "delay_steps": self.delay_steps >= 0,
            "frozen_after": self.frozen_after is None or self.frozen_after >= 0,
        }
        for name, fine in checks.items():
            if not fine:
                raise InvalidInputError(f"Degradation.{name} is out of range: {getattr(self, name)!r}. See its docs.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DegradedCarry:
    """Memory of a degraded policy."""

    inner: Any  # the carry of the policy inside
    step: Tensor  # int64 [n]
    noise: Tensor  # float32 [n, A], correlated noise, unit variance
    queue: Tensor  # float32 [n, D, A], actions on their way, oldest first
    last: Tensor  # float32 [n, A], the action given last


class DegradedPolicy:
    """A policy whose actions are changed on their way out; itself a policy, so it can be degraded again.

    Args:
        inner: Any policy.
        action: Meaning and limits of its actions; results are clipped into them.
        how: What to change.

    Raises:
        InvalidInputError: `how` does not fit the action width.
    """

    def __init__(self, inner: Policy, *, action: ActionSpec, how: Degradation) -> None:
        if how.offset and len(how.offset) != action.dim:
            raise InvalidInputError(f"Degradation.offset has {len(how.offset)} values for {action.dim} actions.")
        if how.rotation_rad and action.dim < 2:
            raise InvalidInputError("Degradation.rotation_rad needs two action dimensions; the spec has one.")
        self.inner, self.action, self.how = inner, action, how

    @property
    def needs(self) -> frozenset[str]:
        """What the policy inside needs."""
        return self.inner.needs

    def initial(self, n: int) -> DegradedCarry:
        """Return the carry of n fresh episodes."""
        idle = torch.tensor(self.action.idle).expand(n, -1)
        return DegradedCarry(
            inner=self.inner.initial(n),
            step=torch.zeros(n, dtype=torch.int64),
            noise=torch.zeros(n, self.action.dim),
            queue=idle[:, None].repeat(1, self.how.delay_steps, 1),
            last=idle.clone(),
        )

    def act(self, observation: Observation, carry: DegradedCarry, keys: Tensor) -> tuple[Tensor, DegradedCarry]:
        """Choose actions; see `worldsim.protocols.Policy.act`.

        Raises:
            PolicyError: The policy inside returned something else than finite actions [n, A].
        """
        given, inner = self.inner.act(observation, carry.inner, keys)
        name = type(self.inner).__name__
        action = checked_action(given, policy=name, n=keys.shape[0], dim=self.action.dim)
        action = self._skew(action)
        action, noise = self._disturb(action, carry, keys)
        queue = torch.cat([carry.queue, self.action.check(action)[:, None]], dim=1)
        action, queue = queue[:, 0], queue[:, 1:]
        if self.how.frozen_after is not None:
            action = torch.where((carry.step >= self.how.frozen_after)[:, None], carry.last, action)
        return action, DegradedCarry(inner=inner, step=carry.step + 1, noise=noise, queue=queue, last=action)

    def _skew(self, action: Tensor) -> Tensor:
        """Rotation, gain and offset."""
        h = self.how
        idle = action.new_tensor(self.action.idle)
        delta = action - idle
        if h.rotation_rad:
            cos, sin = math.cos(h.rotation_rad), math.sin(h.rotation_rad)
            x, y = delta[:, :1], delta[:, 1:2]
            delta = torch.cat([cos * x - sin * y, sin * x + cos * y, delta[:, 2:]], dim=1)
        shift = self._half_range(action) * action.new_tensor(h.offset) if h.offset else 0.0
        return idle + delta * h.gain + shift

    def _disturb(self, action: Tensor, carry: DegradedCarry, keys: Tensor) -> tuple[Tensor, Tensor]:
        """Random actions and added noise; returns the action and the correlated noise to remember."""
        h, dim = self.how, (self.action.dim,)
        if h.random:
            chance = uniform(keys, carry.step, (1,), stream=_CHANCE + 16 * h.salt)
            anything = self.action.from_unit(uniform(keys, carry.step, dim, stream=_RANDOM + 16 * h.salt) * 2 - 1)
            action = torch.where(chance < h.random, anything, action)
        if not h.noise:
            return action, carry.noise
        fresh = normal(keys, carry.step, dim, stream=_NOISE + 16 * h.salt)
        first = (carry.step == 0)[:, None]
        wander = h.noise_memory * carry.noise + math.sqrt(1 - h.noise_memory**2) * fresh
        noise = torch.where(first, fresh, wander)
        return action + noise * h.noise * self._half_range(action), noise

    def _half_range(self, like: Tensor) -> Tensor:
        """Half the distance between the limits, [A]."""
        return (like.new_tensor(self.action.high) - like.new_tensor(self.action.low)) / 2
