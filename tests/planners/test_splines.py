import pytest
import torch

from tests.planners.toy import BOUNDS, quadratic
from worldsim.errors import InvalidInputError
from worldsim.planners import Spline, make_planner

KNOTS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [-1.0, 0.5], [1.0, 1.0]])
ALL = [(0, 4), (0, 1), (1, 2), (1, 4), (3, 2), (3, 4)]


@pytest.mark.parametrize(("degree", "knots"), ALL)
def test_knots_come_back_from_the_actions_they_make(degree: int, knots: int) -> None:
    basis = Spline(knots=knots, degree=degree).basis(10)
    given = KNOTS[:knots]
    actions = basis.expand(given)
    assert actions.shape == (10, 2)
    assert torch.allclose(basis.fit(actions), given, atol=1e-5)


def test_each_degree_goes_where_it_should() -> None:
    held, lines, curve = (Spline(knots=4, degree=d).basis(10).expand(KNOTS)[:, 0] for d in (0, 1, 3))
    assert held.tolist() == [0, 0, 0, 2, 2, -1, -1, -1, 1, 1]
    assert torch.allclose(lines[::3], KNOTS[:, 0]) and torch.allclose(lines[:4], torch.linspace(0, 2, 4))
    assert torch.allclose(curve[::3], KNOTS[:, 0], atol=1e-6)
    assert float(Spline(knots=4, degree=3).basis(31).expand(KNOTS).max()) > 2.02


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_as_many_knots_as_steps_leave_everything_as_it_is(degree: int) -> None:
    basis = Spline(knots=4, degree=degree).basis(4)
    assert torch.allclose(basis.expand(KNOTS), KNOTS, atol=1e-6)


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_a_gradient_in_knots_is_what_autograd_says(degree: int) -> None:
    basis = Spline(knots=4, degree=degree).basis(9)
    knots = KNOTS.clone().requires_grad_()
    actions = basis.expand(knots)
    slope = torch.linspace(-1, 1, 18).view(9, 2)
    actions.backward(slope)
    assert torch.allclose(basis.pull(slope), knots.grad, atol=1e-5)  # type: ignore[arg-type]


def test_a_spread_is_never_negative() -> None:
    for degree in (0, 1, 3):
        spread = Spline(knots=4, degree=degree).basis(9).spread(torch.full((4, 2), 0.3))
        assert spread.shape == (9, 2) and bool((spread > 0.1).all())
        lone = Spline(knots=4, degree=degree).basis(9).spread(torch.tensor([0.0, 1.0, 0.0, 0.0])[:, None])
        assert bool((lone >= 0).all())


@pytest.mark.parametrize("wrong", [{"knots": 4, "degree": 2}, {"knots": 1}, {"knots": 1, "degree": 3}, {"knots": 0}])
def test_what_is_no_spline_is_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        Spline(**wrong)


def test_more_knots_than_steps_are_refused_when_the_planner_is_built() -> None:
    with pytest.raises(InvalidInputError, match="5 knots cannot shape 4 steps"):
        make_planner("cem", horizon=4, spline=Spline(knots=5))


@pytest.mark.parametrize("name", ["cem", "weighted", "mppi", "gradient", "hybrid", "random"])
@pytest.mark.parametrize("degree", [0, 1, 3])
def test_any_rule_plans_in_knots_and_stays_inside(name: str, degree: int) -> None:
    planner = make_planner(name, horizon=9, samples=48, iterations=6, spline=Spline(knots=3, degree=degree))
    objective = quadratic(2, 9)
    plan = planner.plan(objective, bounds=BOUNDS, batch=2)
    start = objective(BOUNDS.clip(torch.zeros(2, 1, 9, 2)))[:, 0]
    assert torch.equal(BOUNDS.clip(plan.actions), plan.actions)
    assert bool((plan.cost < start).all())
    assert plan.state.mean.shape == plan.state.std.shape == (2, 9, 2)
    again = planner.plan(objective, bounds=BOUNDS, state=plan.state)
    assert bool((again.cost <= plan.cost).all())


def test_an_initial_plan_that_no_spline_can_write_is_kept_where_nothing_is_better() -> None:
    zigzag = BOUNDS.clip(torch.tensor([-1.0, 1.0] * 4 + [-1.0])[None, :, None].expand(2, 9, 2))
    planner = make_planner("cem", horizon=9, samples=48, iterations=3, spline=Spline(knots=3))
    plan = planner.plan(lambda a: a.sum((2, 3)) * 0, bounds=BOUNDS, initial=zigzag)
    assert torch.equal(plan.actions, zigzag)
