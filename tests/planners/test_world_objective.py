import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.planners.plane import Plane
from worldsim.errors import InvalidInputError
from worldsim.planners import make_planner
from worldsim.planners.costs import Effort, progress, weigh
from worldsim.planners.world_objective import RiskObjective, world_objective
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentState, LatentWorld


@pytest.fixture(scope="module", params=["push", "push_state"])
def world(request: pytest.FixtureRequest) -> LatentWorld:
    return load_world(request.param)


def begin(world: LatentWorld, n: int) -> LatentState:
    return world.reset(world.starts(torch.arange(n)), torch.arange(n))


def test_the_cost_is_that_of_the_imagined_future(world: LatentWorld) -> None:
    state = begin(world, 2)
    actions = torch.rand(2, 3, 4, 2, generator=torch.Generator().manual_seed(0)) * 0.8 - 0.4
    cost = world_objective(world, state)(actions)
    assert isinstance(cost, Tensor)
    for n in range(3):
        _, future = world.rollout(state, actions[:, n])
        assert torch.allclose(cost[:, n], (1 - future.progress).mean(1), atol=1e-5)


def test_its_gradient_is_that_of_finite_differences(world: LatentWorld) -> None:
    objective: Any = world_objective(world, begin(world, 2), reduce="sum")
    actions = torch.full((2, 1, 4, 2), 0.1, requires_grad=True)
    (slope,) = torch.autograd.grad(objective(actions).sum(), actions)
    assert bool(slope.isfinite().all()) and bool((slope != 0).any())
    step = 0.02 * slope / slope.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    with torch.no_grad():
        rise = (objective(actions + step) - objective(actions - step))[:, 0] / 2
    assert torch.allclose(rise, (slope * step).flatten(1).sum(1), rtol=0.15, atol=2e-5)


def test_descending_that_gradient_finds_a_better_plan(world: LatentWorld) -> None:
    objective: Any = world_objective(world, begin(world, 3))
    idle = objective(torch.zeros(3, 1, 12, 2))[:, 0]
    plan = make_planner("hybrid", horizon=12, samples=64, iterations=4).plan(
        objective, bounds=world.spec.action, batch=3
    )
    assert bool((plan.cost < idle - 0.003).all())
    assert torch.allclose(plan.cost, objective(plan.actions[:, None])[:, 0], atol=1e-5)


def test_observations_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = load_world("push")
    objective = world_objective(world, begin(world, 2))
    monkeypatch.setattr(world, "encode", None)
    monkeypatch.setattr(world, "decode", None)
    plan = make_planner("hybrid", horizon=3, samples=16, iterations=4).plan(
        objective, bounds=world.spec.action, batch=2
    )
    assert bool(plan.feasible.all())  # neither was called: calling None raises


@pytest.mark.parametrize("name", ["weighted", "cem", "gradient"])
def test_an_episodes_plan_is_the_same_alone_but_for_rounding(world: LatentWorld, name: str) -> None:
    state, keys = begin(world, 4), torch.arange(4) + 40
    planner = make_planner(name, horizon=5, samples=24, iterations=4)
    together = planner.plan(world_objective(world, state), bounds=world.spec.action, keys=keys)
    for i in (0, 3):
        row = slice(i, i + 1)
        alone = planner.plan(world_objective(world, state.rows(row)), bounds=world.spec.action, keys=keys[row])
        assert torch.allclose(alone.actions[0], together.actions[i], atol=2e-3)
        assert torch.allclose(alone.cost[0], together.cost[i], atol=1e-5)


def test_episodes_that_are_finished_are_not_imagined() -> None:
    world = load_world("push_state")
    objective, index = world_objective(world, begin(world, 3)), torch.tensor([2, 0])
    actions = torch.zeros(3, 2, 4, 2)
    some, together = objective.rows(index)(actions[index]), objective(actions)
    assert isinstance(some, Tensor) and isinstance(together, Tensor)
    assert torch.allclose(some, together[index], atol=1e-6)


def test_the_settings_reach_the_objective() -> None:
    world = Plane()
    state = world.reset(world.starts(torch.arange(2)), torch.arange(2))
    cost = weigh((1.0, progress), (0.1, Effort(world.spec.action)))
    objective = world_objective(
        world, state, cost, terminal=lambda f, a: f.progress[:, :, -1], reduce="sum", discount=0.9, repeat=2
    )
    actions = torch.full((2, 1, 3, 2), 0.5)
    _, future = world.rollout(state, actions[:, 0].repeat_interleave(2, 1))
    steps = 1 - future.progress + 0.1 * Effort(world.spec.action)(None, actions.repeat_interleave(2, 2))[:, 0]
    expected = (steps * 0.9 ** torch.arange(6)).sum(1) + future.progress[:, -1]
    found = objective(actions)
    assert isinstance(found, Tensor) and torch.allclose(found[:, 0], expected)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A cost per episode and candidate, whatever the actions."""

    cost: Tensor  # [B, N]
    violation: Tensor | None = None

    def __call__(self, actions: Tensor) -> Any:
        return self.cost if self.violation is None else (self.cost, self.violation)

    def rows(self, index: Tensor) -> "Fixed":
        return Fixed(self.cost[index], None if self.violation is None else self.violation[index])


def risk(costs: Tensor, mode: str, **options: float) -> Tensor:
    given: Any = [Fixed(o) for o in costs]
    scores = RiskObjective(objectives=given, mode=mode, **options)(torch.zeros(1))  # type: ignore[arg-type]
    assert isinstance(scores, Tensor)
    return scores


@given(members=st.integers(1, 9), tail=st.floats(0.01, 1.0), weight=st.floats(0.0, 5.0), seed=st.integers(0, 2**31))
def test_the_worst_is_at_least_the_tail_and_that_at_least_the_mean(
    members: int, tail: float, weight: float, seed: int
) -> None:
    costs = torch.randn(members, 2, 3, generator=torch.Generator().manual_seed(seed))
    worst, mean = risk(costs, "worst"), risk(costs, "mean")
    cvar = risk(costs, "cvar", tail=tail)
    assert bool((worst >= cvar - 1e-5).all()) and bool((cvar >= mean - 1e-5).all())
    assert bool((risk(costs, "mean_std", weight=weight) >= mean).all())
    assert torch.allclose(risk(costs, "cvar", tail=1.0), mean, atol=1e-6)
    assert torch.equal(risk(costs, "cvar", tail=0.01), worst)


def test_each_mode_by_hand() -> None:
    costs = torch.tensor([1.0, 5.0, 3.0, 7.0]).view(4, 1, 1)
    assert float(risk(costs, "mean")) == 4 and float(risk(costs, "worst")) == 7
    assert float(risk(costs, "cvar", tail=0.5)) == 6
    assert torch.isclose(risk(costs, "mean_std", weight=2.0), torch.tensor(4 + 2 * 5**0.5))


def test_a_cost_that_is_no_number_is_not_averaged_away() -> None:
    costs = torch.tensor([[[1.0]], [[torch.nan]]])
    for mode in ("mean", "mean_std", "cvar", "worst"):
        assert not bool(risk(costs, mode).isfinite())


def test_violations_are_the_worst_of_all() -> None:
    cost = torch.zeros(2, 2)
    parts: Any = [Fixed(cost, torch.tensor([[0.0, 1], [2, 3]])), Fixed(cost, torch.tensor([[1.0, 0], [0, 9]]))]
    objective = RiskObjective(objectives=parts, mode="mean")
    assert objective(cost)[1].tolist() == [[1, 1], [2, 9]]
    assert objective.rows(torch.tensor([1]))(cost)[1].tolist() == [[2, 9]]


@pytest.mark.parametrize("wrong", [{"objectives": []}, {"mode": "median"}, {"tail": 0.0}, {"tail": 1.5}], ids=str)
def test_what_is_no_risk_is_refused(wrong: dict) -> None:
    given: Any = {"objectives": [Fixed(torch.zeros(1, 1))]} | wrong
    with pytest.raises(InvalidInputError):
        RiskObjective(**given)


def test_a_careful_plan_stays_where_members_agree() -> None:
    """Members agree left of zero and differ to the right, where they are better on average."""

    def member(sign: float) -> Any:
        @dataclasses.dataclass(frozen=True)
        class Member:
            def __call__(self, actions: Tensor) -> Tensor:
                at = actions.mean((2, 3))
                return (at - 0.5).square() + sign * 2 * at.clamp_min(0)

            def rows(self, index: Tensor) -> "Member":
                return self

        return Member()

    planner, parts = make_planner("cem", horizon=2, samples=64, iterations=8), [member(1.0), member(-1.0)]
    bounds = ([-1.0], [1.0])
    bold = planner.plan(RiskObjective(objectives=parts, mode="mean"), bounds=bounds).actions.mean()
    careful = planner.plan(RiskObjective(objectives=parts, mode="worst"), bounds=bounds).actions.mean()
    assert abs(float(bold) - 0.5) < 0.05 and abs(float(careful)) < 0.05
