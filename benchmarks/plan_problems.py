"""Two planning problems with a known answer: a linear one with its Riccati optimum, and a wall with an opening aside.

Shape legend: B episodes, N candidates, T steps, S=4 state (position and velocity in the plane), A=2 acceleration.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from worldsim.noise import fold, uniform
from worldsim.planners import Bounds, RolloutObjective, rollout_of

BOUNDS = Bounds(-torch.ones(2), torch.ones(2))
WALL = 0.2
"""Half thickness of the wall, which stands at x = 0."""
OPENING = (0.9, 1.3)
"""From where to where the opening is along y; straight ahead is y = 0."""
GOAL = (1.0, 0.0)
ARRIVED = 0.2
GRAZE = 0.03
"""How deep a path may cut the corner of the wall."""
MARGIN = 0.05
"""By how much the cost thinks the wall thicker than it is: between two steps a path cuts corners."""


def _matrices(dt: float, drag: float) -> tuple[Tensor, Tensor]:
    """X' = F x + G a for a mass in the plane."""
    eye, zero = torch.eye(2), torch.zeros(2, 2)
    f = torch.cat([torch.cat([eye, dt * eye], 1), torch.cat([zero, (1 - drag) * eye], 1)])
    return f, torch.cat([0.5 * dt * dt * eye, dt * eye])


@dataclasses.dataclass(frozen=True)
class Problem:
    """A plant that clips its actions, a step cost and starts.

    Attributes:
        horizon: Steps of a plan.
        start: [B, S].
        step: (state [M, S], action [M, A]) -> next state; the action is clipped by the plant itself.
        cost: (states [B, N, T, S], actions [B, N, T, A]) -> [B, N, T].
    """

    horizon: int
    start: Tensor
    step: Callable[[Tensor, Tensor], Tensor]
    cost: Callable[[Tensor, Tensor], Tensor]

    def objective(self, start: Tensor | None = None) -> RolloutObjective:
        """Total cost of a plan from where each episode stands."""
        return RolloutObjective(
            roll=rollout_of(self.step), start=self.start if start is None else start, cost=self.cost
        )


def lqr(batch: int, *, seed: int = 0, horizon: int = 16) -> Problem:
    """A double integrator to be brought to rest at the origin.

    Every start is scaled so that the largest action of its optimum is 0.9: inside the bounds, and not trivially so.
    """
    f, g = _matrices(0.2, 0.0)

    def step(state: Tensor, action: Tensor) -> Tensor:
        return state @ f.T + action.clamp(-1, 1) @ g.T

    def cost(states: Tensor, actions: Tensor) -> Tensor:
        position, velocity = states[..., :2].square().sum(-1), states[..., 2:].square().sum(-1)
        return position + 0.1 * velocity + 0.1 * actions.clamp(-1, 1).square().sum(-1)

    draw = uniform(fold(torch.arange(batch), seed), 0, (4,)) * 2 - 1
    start = draw * torch.tensor([1.0, 1.0, 0.5, 0.5])
    peak = _riccati(start, horizon).abs().flatten(1).amax(1, keepdim=True)
    return Problem(horizon, start * (0.9 / peak), step, cost)


def lqr_optimum(problem: Problem, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best plan [B, H, A] and its cost [B] from `start` [B, S], by default the problem's own.

    Raises:
        AssertionError: The optimum leaves the bounds, where the recursion would not be the answer.
    """
    start = problem.start if start is None else start
    actions = _riccati(start, problem.horizon)
    assert bool((actions.abs() <= 1).all()), "the optimum leaves the bounds"
    cost = problem.objective(start)(actions[:, None])
    assert isinstance(cost, Tensor)
    return actions, cost[:, 0]


def _riccati(start: Tensor, horizon: int) -> Tensor:
    """The optimal actions [B, H, A] of the linear problem, by the Riccati recursion (Bertsekas, 2017, section 3.1)."""
    f, g = (m.double() for m in _matrices(0.2, 0.0))
    q, r = torch.diag(torch.tensor([1, 1, 0.1, 0.1]).double()), 0.1 * torch.eye(2).double()
    value, gains = torch.zeros(4, 4).double(), []
    for _ in range(horizon):
        after = q + value  # the cost counts the state that a step leads to
        gain = torch.linalg.solve(r + g.T @ after @ g, g.T @ after @ f)
        value = f.T @ after @ (f - g @ gain)
        gains.append(gain)
    state, plan = start.double(), []
    for gain in reversed(gains):
        plan.append(-state @ gain.T)
        state = state @ f.T + plan[-1] @ g.T
    return torch.stack(plan, dim=1).float()


def wall(batch: int, *, seed: int = 0, horizon: int = 24) -> Problem:
    """A mass before a wall; the goal lies straight behind it, the only opening aside."""
    f, g = _matrices(0.2, 0.1)
    draw = uniform(fold(torch.arange(batch), seed), 0, (2,)) * 2 - 1
    start = torch.zeros(batch, 4)
    start[:, :2] = torch.tensor([-1.0, 0.0]) + draw * torch.tensor([0.1, 0.2])

    def step(state: Tensor, action: Tensor) -> Tensor:
        return state @ f.T + action.clamp(-1, 1) @ g.T

    def cost(states: Tensor, actions: Tensor) -> Tensor:
        away = (states[..., :2] - torch.tensor(GOAL)).square().sum(-1)
        return away + 100 * _touched(states) / WALL + 0.01 * actions.clamp(-1, 1).square().sum(-1)

    return Problem(horizon, start, step, cost)


def _depth(states: Tensor, margin: float = 0.0) -> Tensor:
    """How deep inside the wall, [...]; the shorter way out counts."""
    across = (WALL + margin - states[..., 0].abs()).clamp_min(0)
    along = torch.maximum(OPENING[0] + margin - states[..., 1], states[..., 1] - OPENING[1] + margin).clamp_min(0)
    return torch.minimum(across, along)


def _touched(states: Tensor) -> Tensor:
    """How deep each step [..., T, S] is inside the wall, at its end or half way there; the deeper of the two."""
    halfway = torch.lerp(states[..., :-1, :], states[..., 1:, :], 0.5)
    between = torch.cat([_depth(states[..., :1, :]), _depth(halfway, MARGIN)], dim=-1)
    return torch.maximum(_depth(states, MARGIN), between)


def through_the_opening(states: Tensor) -> Tensor:
    """Whether paths [B, T, S] end at the goal and never touch the wall on the way, between steps either, bool [B]."""
    arrived = (states[:, -1, :2] - torch.tensor(GOAL)).norm(dim=-1) < ARRIVED
    share = torch.linspace(0, 1, 10)[:, None]
    between = torch.lerp(states[:, :-1, None], states[:, 1:, None], share)
    return arrived & ~(_depth(between) > GRAZE).flatten(1).any(1)
