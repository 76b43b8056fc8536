import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.planners.toy import BOUNDS, Quadratic, quadratic
from worldsim.errors import InvalidInputError
from worldsim.planners import from_numpy, make_planner
from worldsim.planners.evaluate import Evaluator, Scored, better

CANDIDATES = torch.rand(3, 7, 4, 2, generator=torch.Generator().manual_seed(1))


def evaluator(objective: object, *, chunk: int = 0, batch: int = 3) -> Evaluator:
    return Evaluator(objective, chunk=chunk, batch=batch, device=torch.device("cpu"))  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.floats(-100, 100), st.sampled_from([0.0, -1.0, 0.5, 2.0, 3.0])), min_size=1, max_size=8))
def test_ranks_sort_by_feasibility_then_by_violation_or_cost(pairs: list[tuple[float, float]]) -> None:
    cost, violation = (torch.tensor([row], dtype=torch.float64) for row in zip(*pairs, strict=True))
    rank = evaluator(lambda a: (cost, violation), batch=1)(torch.zeros(1, len(pairs), 1, 1)).rank[0]
    for (c1, v1), r1 in zip(pairs, rank.tolist(), strict=True):
        for (c2, v2), r2 in zip(pairs, rank.tolist(), strict=True):
            one, other = ((0.0, c1) if v1 <= 0 else (v1, 0.0)), ((0.0, c2) if v2 <= 0 else (v2, 0.0))
            assert (r1 < r2) == (one < other)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e12, 1e30])
def test_a_broken_constraint_is_worse_at_any_scale_of_the_cost(scale: float) -> None:
    cost, violation = torch.tensor([[1.0, 1.0, 0.0]]) * scale, torch.tensor([[0.1, 0.0, 0.2]])
    rank = evaluator(lambda a: (cost, violation), batch=1)(torch.zeros(1, 3, 1, 1)).rank[0]
    assert rank.argsort().tolist() == [1, 0, 2]
    assert float(rank[1]) < float(rank[0]) < float(rank[2])


def test_the_slightest_violation_ranks_behind_none() -> None:
    cost, violation = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.0, 1e-20]])
    rank = evaluator(lambda a: (cost, violation), batch=1)(torch.zeros(1, 2, 1, 1)).rank[0]
    assert float(rank[0]) < float(rank[1])


def test_the_better_of_two_has_a_cost_then_no_violation_then_the_lower_cost() -> None:
    def candidate(cost: float, violation: float) -> Scored:
        one, broken = torch.tensor([[cost]]), torch.tensor([[violation]])
        return Scored(candidates=one[:, :, None, None], cost=one, violation=broken, rank=one)

    order = [(1.0, 0.0), (2.0, 0.0), (0.5, 0.1), (0.25, 0.2), (torch.inf, 0.0)]
    for i, good in enumerate(order):
        for bad in order[i + 1 :]:
            for pair in ((good, bad), (bad, good)):
                assert float(better(*[candidate(*p) for p in pair]).cost) == good[0]


def test_chunks_change_nothing_but_the_calls() -> None:
    def limited(actions: Tensor) -> tuple[Tensor, Tensor]:
        sizes.append(actions.shape[1])
        return actions.square().sum((2, 3)), actions[:, :, 0, 0] - 0.5

    results = []
    for chunk in (0, 1, 3, 7, 99):
        sizes: list[int] = []
        results.append(evaluator(limited, chunk=chunk)(CANDIDATES, gradient=True))
        assert max(sizes) == min(chunk or 7, 7) and sum(sizes) == 7
    for scored in results[1:]:
        for name in ("cost", "violation", "rank", "gradient"):
            assert torch.equal(getattr(scored, name), getattr(results[0], name))


def test_bad_numbers_count_as_the_worst_and_are_counted() -> None:
    cost = torch.tensor([[1.0, torch.nan, -torch.inf], [torch.inf, 2.0, 3.0], [0.0, 0.0, 0.0]])
    judge = evaluator(lambda a: cost)
    scored = judge(CANDIDATES[:, :3])
    assert scored.cost.tolist() == [[1, torch.inf, torch.inf], [torch.inf, 2, 3], [0, 0, 0]]
    judge(CANDIDATES[:, :3])
    assert judge.non_finite.tolist() == [4, 2, 0]
    assert judge.evaluations == 6


def test_a_violation_that_is_no_number_makes_a_candidate_the_worst() -> None:
    cost, violation = torch.zeros(1, 3), torch.tensor([[torch.nan, 0.0, torch.inf]])
    judge = evaluator(lambda a: (cost, violation), batch=1)
    assert judge(CANDIDATES[:1, :3]).rank.tolist() == [[torch.inf, 0, torch.inf]]
    assert judge.non_finite.tolist() == [2]


def test_a_gradient_is_that_of_the_cost_and_counts_three_times() -> None:
    judge = evaluator(lambda a: a.square().sum((2, 3)))
    scored = judge(CANDIDATES, gradient=True)
    assert scored.gradient is not None and torch.allclose(scored.gradient, 2 * CANDIDATES)
    assert not scored.cost.requires_grad and judge.evaluations == 21


def test_a_broken_constraint_pulls_as_well() -> None:
    scored = evaluator(lambda a: (a.square().sum((2, 3)), 5 * a[:, :, 0, 0] - 1))(CANDIDATES, gradient=True)
    extra = 5 * (CANDIDATES[:, :, 0, 0] > 0.2)
    assert scored.gradient is not None
    assert torch.allclose(scored.gradient[:, :, 0, 0], 2 * CANDIDATES[:, :, 0, 0] + extra)


def test_finished_episodes_are_not_computed_where_the_objective_can_be_divided() -> None:
    objective, active = quadratic(3, 4), torch.tensor([True, False, True])
    judge = evaluator(objective)
    scored = judge(CANDIDATES, gradient=True, active=active)
    assert objective.asked == [(2, 7)]
    assert bool(scored.cost[1].isposinf().all()) and judge.non_finite.tolist() == [0, 0, 0]
    full = evaluator(quadratic(3, 4))(CANDIDATES, gradient=True)
    assert torch.equal(scored.cost[active], full.cost[active])
    assert torch.equal(scored.gradient[active], full.gradient[active])  # type: ignore[index]


def test_finished_episodes_score_worst_where_it_cannot() -> None:
    scored = evaluator(quadratic(3, 4).__call__)(CANDIDATES, active=torch.tensor([True, False, True]))
    assert scored.cost.isposinf().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "answer",
    [
        lambda a: a.sum((2, 3)).tolist(),
        lambda a: a.sum((2, 3)).numpy(),
        lambda a: a.sum(3),
        lambda a: a.sum((2, 3))[:, :2],
        lambda a: a.sum((0, 2, 3)),
        lambda a: (a.sum((2, 3)), a.sum(3)),
        lambda a: None,
    ],
    ids=["list", "array", "steps", "fewer", "one row", "violation", "none"],
)
def test_another_shape_is_refused_with_what_was_expected(answer: object) -> None:
    with pytest.raises(InvalidInputError, match=r"\[B, N\] = \[3, 7\]"):
        evaluator(answer)(CANDIDATES)


def test_integers_are_costs() -> None:
    assert evaluator(lambda a: torch.ones(3, 7, dtype=torch.int64))(CANDIDATES).cost.is_floating_point()


def test_a_pick_keeps_what_belongs_together() -> None:
    scored = evaluator(lambda a: (a.sum((2, 3)), a[:, :, 0, 0]))(CANDIDATES)
    index = torch.tensor([[3, 0], [6, 6], [1, 2]])
    picked = scored.pick(index)
    for b in range(3):
        for k, n in enumerate(index[b].tolist()):
            assert torch.equal(picked.candidates[b, k], CANDIDATES[b, n])
            for name in ("cost", "violation", "rank"):
                assert getattr(picked, name)[b, k] == getattr(scored, name)[b, n]


@pytest.mark.parametrize("name", ["cem", "mppi", "weighted"])
def test_a_numpy_objective_gives_the_plan_of_the_same_one_in_torch(name: str) -> None:
    """Same seed, same noise; float64, so that the order of a sum decides nothing."""
    target = quadratic(3, 4, dtype=torch.float64).target

    def numpy_cost(actions: np.ndarray) -> np.ndarray:
        return ((actions - target.numpy()[:, None]) ** 2).sum((2, 3))

    planner, bounds = make_planner(name, horizon=4, samples=32, iterations=4), BOUNDS.to(torch.float64)
    one = planner.plan(from_numpy(numpy_cost), bounds=bounds, batch=3, seed=5)
    other = planner.plan(Quadratic(target), bounds=bounds, batch=3, seed=5)
    assert torch.allclose(one.actions, other.actions, atol=1e-9, rtol=0)
    assert torch.allclose(one.cost, other.cost, atol=1e-9, rtol=0)
