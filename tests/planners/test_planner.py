"""What every planner guarantees, and how near each comes to a known optimum."""

import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor

from benchmarks.plan_problems import BOUNDS as BOX
from benchmarks.plan_problems import lqr, lqr_optimum, through_the_opening, wall
from tests.planners.toy import BOUNDS, Quadratic, quadratic
from worldsim.errors import InvalidInputError
from worldsim.planners import Bounds, Limits, Planner, Search, Spline, Stage, make_planner, planner_names
from worldsim.planners.registry import with_horizon
from worldsim.planners.rules.sampling import CEM
from worldsim.testing import check_planner

HAS_CMA = importlib.util.find_spec("cmaes") is not None
NAMES = [
    pytest.param(name, marks=pytest.mark.skipif(name == "cma" and not HAS_CMA, reason="needs cmaes"))
    for name in planner_names()
]
CONTINUOUS = [p for p in NAMES if p.values != ("categorical",)]
SAMPLERS = ["cem", "icem", "mppi", "predictive", "random", "weighted"]


def small(name: str, horizon: int = 4, **options: object) -> Planner:
    """A planner of a few hundred evaluations; CMA-ES is slow per candidate."""
    size = {"samples": 16, "iterations": 10} if name == "cma" else {"samples": 64, "iterations": 8}
    return make_planner(name, horizon=horizon, **(size | options))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_contract(name: str) -> None:
    check_planner(
        small(name, 3, **({"iterations": 16} if name == "gradient" else {})),
        choices=name == "categorical",
        quality=0.5 if name in ("random", "predictive") else 0.1,
    )


@pytest.mark.parametrize("options", [{"spline": Spline(knots=2)}, {"chunk": 7}, {"keep": 0}, {"elites": 1}], ids=str)
@pytest.mark.parametrize("name", ["cem", "weighted"])
def test_keeps_the_contract_with_options(name: str, options: dict) -> None:
    planner = small(name, 3, **options)
    check_planner(planner, at_horizon=lambda h: dataclasses.replace(planner, horizon=h, spline=None), quality=0.5)


@pytest.mark.parametrize(
    ("name", "gap"),
    [("hybrid", 0.001), ("gradient", 0.001), ("weighted", 0.35), ("icem", 0.25), ("cem", 0.2), ("mppi", 0.2)],
)
def test_the_linear_problem_is_solved_nearly_as_by_riccati(name: str, gap: float) -> None:
    """The gap left after 2560 evaluations; doing nothing leaves more than 500 %."""
    problem = lqr(8)
    _, optimum = lqr_optimum(problem)
    plan = make_planner(name, horizon=16, samples=256, iterations=10).plan(problem.objective(), bounds=BOX, batch=8)
    found = (plan.cost / optimum - 1).median()
    assert -1e-4 < float(found) < gap


def test_the_plan_nears_the_optimal_one() -> None:
    problem = lqr(4)
    best, _ = lqr_optimum(problem)
    plan = make_planner("hybrid", horizon=16, samples=512, iterations=8).plan(problem.objective(), bounds=BOX, batch=4)
    assert float((plan.actions - best).abs().max()) < 0.05


def test_a_detour_is_found() -> None:
    problem = wall(8)
    plan = make_planner("hybrid", horizon=24, samples=512, iterations=5).plan(problem.objective(), bounds=BOX, batch=8)
    states = problem.objective().roll(problem.start, plan.actions)
    assert int(through_the_opening(states).sum()) >= 7


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_unit_of_the_cost_does_not_matter(name: str) -> None:
    """Times a power of two, where float32 loses nothing."""
    planner, objective = small(name), quadratic(3, 4)
    plain = planner.plan(objective, bounds=BOUNDS, batch=3)
    for scale in (2.0**20, 2.0**-20):
        scaled = planner.plan(lambda a, s=scale: objective(a) * s, bounds=BOUNDS, batch=3)
        assert torch.allclose(scaled.actions, plain.actions, atol=1e-5)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_plan_is_in_the_bounds_float_type(name: str) -> None:
    objective = quadratic(2, 4, dtype=torch.float64)
    plan = small(name).plan(objective, bounds=BOUNDS.to(torch.float64), batch=2)
    assert plan.actions.dtype == plan.state.mean.dtype == plan.state.std.dtype == torch.float64
    assert bool((plan.cost < objective(BOUNDS.clip(torch.zeros(2, 1, 4, 2)).double())[:, 0]).all())


@pytest.mark.parametrize("name", CONTINUOUS)
def test_chunks_do_not_change_the_plan(name: str) -> None:
    planner, objective = small(name), quadratic(2, 4)
    uncut = planner.plan(objective, bounds=BOUNDS, batch=2)
    cut = dataclasses.replace(planner, chunk=5).plan(objective, bounds=BOUNDS, batch=2)
    assert torch.equal(uncut.actions, cut.actions)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_warm_start_goes_on_from_where_the_last_search_ended(name: str) -> None:
    planner, objective = small(name), quadratic(2, 4)
    plan = planner.plan(objective, bounds=BOUNDS, batch=2)
    assert torch.equal(plan.state.mean, plan.actions)
    again = planner.plan(objective, bounds=BOUNDS, state=plan.state.shift(0), seed=1)
    assert bool((again.cost <= plan.cost).all())


def test_a_search_shifts_forward_and_holds_the_last_action() -> None:
    mean = torch.arange(8.0).view(1, 4, 2)
    search = Search(mean=mean, std=mean + 1, elites=mean[:, None])
    later = search.shift(3)
    assert later.mean.tolist() == [[[6, 7]] * 4] and later.std.tolist() == [[[7, 8]] * 4]
    assert torch.equal(search.shift(1).elites[:, 0], search.shift(1).mean)
    assert torch.equal(search.shift(9).mean, later.mean) and torch.equal(search.shift(0).mean, mean)
    with pytest.raises(InvalidInputError):
        search.shift(-1)


def test_stats_tell_how_the_search_went() -> None:
    plan = small("cem").plan(quadratic(2, 4), bounds=BOUNDS, batch=2)
    best, spread = plan.stats.best, plan.stats.spread
    assert best.shape == spread.shape == (2, 8)
    assert bool((best.diff(dim=1) <= 0).all()) and bool((spread[:, -1] < 0.2 * spread[:, 0]).all())
    assert plan.stats.iterations.tolist() == [8, 8]
    nothing = small("cem").plan(quadratic(2, 4), bounds=BOUNDS, batch=2, limits=Limits(deadline_s=0)).stats
    assert nothing.best.shape == nothing.spread.shape == (2, 0)


def test_the_last_mean_is_returned_where_that_is_asked_for() -> None:
    plan = small("cem", returns="mean", std=0.1, std_min=0.1).plan(lambda a: a.sum((2, 3)) * 0, bounds=BOUNDS)
    assert bool((plan.actions != BOUNDS.clip(torch.zeros(1, 4, 2))).all())
    assert plan.stats.evaluations == small("cem", returns="mean").evaluations


def test_a_broken_constraint_beats_no_cost_at_all() -> None:
    """First only NaN, then only candidates that break a constraint: those are still something."""
    calls = []

    def objective(actions: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(actions)
        cost = actions.square().sum((2, 3))
        known = (actions != calls[0][:, :1]).flatten(2).any(2) if len(calls) > 1 else torch.zeros_like(cost).bool()
        return torch.where(known, cost, torch.nan), torch.where(known, 0.5, 0.0)

    plan = small("random").plan(objective, bounds=BOUNDS)
    assert float(plan.violation) == 0.5 and bool(plan.cost.isfinite()) and not bool(plan.feasible)


def test_constraints_hold_one_by_one_for_each_episode() -> None:
    objective = quadratic(3, 4)
    limit = torch.tensor([0.5, 0.0, -0.5])[:, None]

    def limited(actions: Tensor) -> tuple[Tensor, Tensor]:
        return objective(actions), actions[..., 0].amax(2) - limit

    plan = small("weighted").plan(limited, bounds=BOUNDS, batch=3)
    highest = plan.actions[..., 0].amax(1)
    assert plan.feasible.tolist() == [True] * 3 and bool((highest <= limit[:, 0]).all())
    assert bool((highest > limit[:, 0] - 0.4).all())


def test_two_stages_hand_over() -> None:
    """The second begins where the first ended, not from scratch."""
    wide = Stage(rule=CEM(beta=0, std=1.0), samples=64, iterations=6)
    narrow = Stage(rule=CEM(beta=0, std=0.02, keep=0), samples=32, iterations=1)
    objective = quadratic(2, 4)
    plan = Planner(horizon=4, stages=(wide, narrow)).plan(objective, bounds=BOUNDS, batch=2)
    assert len(plan.stats.costs) == 7 and float(plan.stats.costs[-1].median()) < 1.0
    assert float(objective(BOUNDS.clip(torch.zeros(2, 1, 4, 2))).min()) > 1.0


@pytest.mark.parametrize(
    "wrong",
    [{"horizon": 0}, {"stages": ()}, {"chunk": -1}, {"spline": Spline(knots=9)}],
    ids=str,
)
def test_planners_that_cannot_work_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        dataclasses.replace(small("cem"), **wrong)


def test_a_stage_without_samples_or_iterations_is_refused() -> None:
    for wrong in ({"samples": 0, "iterations": 1}, {"samples": 32, "iterations": 0}):
        with pytest.raises(InvalidInputError):
            Stage(rule=CEM(), **wrong)


def test_starts_are_made_finite_and_brought_into_the_bounds() -> None:
    start = torch.tensor([[[torch.nan, 9.0], [torch.inf, 1.0]]])
    plan = small("cem", 2).plan(lambda a: a.sum((2, 3)) * 0, bounds=BOUNDS, initial=start)
    assert plan.actions.tolist() == [[[0.0, 1.5], [2.0, 1.0]]]


def test_no_motion_is_the_plan_to_beat_by_default() -> None:
    plan = small("cem", 2).plan(lambda a: a.sum((2, 3)) * 0, bounds=Bounds(torch.tensor([0.5]), torch.tensor([2.0])))
    assert plan.actions.tolist() == [[[0.5], [0.5]]]


def test_the_objectives_own_error_passes_through() -> None:
    def broken(actions: Tensor) -> Tensor:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        small("cem").plan(broken, bounds=BOUNDS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_graph_is_kept(name: str) -> None:
    weight = torch.ones(1, requires_grad=True)
    plan = small(name).plan(lambda a: (a * weight).square().sum((2, 3)), bounds=BOUNDS)
    assert not plan.cost.requires_grad and not plan.actions.requires_grad


def test_more_suggestions_than_can_be_tried_are_refused() -> None:
    for name in ("gradient", "random", "cem"):
        planner = make_planner(name, horizon=4, samples=16, iterations=3)
        with pytest.raises(InvalidInputError, match="do not fit into"):
            planner.plan(quadratic(2, 4), bounds=BOUNDS, prior=torch.zeros(2, 17, 4, 2))


def test_another_horizon() -> None:
    plan = with_horizon(small("hybrid"), 9).plan(Quadratic(torch.ones(1, 9, 2)), bounds=BOUNDS)
    assert plan.actions.shape == (1, 9, 2)


def test_an_option_that_there_is_not_is_refused() -> None:
    with pytest.raises(TypeError, match=r"no options \['sed'\].*'seed'"):
        small("cem").plan(quadratic(2, 4), bounds=BOUNDS, sed=3)  # type: ignore[call-arg]
