import pytest
import torch

from tests.planners.toy import BOUNDS, quadratic
from worldsim.errors import InvalidInputError, UnknownNameError
from worldsim.planners import Spline, make_planner, planner_names
from worldsim.planners.registry import descent, hybrid
from worldsim.planners.rules.gradient import Gradient
from worldsim.planners.rules.sampling import CEM, Weighted


def test_names_are_sorted_and_unique() -> None:
    names = planner_names()
    assert names == sorted(set(names)) and {"weighted", "hybrid", "cma"} <= set(names)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'weighted'.*cem"):
        make_planner("weigthed", horizon=3)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cem", {"temperature": 1.0}),
        ("hybrid", {"elites": 3}),
        ("cem", {"elites": 600}),
        ("cem", {"samples": 0}),
        ("gradient", {"iterations": 0}),
        ("hybrid", {"explore": 1.0}),
        ("hybrid", {"starts": 0}),
        ("weighted", {"temperature": 0.0}),
        ("mppi", {"effective": 0.0}),
        ("cem", {"elites": 0}),
        ("cem", {"elites": 1.5}),
        ("cem", {"momentum": 1.0}),
        ("cem", {"std": -1.0}),
        ("gradient", {"lr": 0.0}),
        ("cma", {"samples": 3}),
        ("cem", {"horizon": 0}),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(name: str, options: dict) -> None:
    with pytest.raises(InvalidInputError):
        make_planner(name, **({"horizon": 3} | options))


@pytest.mark.parametrize("budget", [(16, 2), (64, 5), (100, 10), (512, 5), (300, 30)])
@pytest.mark.parametrize("name", [n for n in planner_names() if n != "cma"])
def test_samples_times_iterations_is_the_budget_of_every_name(name: str, budget: tuple[int, int]) -> None:
    planner = make_planner(name, horizon=3, samples=budget[0], iterations=budget[1])
    spent = sum(stage.price * stage.iterations for stage in planner.stages)
    assert 0.7 * budget[0] * budget[1] <= spent <= budget[0] * budget[1]


def test_icem_keeps_elites_of_smooth_noise_and_cem_does_not() -> None:
    (cem,), (icem,) = make_planner("cem", horizon=3).stages, make_planner("icem", horizon=3).stages
    assert isinstance(cem.rule, CEM) and (cem.rule.beta, cem.rule.keep) == (0, 0)
    assert isinstance(icem.rule, CEM) and icem.rule.beta > 0 and icem.rule.keep > 0


def test_options_reach_the_rule_and_the_planner() -> None:
    planner = make_planner("weighted", horizon=6, std=0.7, temperature=2.0, spline=Spline(knots=3), chunk=8)
    rule = planner.stages[0].rule
    assert isinstance(rule, Weighted) and (rule.std, rule.temperature) == (0.7, 2.0)
    assert planner.spline == Spline(knots=3) and planner.chunk == 8


def test_a_hybrid_samples_once_and_then_only_descends() -> None:
    first, *rest = hybrid(2560)
    assert first.iterations == 1 and not first.rule.gradient and first.samples == 1024
    assert rest and all(stage.rule.gradient for stage in rest)
    assert rest[-1].samples < rest[0].samples


@pytest.mark.parametrize("budget", [1, 3, 17, 18, 40, 144, 1000])
def test_a_small_descent_gives_up_starts_before_steps(budget: int) -> None:
    stage = descent(budget, 8, Gradient())
    assert stage.price * stage.iterations <= max(3, budget)
    if stage.samples < 8:
        assert stage.iterations >= 6 or stage.samples == 1


def test_even_a_tiny_budget_gives_a_plan() -> None:
    for name in planner_names():
        if name in ("cma", "categorical"):
            continue
        options = {} if name in ("gradient", "hybrid") else {"elites": 1}
        if name in ("cem", "icem", "weighted", "mppi", "predictive", "random"):
            options["keep"] = 0
        plan = make_planner(name, horizon=2, samples=2, iterations=1, **options).plan(quadratic(1, 2), bounds=BOUNDS)
        assert bool(torch.isfinite(plan.actions).all())
