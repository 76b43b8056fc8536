"""A check of plans by the members of a world's ensemble: what each predicts alone, also under small action noise.

A search finds the plans about which the world it searched in is most wrong: of many, the one that a glancing contact
happens to favour. The members, which were not searched in, mostly do not share that error. So their mean is the better
promise, and what they disagree about is a plan to leave alone.

Shape legend: B episodes, K finalists, T control steps, H planned steps, A action width.
"""

import dataclasses
from typing import Any, Self

import torch
from torch import Tensor

from worldsim.core import WorldState
from worldsim.errors import InvalidInputError
from worldsim.noise import normal
from worldsim.planners.bounds import Bounds
from worldsim.planners.costs import progress
from worldsim.planners.evaluate import Evaluator, Scored
from worldsim.planners.objective import Objective, Roll, StepCost
from worldsim.planners.search import Plan
from worldsim.planners.world_objective import RiskObjective, predict_rollout, world_objective
from worldsim.protocols import Ensemble, World

_STREAM = 0x0B1  # separates the noise of actions from the world's own noise


@dataclasses.dataclass(frozen=True, kw_only=True)
class EnsembleCheck:
    """Worlds that continue the same states, each in its own way.

    Attributes:
        worlds: The members.
        draws: How often each member also predicts what the actions lead to under noise.
        action_noise: Standard deviation of that noise at every control step, in half ranges of the actions.

    Raises:
        InvalidInputError: No world, or a negative number.
    """

    worlds: tuple[World, ...]
    draws: int = 2
    action_noise: float = 0.015

    def __post_init__(self) -> None:
        if not self.worlds or self.draws < 0 or not 0 <= self.action_noise < float("inf"):
            raise InvalidInputError(
                f"An ensemble check needs at least one world, draws and action_noise of at least 0; got {len(self.worlds)} worlds, "
                f"{self.draws} and {self.action_noise}."
            )

    @classmethod
    def of(cls, world: World, **options: Any) -> Self:
        """Those of a world's members; of the world alone where it has none."""
        return cls(worlds=world.members() if isinstance(world, Ensemble) else (world,), **options)

    def expected_progress(self, state: WorldState, actions: Tensor) -> Tensor:
        """What a plan promises: progress [B, T] expected of actions [B, T, A], the mean of the members' own rollouts."""
        with torch.no_grad():
            return torch.stack([predict_rollout(w, state, actions).progress for w in self.worlds]).mean(0)

    def objective(
        self, state: WorldState, cost: StepCost = progress, *, weight: float = 2.0, **options: Any
    ) -> RiskObjective:
        """The mean cost over all members, with and without action noise, plus `weight` times their standard deviation.

        Args:
            state: Where B episodes stand.
            cost: Cost of every step.
            weight: Price of disagreement.
            **options: `repeat`, `block`, `reduce`, ... of `worldsim.planners.objective`.
        """
        steady = [world_objective(world, state, cost, **options) for world in self.worlds]
        noisy = [
            dataclasses.replace(member, roll=self._with_action_noise(world, draw))
            for member, world in zip(steady, self.worlds, strict=True)
            for draw in range(self.draws)
        ]
        return RiskObjective(objectives=[*steady, *noisy], mode="mean_std", weight=weight)

    def _with_action_noise(self, world: World, draw: int) -> Roll:
        """A world's rollout of actions that come out a little different: the same for all candidates and members."""

        def roll(start: WorldState, actions: Tensor) -> Any:
            noise = normal(start.key, start.step, actions.shape[1:], stream=_STREAM + draw).to(actions)
            half = Bounds.of(world.spec.action).half.to(actions)
            return predict_rollout(world, start, actions + noise * half * self.action_noise)

        return roll


def rerank(plan: Plan, objective: Objective, ranking: Objective, *, bounds: Bounds) -> Plan:
    """Choose among the finalists of a search, its plan and its elites, by another objective.

    Args:
        plan: What the search found.
        objective: What was searched; gives the cost of whatever is returned.
        ranking: What ranks the finalists. One whose cost by `objective` is not finite, or that breaks constraints more
            than the plan does, is never chosen.
        bounds: Every finalist is kept inside.

    Returns:
        The chosen plan. Its cost is its own by `objective`, so not below that of `plan`, but for rounding.
    """
    finalists = bounds.clip(torch.cat([plan.actions[:, None], plan.state.elites.to(plan.actions)], dim=1))
    liked = _scored(ranking, finalists).rank.argmin(1)
    rows = torch.arange(len(liked), device=liked.device)
    found = _scored(objective, finalists[rows, liked][:, None])
    broken = torch.zeros_like(found.cost) if found.violation is None else found.violation
    sound = ((liked > 0) & found.cost[:, 0].isfinite() & (broken[:, 0] <= plan.violation))[:, None, None]
    actions = torch.where(sound, finalists[rows, liked], plan.actions)
    sound = sound[:, 0, 0]
    return dataclasses.replace(
        plan,
        actions=actions,
        cost=torch.where(sound, found.cost[:, 0].to(plan.cost), plan.cost),
        violation=torch.where(sound, broken[:, 0].to(plan.violation), plan.violation),
        feasible=torch.where(sound, broken[:, 0] <= 0, plan.feasible),
        state=dataclasses.replace(plan.state, mean=actions),
        stats=dataclasses.replace(plan.stats, evaluations=plan.stats.evaluations + finalists.shape[1] + 1),
    )


def _scored(objective: Objective, candidates: Tensor) -> Scored:
    return Evaluator(objective, chunk=0, batch=len(candidates), device=candidates.device)(candidates)
