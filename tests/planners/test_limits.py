import time

import pytest
import torch
from torch import Tensor

from tests.planners.toy import BOUNDS, Quadratic, quadratic
from worldsim.errors import InvalidInputError
from worldsim.planners import Limits, make_planner, planner_names
from worldsim.planners.limits import Halt

CPU = torch.device("cpu")
SAMPLERS = [name for name in planner_names() if name not in ("gradient", "hybrid", "cma", "categorical")]


@pytest.mark.parametrize(
    "wrong", [{"deadline_s": -1}, {"deadline_s": float("nan")}, {"budget": 0}, {"tolerance": -0.1}]
)
def test_limits_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        Limits(**wrong)


@pytest.mark.parametrize("budget", [20, 100, 163, 164, 500])
@pytest.mark.parametrize("name", [*SAMPLERS, "gradient", "hybrid"])
def test_a_budget_is_kept_and_used(name: str, budget: int) -> None:
    planner = make_planner(name, horizon=3, samples=40, iterations=10)
    plan = planner.plan(quadratic(2, 3), bounds=BOUNDS, batch=2, limits=Limits(budget=budget))
    assert plan.stats.evaluations <= budget
    if budget < planner.evaluations:
        assert plan.stats.stopped == "budget"
    if name in SAMPLERS:
        assert plan.stats.evaluations > budget - 40 - 3 or plan.stats.stopped == "iterations"


@pytest.mark.parametrize("name", [*SAMPLERS, "gradient", "hybrid"])
def test_what_a_planner_says_it_costs_is_what_it_costs(name: str) -> None:
    planner = make_planner(name, horizon=3, samples=40, iterations=10)
    plan = planner.plan(quadratic(2, 3), bounds=BOUNDS, batch=2)
    assert plan.stats.evaluations == planner.evaluations and plan.stats.stopped == "iterations"
    exact = planner.plan(quadratic(2, 3), bounds=BOUNDS, batch=2, limits=Limits(budget=planner.evaluations))
    assert exact.stats.stopped == "iterations" and torch.equal(exact.actions, plan.actions)


@pytest.mark.parametrize("name", ["cem", "gradient"])
def test_a_deadline_ends_the_search_with_an_evaluated_plan(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    objective, clock = quadratic(2, 3), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def slow(actions: Tensor) -> Tensor:
        clock[0] += 0.02
        return objective(actions)

    planner = make_planner(name, horizon=3, samples=40, iterations=2000)
    plan = planner.plan(slow, bounds=BOUNDS, batch=2, limits=Limits(deadline_s=0.2))
    assert clock[0] <= 0.22  # seconds; 2000 iterations would take 40
    assert plan.stats.stopped == "deadline" and 1 <= int(plan.stats.iterations[0]) <= 11
    assert torch.equal(plan.cost, objective(plan.actions[:, None])[:, 0])


def test_no_iteration_begins_where_one_look_takes_longer_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, clock = quadratic(2, 3), [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def slow(actions: Tensor) -> Tensor:
        clock[0] += 0.05
        return objective(actions)

    plan = make_planner("cem", horizon=3).plan(slow, bounds=BOUNDS, batch=2, limits=Limits(deadline_s=0.02))
    assert plan.stats.iterations.tolist() == [0, 0] and plan.stats.costs == ()
    assert torch.equal(plan.actions, BOUNDS.clip(torch.zeros(2, 3, 2)))


def test_an_iteration_begins_only_if_the_longest_one_still_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    halt = Halt(Limits(deadline_s=1.0), batch=1, device=CPU)
    for now, stops in ((0.4, False), (0.5, False), (0.7, True)):
        clock[0] = now
        halt.note(torch.zeros(1), iterations=0)
        assert halt.stop(0, 1) == stops
    assert halt.reason == "deadline"


def test_an_episode_is_finished_after_two_iterations_without_progress() -> None:
    halt = Halt(Limits(tolerance=0.1), batch=3, device=CPU)
    for best in ([1.0, 1.0, 1.0], [0.5, 0.99, 1.0], [0.4, 0.98, 0.5]):
        assert not halt.stop(0, 1)
        halt.note(torch.tensor(best))
    assert halt.active is not None and halt.active.tolist() == [True, False, True]
    for _ in range(2):
        halt.note(torch.tensor([0.4, 0.98, 0.5]))
    assert halt.stop(0, 1) and halt.reason == "tolerance"
    assert halt.iterations.tolist() == [5, 3, 5]


def test_an_episode_without_a_finite_cost_does_not_search_for_ever() -> None:
    objective = quadratic(2, 3)

    def half_blind(actions: Tensor) -> Tensor:
        return objective(actions) + torch.tensor([[0.0], [torch.nan]])

    planner = make_planner("cem", horizon=3, samples=16, iterations=50)
    plan = planner.plan(half_blind, bounds=BOUNDS, batch=2, limits=Limits(tolerance=1e-3))
    assert int(plan.stats.iterations[1]) == 2 < int(plan.stats.iterations[0])
    assert plan.feasible.tolist() == [True, False]


@pytest.mark.parametrize("name", ["cem", "weighted", "mppi", "gradient"])
def test_finished_episodes_leave_the_batch(name: str) -> None:
    """Episode 0 begins at its optimum: after two iterations only episode 1 is asked about."""
    hard = quadratic(2, 4).target
    objective = Quadratic(hard, [])
    initial = torch.stack([hard[0], BOUNDS.clip(torch.zeros(4, 2))])
    planner = make_planner(name, horizon=4, samples=48, iterations=12)
    plan = planner.plan(objective, bounds=BOUNDS, initial=initial, limits=Limits(tolerance=1e-9))
    rows = [b for b, _ in objective.asked]
    assert int(plan.stats.iterations[0]) == 3 < int(plan.stats.iterations[1])
    assert rows[:3] == [2, 2, 2] and set(rows[3:-1]) == {1} and rows[-1] == 2
    assert torch.equal(plan.actions[0], hard[0]) and float(plan.cost[0]) == 0
    free = planner.plan(Quadratic(hard), bounds=BOUNDS, initial=initial)
    assert bool((plan.stats.best[1] == free.stats.best[1][: plan.stats.best.shape[1]]).all())


def test_without_a_tolerance_convergence_is_not_checked() -> None:
    assert Halt(Limits(), batch=2, device=CPU).active is None
