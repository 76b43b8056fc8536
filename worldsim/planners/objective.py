"""What a planner minimises: a function from candidate actions to costs, and how to make one from a rollout.

A planner sees `f(actions [B, N, H, A]) -> cost [B, N]` and never a model. `RolloutObjective` builds such a function from
any batched rollout and a per-step cost; the reduction over time lives here, once, for all costs.

Shape legend: B episodes, N candidates, H planned steps, T = H x repeat steps of the model, A action width.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from worldsim.core import Rows
from worldsim.errors import InvalidInputError

Scores = Tensor | tuple[Tensor, Tensor]
"""Costs [B, N], or costs and constraint violations [B, N]; a violation of 0 or less is none."""
Objective = Callable[[Tensor], Scores]
"""actions [B, N, H, A] -> scores; lower is better. NaN and infinity count as the worst."""
Reduction = Literal["sum", "mean", "last", "max", "min"]


@runtime_checkable
class Divisible(Protocol):
    """An objective that can be asked about some of its episodes only, so that finished ones cost nothing."""

    def __call__(self, actions: Tensor) -> Scores:
        """Scores of actions [B, N, H, A]."""

    def rows(self, index: Tensor) -> "Divisible":
        """The objective of the episodes at int64 [n]."""


Step = Callable[[Any, Tensor], Any]
"""(states [M, ...], action [M, A]) -> next states [M, ...]."""
Roll = Callable[[Any, Tensor], Any]
"""(states [M, ...], actions [M, T, A]) -> trajectory [M, T, ...]: a tensor, a dict of tensors or `Rows`."""
StepCost = Callable[[Any, Tensor], Scores]
"""(trajectory [B, N, T, ...], actions [B, N, T, A]) -> cost of every step [B, N, T], or that and its violation."""
Terminal = Callable[[Any, Tensor], Tensor]
"""(trajectory [B, N, T, ...], actions [B, N, T, A]) -> cost beyond the horizon [B, N]."""


def rollout_of(step: Step) -> Roll:
    """The rollout of a one-step model: calls it T times and stacks the states it gives, [M, T, ...]."""

    def roll(state: Tensor, actions: Tensor) -> Tensor:
        seen = []
        for t in range(actions.shape[1]):
            state = step(state, actions[:, t])
            seen.append(state)
        return torch.stack(seen, dim=1)

    return roll


@dataclasses.dataclass(frozen=True, kw_only=True)
class RolloutObjective:
    """The cost of rolling a model out from where each episode stands.

    The start is encoded once, by the caller; candidates share it.

    Attributes:
        roll: The model: a world's rollout, `rollout_of(step)`, or any batched function.
        start: Where each of B episodes stands: a tensor [B, ...] or `Rows`.
        cost: Cost of every step, see `worldsim.planners.costs`.
        terminal: Cost beyond the last step, a value function's negative for example; added after the reduction.
        reduce: How costs over time become one number.
        discount: Step t counts `discount ** t`.
        repeat: Each action is held for so many steps of the model.
        block: Each planned step holds so many distinct actions, side by side in the plan's last axis.

    Raises:
        InvalidInputError: repeat or block below 1, or an unknown reduction.
    """

    roll: Roll
    start: Any
    cost: StepCost
    terminal: Terminal | None = None
    reduce: Reduction = "sum"
    discount: float = 1.0
    repeat: int = 1
    block: int = 1

    def __post_init__(self) -> None:
        if self.repeat < 1 or self.block < 1:
            raise InvalidInputError(f"repeat and block are at least 1; got {self.repeat} and {self.block}.")
        if self.reduce not in _REDUCTIONS:
            raise InvalidInputError(f"reduce is one of {', '.join(_REDUCTIONS)}; got {self.reduce!r}.")

    def __call__(self, actions: Tensor) -> Scores:
        """Costs [B, N] of actions [B, N, H, A]."""
        b, n = actions.shape[:2]
        held = unrolled(actions, block=self.block, repeat=self.repeat)
        path = _unflatten(self.roll(_repeat(self.start, n), held.reshape(b * n, *held.shape[2:])), (b, n))
        scores = self.cost(path, held)
        cost, violation = scores if isinstance(scores, tuple) else (scores, None)
        total = self._over_time(cost)
        if self.terminal is not None:
            total = total + self.terminal(path, held)
        return total if violation is None else (total, violation.flatten(2).clamp_min(0).sum(2))

    def rows(self, index: Tensor) -> "RolloutObjective":
        """The objective of the episodes at `index`, int64 [K]; costs that hold goals per episode must offer `rows` too."""
        parts = {
            name: part.rows(index) for name in ("cost", "terminal") if hasattr(part := getattr(self, name), "rows")
        }
        start = self.start.rows(index) if isinstance(self.start, Rows) else self.start[index]
        return dataclasses.replace(self, start=start, **parts)

    def _over_time(self, cost: Tensor) -> Tensor:
        """[B, N, T] -> [B, N]."""
        if cost.ndim != 3:
            raise InvalidInputError(f"A step cost gives [B, N, T]; got {tuple(cost.shape)}.")
        if self.discount != 1:
            cost = cost * self.discount ** torch.arange(cost.shape[2], device=cost.device)
        return _REDUCTIONS[self.reduce](cost)


_REDUCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sum": lambda c: c.sum(2),
    "mean": lambda c: c.mean(2),
    "last": lambda c: c[:, :, -1],
    "max": lambda c: c.amax(2),
    "min": lambda c: c.amin(2),
}


def unrolled(actions: Tensor, *, block: int = 1, repeat: int = 1) -> Tensor:
    """What is executed of a plan: [..., H, block * A] -> [..., H * block * repeat, A]."""
    if block > 1:
        actions = actions.unflatten(-1, (block, -1)).flatten(-3, -2)
    return actions.repeat_interleave(repeat, dim=-2) if repeat > 1 else actions


def from_numpy(function: Callable[[Any], Any]) -> Objective:
    """Let a planner minimise a function of numpy arrays: a simulator, a vector environment.

    Args:
        function: float array [B, N, H, A] -> array [B, N], or a pair of them for cost and violation.

    Returns:
        An objective; it has no gradient, so use it with the sampling rules.
    """

    def objective(actions: Tensor) -> Scores:
        given = function(actions.detach().cpu().numpy())
        if isinstance(given, tuple):
            return _tensor(given[0], actions), _tensor(given[1], actions)
        return _tensor(given, actions)

    return objective


def _tensor(values: Any, like: Tensor) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(like.device)


def _repeat(start: Any, n: int) -> Any:
    """Every episode N times, [B, ...] -> [B * N, ...]."""
    if isinstance(start, Rows):
        return start.repeat(n)
    return start[:, None].expand(-1, n, *start.shape[1:]).reshape(-1, *start.shape[1:])


def _unflatten(path: Any, lead: tuple[int, int]) -> Any:
    """[B * N, T, ...] -> [B, N, T, ...], whatever holds the tensors."""
    if isinstance(path, Tensor):
        return path.unflatten(0, lead)
    if isinstance(path, Mapping):
        return {k: _unflatten(v, lead) for k, v in path.items()}
    fields = {f.name: getattr(path, f.name) for f in dataclasses.fields(path)}
    return dataclasses.replace(path, **{k: v.unflatten(0, lead) for k, v in fields.items() if isinstance(v, Tensor)})
