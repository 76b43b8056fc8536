"""Planning inside a `World`: the cost of its imagined futures from where each episode stands, and that cost's risk.

Shape legend: B episodes, N candidates, H steps, M members, A action width.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from worldsim.core import Rollout, WorldState
from worldsim.errors import InvalidInputError
from worldsim.planners.costs import progress
from worldsim.planners.objective import Divisible, Reduction, RolloutObjective, Scores, StepCost, Terminal
from worldsim.protocols import World


def world_objective(
    world: World,
    state: WorldState,
    cost: StepCost = progress,
    *,
    terminal: Terminal | None = None,
    reduce: Reduction = "mean",
    discount: float = 1.0,
    repeat: int = 1,
    block: int = 1,
) -> RolloutObjective:
    """The cost of acting in a world from `state`; arguments as `RolloutObjective`.

    The state is encoded once; only latents are rolled out. Where the world is differentiable, so is the cost.
    """
    return RolloutObjective(
        roll=lambda start, actions: predict_rollout(world, start, actions),
        start=state,
        cost=cost,
        terminal=terminal,
        reduce=reduce,
        discount=discount,
        repeat=repeat,
        block=block,
    )


def predict_rollout(world: World, state: WorldState, actions: Tensor) -> Rollout:
    """What a world predicts of single actions [B, T, A]; its steps are fewer where each takes several actions.

    Raises:
        InvalidInputError: T is no multiple of the world's actions per step.
    """
    per_step = world.spec.actions_per_step
    if actions.shape[1] % per_step:
        raise InvalidInputError(
            f"This world takes {per_step} actions a step; a plan of {actions.shape[1]} cannot be divided into steps. "
            f"Choose block and repeat so that block * repeat is a multiple of {per_step}."
        )
    return world.rollout(state, actions if per_step == 1 else actions.unflatten(1, (-1, per_step)))[1]


Risk = Literal["mean", "mean_std", "cvar", "worst"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RiskObjective:
    """One cost out of several objectives for the same candidates: those of the members of an ensemble, or of noise draws.

    Attributes:
        objectives: M objectives.
        mode: ``"mean"``; ``"mean_std"`` adds `weight` standard deviations; ``"cvar"`` is the mean of the worst `tail`
            share (Rockafellar and Uryasev, 2000); ``"worst"`` the worst. Violations are always the worst.
        weight: Of the standard deviation.
        tail: Share in (0, 1].

    Raises:
        InvalidInputError: No objective, an unknown mode, or a tail outside (0, 1].
    """

    objectives: Sequence[Divisible]
    mode: Risk = "mean_std"
    weight: float = 1.0
    tail: float = 0.5

    def __post_init__(self) -> None:
        if not self.objectives or self.mode not in ("mean", "mean_std", "cvar", "worst") or not 0 < self.tail <= 1:
            raise InvalidInputError(
                f"Risk needs objectives, a mode among mean, mean_std, cvar and worst, and a tail in (0, 1]; got "
                f"{len(self.objectives)} objectives, mode={self.mode!r}, tail={self.tail}."
            )

    def __call__(self, actions: Tensor) -> Scores:
        """Costs [B, N]."""
        scores = [objective(actions) for objective in self.objectives]
        cost = self._reduce(torch.stack([s[0] if isinstance(s, tuple) else s for s in scores]))
        broken = [s[1] for s in scores if isinstance(s, tuple)]
        return (cost, torch.stack(broken).amax(0)) if broken else cost

    def rows(self, index: Tensor) -> "RiskObjective":
        """The risk for the episodes at `index`, int64 [K]; every objective must be divisible."""
        return dataclasses.replace(self, objectives=[o.rows(index) for o in self.objectives])

    def _reduce(self, cost_mbn: Tensor) -> Tensor:
        """[M, B, N] -> [B, N]."""
        if self.mode == "worst":
            return cost_mbn.amax(0)
        if self.mode == "cvar":
            return cost_mbn.topk(max(1, round(self.tail * len(cost_mbn))), dim=0).values.mean(0)
        mean = cost_mbn.mean(0)
        return mean if self.mode == "mean" else mean + self.weight * cost_mbn.std(0, correction=0)
