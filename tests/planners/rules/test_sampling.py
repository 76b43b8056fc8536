"""Each sampling rule by itself: what it proposes and what it makes of costs."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.planners.rules.rig import scored, search, setting
from tests.planners.toy import BOUNDS, quadratic
from worldsim.errors import InvalidInputError
from worldsim.planners import Bounds, Planner, Stage, make_planner
from worldsim.planners.rules.base import softmin
from worldsim.planners.rules.sampling import CEM, MPPI, CategoricalCEM, Predictive, Random, Weighted, _scale_for


def test_random_candidates_fill_the_box_evenly() -> None:
    place = setting(samples=4000)
    rule = Random()
    unit = (rule.propose(rule.begin(search(), place), place)[:, 1:] - BOUNDS.low) / (2 * BOUNDS.half)
    for share in (0.1, 0.5, 0.9):
        assert torch.allclose((unit < share).float().mean((0, 1)), torch.full((3, 2), share), atol=0.02)


def test_smooth_random_candidates_still_fill_it() -> None:
    place = setting(samples=4000, horizon=6)
    rule = Random(beta=2.0)
    unit = (rule.propose(rule.begin(search(horizon=6), place), place)[:, 1:] - BOUNDS.low) / (2 * BOUNDS.half)
    assert torch.allclose((unit < 0.25).float().mean((0, 1)), torch.full((6, 2), 0.25), atol=0.03)
    assert float(unit.diff(dim=2).abs().mean()) < 0.25  # a third for independent steps


def test_the_plan_at_hand_and_the_prior_are_among_the_candidates() -> None:
    prior = BOUNDS.clip(torch.zeros(2, 3, 3, 2))
    place = setting(prior=prior)
    for rule in (Random(), Predictive()):
        candidates = rule.propose(rule.begin(search(), place), place)
        assert torch.equal(candidates[:, 0], search().mean)
        assert any(torch.equal(candidates[:, i : i + 3], prior) for i in (1, 2))


def test_the_best_candidate_becomes_the_plan() -> None:
    place, rule = setting(), Predictive()
    memory = rule.begin(search(), place)
    candidates = rule.propose(memory, place)
    cost = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    after, _ = rule.update(memory, scored(candidates, cost), place)
    assert torch.equal(after.mean, candidates[torch.arange(2), cost.argmin(1)])
    assert torch.equal(after.std, memory[0].std)


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


NOISE = torch.Generator().manual_seed(4)
MANY = BOUNDS.low + torch.rand(2, 256, 3, 2, generator=NOISE) * 2 * BOUNDS.half
MANY_COSTS = torch.rand(2, 256, generator=NOISE).pow(3)


def updated_mppi(rule: MPPI, cost: torch.Tensor = MANY_COSTS) -> tuple[torch.Tensor, torch.Tensor]:
    place = setting(samples=256)
    after, _ = rule.update(rule.begin(search(), place), scored(MANY, cost), place)
    return after.mean, after.std


def effective(cost: torch.Tensor, target: float) -> torch.Tensor:
    """Kish's effective sample size under the temperature that is chosen for a target."""
    return 1 / softmin(cost, _scale_for(cost, target)).square().sum(1)


@pytest.mark.parametrize("target", [2.0, 10.0, 25.6, 128.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_as_many_candidates_count_as_are_asked_for(target: float, scale: float) -> None:
    assert torch.allclose(effective(MANY_COSTS * scale, target), torch.full((2,), target), rtol=0.1)


def test_costs_that_are_infinite_do_not_count() -> None:
    cost = MANY_COSTS.clone()
    cost[:, ::2] = torch.inf
    assert torch.allclose(effective(cost, 25.6), torch.full((2,), 25.6), rtol=0.1)
    weight = softmin(cost, _scale_for(cost, 25.6))
    assert not bool(weight[:, ::2].any())


@pytest.mark.parametrize("cost", [torch.zeros(2, 256), torch.full((2, 256), torch.inf)], ids=["constant", "infinite"])
def test_costs_without_a_difference_stay_numbers(cost: torch.Tensor) -> None:
    mean, std = updated_mppi(MPPI(), cost)
    assert bool(mean.isfinite().all() & std.isfinite().all())
    if bool(cost.isfinite().all()):
        assert torch.allclose(mean, MANY.mean(1), atol=1e-5)


@pytest.mark.parametrize("change", [lambda c: c * 1e6, lambda c: c * 1e-6, lambda c: c + 10, lambda c: 5 * c - 3])
def test_scale_and_shift_of_the_cost_do_not_matter_to_mppi(change: object) -> None:
    plain, changed = updated_mppi(MPPI()), updated_mppi(MPPI(), change(MANY_COSTS))  # type: ignore[operator]
    assert torch.allclose(plain[0], changed[0], atol=1e-3) and torch.allclose(plain[1], changed[1], atol=1e-3)


def test_a_fixed_temperature_is_the_papers_update() -> None:
    mean, std = updated_mppi(MPPI(temperature=0.1, adapt=False))
    weight = torch.exp(-MANY_COSTS / 0.1)
    expected = (weight[:, :, None, None] * MANY).sum(1) / weight.sum(1)[:, None, None]
    assert torch.allclose(mean, expected, atol=1e-5)
    assert torch.allclose(std, BOUNDS.half.expand(2, 3, 2))


def test_the_spread_adapts_to_what_counts() -> None:
    narrow, wide = updated_mppi(MPPI(effective=0.01))[1], updated_mppi(MPPI(effective=1.0))[1]
    assert float(narrow.mean()) < 0.8 * float(wide.mean())


@pytest.mark.parametrize("wrong", [{"effective": 0.0}, {"effective": 1.5}, {"temperature": 0.0}, {"temperature": -1.0}])
def test_what_is_no_temperature_is_refused(wrong: dict) -> None:
    with pytest.raises(InvalidInputError):
        MPPI(**wrong)


CHOICES, STEPS = 3, 5
BOX = Bounds.categorical(CHOICES)
TABLE = torch.rand(STEPS, CHOICES, generator=torch.Generator().manual_seed(0))
SWITCH = torch.rand(CHOICES, CHOICES, generator=torch.Generator().manual_seed(1))


def cost(actions: Tensor) -> Tensor:
    """Of every choice, and of every change between two of them."""
    pairs = torch.einsum("bnhi,ij,bnhj->bn", actions[:, :, :-1], SWITCH, actions[:, :, 1:])
    return (actions * TABLE).sum((2, 3)) + pairs


def one_hot(choices: Tensor) -> Tensor:
    return F.one_hot(choices, CHOICES).float()


def test_the_best_sequence_of_choices_is_found() -> None:
    every = torch.tensor(list(itertools.product(range(CHOICES), repeat=STEPS)))
    costs = cost(one_hot(every)[None])[0]
    for seed in range(5):
        planner = make_planner("categorical", horizon=STEPS, samples=64, iterations=8)
        plan = planner.plan(cost, bounds=BOX, initial=one_hot(torch.zeros(1, STEPS, dtype=torch.int64)), seed=seed)
        assert plan.actions.argmax(-1)[0].tolist() == every[costs.argmin()].tolist()
        assert torch.isclose(plan.cost[0], costs.min())


def test_every_candidate_is_a_choice() -> None:
    place, rule = setting(bounds=BOX, samples=64), CategoricalCEM()
    candidates = rule.propose(rule.begin(search(bounds=BOX), place), place)
    assert candidates.shape == (2, 64, 3, CHOICES)
    assert set(candidates.unique().tolist()) == {0, 1} and bool((candidates.sum(-1) == 1).all())


def test_a_cold_search_tries_all_choices_alike() -> None:
    place, rule = setting(bounds=BOX, samples=3000), CategoricalCEM()
    share = rule.propose(rule.begin(search(bounds=BOX), place), place).mean(1)
    assert torch.allclose(share, torch.full_like(share, 1 / 3), atol=0.04)


def test_a_warm_one_leans_towards_the_plan_at_hand() -> None:
    place, rule = setting(bounds=BOX, samples=3000), CategoricalCEM(keep=0)
    share = rule.propose(rule.begin(search(bounds=BOX, elites=1), place), place).mean(1)
    assert torch.allclose(share.amax(-1), torch.full((2, 3), 2 / 3), atol=0.04)


def test_probabilities_are_the_elites_frequencies_with_a_floor() -> None:
    place, rule = setting(bounds=BOX, samples=4, horizon=1), CategoricalCEM(elites=4, keep=0, floor=0.3)
    memory = rule.begin(search(bounds=BOX, horizon=1), place)
    candidates = one_hot(torch.tensor([0, 0, 0, 1])).view(1, 4, 1, 3).repeat(2, 1, 1, 1)
    after, _ = rule.update(memory, scored(candidates, torch.zeros(2, 4)), place)
    assert torch.allclose(after.mean[0, 0], 0.7 * torch.tensor([0.75, 0.25, 0.0]) + 0.1)
