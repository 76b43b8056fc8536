"""Step costs over imagined futures: what a plan should bring about, and what it should avoid.

A cost is a function (futures, actions) -> [B, N, T], where futures has the fields of `worldsim.core.Rollout` with two
leading axes, episode and candidate. Costs add: `weigh((1, progress()), (0.1, effort(spec)))`.

Shape legend: B episodes, N candidates, T steps, A action width, c h w latent, E true state.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from worldsim.actions import ActionSpec
from worldsim.core import Observation, Rollout
from worldsim.errors import InvalidInputError
from worldsim.planners.objective import Scores, StepCost, Terminal
from worldsim.protocols import Encodable, Judge, World


def progress(futures: Rollout, actions: Tensor) -> Tensor:
    """How far from done the task is, 1 - progress: 0..1 per step, [B, N, T]."""
    return 1 - futures.progress


def failure(futures: Rollout, actions: Tensor) -> Tensor:
    """Probability that the task does not stand solved, 1 - success: 0..1 per step, [B, N, T]."""
    return 1 - futures.success


def uncertainty(futures: Rollout, actions: Tensor) -> Tensor:
    """The world's own uncertainty of each step, [B, N, T], in its units: plans that pay for it stay where the world knows."""
    return futures.uncertainty


@dataclasses.dataclass(frozen=True)
class Effort:
    """Squared distance of the action from idle, 1 at the farther limit, averaged over dimensions."""

    spec: ActionSpec

    def __call__(self, futures: Any, actions: Tensor) -> Tensor:
        """[B, N, T]."""
        idle, low, high = (actions.new_tensor(v) for v in (self.spec.idle, self.spec.low, self.spec.high))
        return ((actions - idle) / torch.maximum(high - idle, idle - low)).square().mean(-1)


@dataclasses.dataclass(frozen=True)
class Jerk:
    """Squared change of the action from step to step, 1 for a jump across half the range."""

    spec: ActionSpec

    def __call__(self, futures: Any, actions: Tensor) -> Tensor:
        """[B, N, T]; the first step is free."""
        half = (actions.new_tensor(self.spec.high) - actions.new_tensor(self.spec.low)) / 2
        change = (actions.diff(dim=2, prepend=actions[:, :, :1]) / half).square().mean(-1)
        return change


@dataclasses.dataclass(frozen=True)
class LatentGoal:
    """Mean squared distance of the latent from a goal of each episode.

    Attributes:
        goal: [B, c, h, w], or [c, h, w] for all episodes.
        weight: Per latent entry, broadcast over the goal; what the task does not care about gets 0.
    """

    goal: Tensor
    weight: Tensor | None = None

    def __call__(self, futures: Rollout, actions: Tensor) -> Tensor:
        """[B, N, T]."""
        goal = self.goal if self.goal.ndim == 3 else self.goal[:, None, None]
        miss = (futures.latent - goal).square()
        return (miss if self.weight is None else miss * self.weight).flatten(3).mean(3)

    def rows(self, index: Tensor) -> "LatentGoal":
        """The goals of the episodes at `index`, int64 [K]."""
        return self if self.goal.ndim == 3 else dataclasses.replace(self, goal=self.goal[index])


def image_goal(world: World, frames: Tensor) -> LatentGoal:
    """The latent goal that a picture shows.

    Args:
        world: A world that encodes.
        frames: uint8 [B, H, W, 3], or [H, W, 3] for all episodes.

    Raises:
        InvalidInputError: The world cannot encode one camera's pictures, or the frames do not fit it.
    """
    if not isinstance(world, Encodable) or len(world.spec.cameras) != 1:
        raise InvalidInputError(f"{type(world).__name__} cannot encode pictures; give a LatentGoal instead.")
    if frames.dtype != torch.uint8 or tuple(frames.shape[-3:]) != (*world.spec.image_size, 3):
        raise InvalidInputError(
            f"Goal frames are uint8 [..., {world.spec.image_size[0]}, {world.spec.image_size[1]}, 3]; got {frames.dtype} "
            f"{tuple(frames.shape)}."
        )
    with torch.no_grad():
        latent = world.encode({world.spec.cameras[0].key: frames if frames.ndim == 4 else frames[None]})
    return LatentGoal(latent if frames.ndim == 4 else latent[0])


@dataclasses.dataclass(frozen=True)
class Weighed:
    """A weighted sum of costs; constraints among them add their violations."""

    parts: tuple[tuple[float, StepCost], ...]

    def __call__(self, futures: Any, actions: Tensor) -> Scores:
        """[B, N, T], or that and the violation."""
        total: Tensor | None = None
        broken: Tensor | None = None
        for weight, cost in self.parts:
            scores = cost(futures, actions)
            value, violation = scores if isinstance(scores, tuple) else (scores, None)
            total = value * weight if total is None else total + value * weight
            if violation is not None:
                broken = violation if broken is None else broken + violation
        assert total is not None
        return total if broken is None else (total, broken)

    def rows(self, index: Tensor) -> "Weighed":
        """The costs of the episodes at `index`, int64 [K]."""
        return Weighed(tuple((w, c.rows(index) if hasattr(c, "rows") else c) for w, c in self.parts))


def weigh(*parts: tuple[float, StepCost]) -> Weighed:
    """A weighted sum of step costs.

    Raises:
        InvalidInputError: Nothing to add.
    """
    if not parts:
        raise InvalidInputError("weigh needs at least one pair (weight, cost).")
    return Weighed(parts)


@dataclasses.dataclass(frozen=True)
class Constraint:
    """A limit that a plan must keep: candidates that break it rank behind all that do not.

    Attributes:
        excess: (futures, actions) -> [B, N, T], by how much each step is beyond the limit; 0 or less is within.
    """

    excess: Callable[[Any, Tensor], Tensor]

    def __call__(self, futures: Any, actions: Tensor) -> tuple[Tensor, Tensor]:
        """No cost, and the violation [B, N, T]."""
        over = self.excess(futures, actions).clamp_min(0)
        return torch.zeros_like(over), over

    def rows(self, index: Tensor) -> "Constraint":
        """The limit for the episodes at `index`, int64 [K]."""
        return Constraint(self.excess.rows(index)) if hasattr(self.excess, "rows") else self


def judged(judge: Judge) -> Terminal:
    """A judge's verdict on each future as a terminal cost: 1 - success, and 1 where it abstains."""

    def cost(futures: Rollout, actions: Tensor) -> Tensor:
        lead = actions.shape[:2]
        fields = {f.name: getattr(futures, f.name) for f in dataclasses.fields(futures)}
        flat = {k: v.flatten(0, 1) for k, v in fields.items() if isinstance(v, Tensor)}
        verdict = judge(dataclasses.replace(futures, **flat))
        return torch.where(verdict.abstain, 1.0, 1 - verdict.success).unflatten(0, lead)

    return cost


def goal_from(world: World, observation: Observation, keys: Tensor) -> LatentGoal:
    """The latent goal [B, c, h, w] of being where `observation` is, for any world whose states hold latents."""
    state = world.reset(observation, keys)
    latent = getattr(state, "start", None)
    if latent is None:
        raise InvalidInputError(f"States of {type(world).__name__} hold no latent; build a LatentGoal yourself.")
    return LatentGoal(latent)
