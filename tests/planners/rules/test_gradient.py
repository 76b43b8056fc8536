import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.plan_problems import BOUNDS as BOX
from benchmarks.plan_problems import lqr, lqr_optimum
from tests.planners.rules.rig import inside, scored, search, setting
from tests.planners.toy import BOUNDS, quadratic
from worldsim.errors import InvalidInputError
from worldsim.planners import from_numpy, make_planner
from worldsim.planners.rules.gradient import Gradient


def test_one_start_reaches_the_riccati_optimum() -> None:
    problem = lqr(4)
    best, optimum = lqr_optimum(problem)
    plan = make_planner("gradient", horizon=16, samples=300, iterations=1, starts=1).plan(
        problem.objective(), bounds=BOX, batch=4
    )
    assert float((plan.cost / optimum - 1).max()) < 1e-3
    assert float((plan.actions - best).abs().max()) < 0.1


def test_it_begins_at_the_prior_the_elites_the_mean_and_smooth_random_plans() -> None:
    prior = BOUNDS.clip(torch.full((2, 2, 3, 2), 1.2))
    begun = search(elites=1)
    points = Gradient().begin(begun, setting(samples=6, prior=prior)).points
    assert points.shape == (2, 6, 3, 2) and inside(points)
    assert torch.equal(points[:, :2], prior) and torch.equal(points[:, 2:3], begun.elites)
    assert torch.equal(points[:, 3], begun.mean) and not torch.equal(points[:, 4], points[:, 5])


def test_a_step_is_adams() -> None:
    """The first step of Adam is the sign of the gradient, whatever its size."""
    place, rule = setting(samples=1), Gradient(lr=0.1)
    begun = rule.begin(search(), place)
    slope = torch.tensor([3.0, -1e-4]).expand(2, 1, 3, 2)
    after = rule.update(begun, scored(begun.points, torch.zeros(2, 1), slope), place)
    assert torch.allclose(begun.points - after.points, 0.1 * BOUNDS.half * slope.sign(), atol=1e-4)


def test_steps_shorten_towards_the_end() -> None:
    place, rule = setting(samples=1), Gradient(lr=0.01)
    memory, steps = rule.begin(search(), place), []
    for _ in range(place.iterations):
        after = rule.update(memory, scored(memory.points, torch.zeros(2, 1), torch.ones(2, 1, 3, 2)), place)
        steps.append(float((memory.points - after.points)[0, 0, 0, 0]))
        memory = after
    assert steps == sorted(steps, reverse=True) and steps[-1] < 0.1 * steps[0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_point_stays_where_its_gradient_is_not_finite(bad: float) -> None:
    place, rule = setting(samples=3), Gradient()
    begun = rule.begin(search(), place)
    slope = torch.ones_like(begun.points)
    slope[:, 0] = bad
    after = rule.update(begun, scored(begun.points, torch.zeros(2, 3), slope), place)
    assert torch.equal(after.points[:, 0], begun.points[:, 0])
    assert not bool((after.points[:, 1:] == begun.points[:, 1:]).flatten(2).all(-1).any())


def test_plans_are_ordered_by_what_they_cost() -> None:
    place, rule = setting(samples=3), Gradient(lr=1e-6)
    begun = rule.begin(search(), place)
    cost = torch.tensor([[2.0, torch.inf, 1.0], [0.0, 3.0, 2.0]])
    end, finalists = rule.finish(rule.update(begun, scored(begun.points, cost, begun.points * 0), place))
    assert torch.equal(finalists[0], begun.points[0, [2, 0, 1]]) and torch.equal(
        finalists[1], begun.points[1, [0, 2, 1]]
    )
    assert torch.equal(end.mean, finalists[:, 0]) and torch.equal(end.elites, finalists)


def test_a_cost_outside_torch_is_refused_with_the_way_out() -> None:
    objective = from_numpy(lambda a: np.square(a).sum((2, 3)))
    with pytest.raises(InvalidInputError, match=r"carries none.*sampling planner such as 'weighted'"):
        make_planner("gradient", horizon=3).plan(objective, bounds=BOUNDS)


def test_a_cost_under_no_grad_is_refused() -> None:
    @torch.no_grad()
    def objective(actions: Tensor) -> Tensor:
        return actions.square().sum((2, 3))

    with pytest.raises(InvalidInputError, match="no_grad"):
        make_planner("hybrid", horizon=3).plan(objective, bounds=BOUNDS)


def test_it_plans_where_gradients_are_off() -> None:
    objective = quadratic(2, 3)
    planner = make_planner("gradient", horizon=3, samples=64, iterations=5)
    free = planner.plan(objective, bounds=BOUNDS, batch=2)
    with torch.no_grad():
        off = planner.plan(objective, bounds=BOUNDS, batch=2)
    assert torch.equal(free.actions, off.actions)
    with torch.inference_mode(), pytest.raises(InvalidInputError, match="inference_mode"):
        planner.plan(objective, bounds=BOUNDS, batch=2)


def test_nothing_is_left_on_the_models_weights() -> None:
    weight = torch.ones(2, requires_grad=True)
    make_planner("gradient", horizon=3, samples=16, iterations=2).plan(
        lambda a: (a * weight).square().sum((2, 3)), bounds=BOUNDS
    )
    assert weight.grad is None


def test_a_bound_holds_the_descent() -> None:
    plan = make_planner("gradient", horizon=3, samples=100, iterations=4).plan(lambda a: a.sum((2, 3)), bounds=BOUNDS)
    assert torch.equal(plan.actions, BOUNDS.low.expand(1, 3, 2))
