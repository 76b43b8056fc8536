import pytest
import torch

from tests.planners.rules.rig import scored, search, setting
from tests.planners.toy import BOUNDS, quadratic
from worldsim.planners import Planner, Stage, make_planner
from worldsim.planners.rules.cem import CEM, Weighted

CANDIDATES = BOUNDS.low + torch.rand(2, 16, 3, 2, generator=torch.Generator().manual_seed(2)) * 2 * BOUNDS.half
COST = torch.rand(2, 16, generator=torch.Generator().manual_seed(3))


def updated(rule: CEM | Weighted, cost: torch.Tensor = COST) -> tuple[torch.Tensor, torch.Tensor]:
    place = setting()
    after, _ = rule.update(rule.begin(search(), place), scored(CANDIDATES, cost), place)
    return after.mean, after.std


@pytest.mark.parametrize("elites", [2, 5, 16])
def test_the_mean_and_spread_are_those_of_the_elites(elites: int) -> None:
    mean, std = updated(CEM(elites=elites, std_min=0.0))
    for b in range(2):
        best = CANDIDATES[b][COST[b].argsort()[:elites]]
        assert torch.allclose(mean[b], best.mean(0)) and torch.allclose(std[b], best.std(0))


@pytest.mark.parametrize("rule", [CEM(elites=1), Weighted(elites=1)])
def test_one_elite_is_the_mean_and_keeps_the_spread(rule: CEM | Weighted) -> None:
    mean, std = updated(rule)
    row = torch.arange(2)
    assert torch.equal(mean, CANDIDATES[row, COST.argmin(1)])
    assert torch.allclose(std, torch.full((), float(rule.std)) * BOUNDS.half.expand(2, 3, 2))


@pytest.mark.parametrize("name", ["cem", "icem", "weighted", "mppi", "predictive", "random"])
def test_a_search_with_one_elite_stays_finite_and_gets_better(name: str) -> None:
    plan = make_planner(name, horizon=3, samples=16, iterations=30, elites=1).plan(
        quadratic(2, 3), bounds=BOUNDS, batch=2
    )
    assert bool(plan.actions.isfinite().all() & plan.state.std.isfinite().all())
    assert bool((plan.stats.best[:, -1] < plan.stats.best[:, 0]).all())


def test_weights_follow_the_cost() -> None:
    rule = Weighted(elites=4, temperature=0.5, std_min=0.0)
    mean, std = updated(rule)
    order = COST[0].argsort()[:4]
    gap = COST[0][order].mean() - COST[0].min()
    weight = torch.exp(-(COST[0][order] - COST[0].min()) / (0.5 * gap))
    weight = (weight / weight.sum())[:, None, None]
    expected = (weight * CANDIDATES[0][order]).sum(0)
    assert torch.allclose(mean[0], expected, atol=1e-6)
    spread = (weight * (CANDIDATES[0][order] - expected).square()).sum(0).sqrt()
    assert torch.allclose(std[0], spread, atol=1e-6)


@pytest.mark.parametrize("change", [lambda c: c * 1e6, lambda c: c * 1e-6, lambda c: c + 100, lambda c: -7 + 3 * c])
def test_scale_and_shift_of_the_cost_do_not_matter(change: object) -> None:
    for rule in (CEM(), Weighted()):
        plain, changed = updated(rule), updated(rule, change(COST))  # type: ignore[operator]
        assert torch.allclose(plain[0], changed[0], atol=1e-3) and torch.allclose(plain[1], changed[1], atol=1e-3)


def test_a_hot_update_is_the_plain_one_and_a_cold_one_greedy() -> None:
    hot, cold = updated(Weighted(elites=4, temperature=1e6))[0], updated(Weighted(elites=4, temperature=1e-6))[0]
    assert torch.allclose(hot, updated(CEM(elites=4))[0], atol=1e-4)
    assert torch.allclose(cold, CANDIDATES[torch.arange(2), COST.argmin(1)])


def test_equal_costs_weigh_alike() -> None:
    same = torch.ones(2, 16)
    assert torch.allclose(updated(Weighted(elites=16), same)[0], CANDIDATES.mean(1), atol=1e-6)


def test_kept_elites_are_tried_again_and_handed_on() -> None:
    seen = []
    objective = quadratic(1, 3)

    def watching(actions: torch.Tensor) -> torch.Tensor:
        seen.append(actions[0].clone())
        return objective(actions)

    planner = Planner(horizon=3, stages=(Stage(rule=CEM(elites=4, keep=3), samples=16, iterations=2),))
    plan = planner.plan(watching, bounds=BOUNDS)
    order = objective(seen[0][None])[0].argsort()
    assert torch.equal(seen[1][1:4], seen[0][order[:3]])
    warm: list[torch.Tensor] = seen[:]
    seen.clear()
    planner.plan(watching, bounds=BOUNDS, state=plan.state.shift(1))
    assert torch.equal(seen[0][1:4], plan.state.shift(1).elites[0, :3]) and len(warm) == 3
