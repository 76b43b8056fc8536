import importlib

import pytest
import torch

from tests.planners.toy import BOUNDS, quadratic
from worldsim.errors import MissingExtraError
from worldsim.planners import Bounds, make_planner
from worldsim.planners.rules.cma import CMA


def test_without_its_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"worldsim\[planners\]"):
        CMA().check(16)


class TestWithTheLibrary:
    @pytest.fixture(autouse=True)
    def library(self) -> None:
        pytest.importorskip("cmaes")

    def test_a_skewed_valley_is_followed_to_its_bottom(self) -> None:
        """Ill conditioned across dimensions: what a full covariance is for."""
        box, target = Bounds(-torch.ones(2), torch.ones(2)), torch.tensor([0.3, -0.2])
        mix = torch.tensor([[1.0, 1.0], [-30.0, 30.0]])
        planner = make_planner("cma", horizon=1, samples=12, iterations=40)
        plan = planner.plan(lambda a: ((a - target) @ mix.T).square().sum((2, 3)), bounds=box, batch=2)
        assert torch.allclose(plan.actions, target.expand(2, 1, 2), atol=1e-3)

    def test_it_nears_the_optimum_inside_the_bounds(self) -> None:
        objective = quadratic(2, 3)
        plan = make_planner("cma", horizon=3, samples=16, iterations=60).plan(objective, bounds=BOUNDS, batch=2)
        assert float((plan.actions - objective.target).abs().max()) < 0.02
        assert torch.allclose(plan.state.mean, plan.actions)

    def test_long_plans_use_the_diagonal_variant(self) -> None:
        objective = quadratic(1, 80)
        plan = make_planner("cma", horizon=80, samples=8, iterations=20).plan(objective, bounds=BOUNDS)
        assert float(plan.cost) < 0.9 * float(objective(BOUNDS.clip(torch.zeros(1, 1, 80, 2))))

    def test_a_warm_start_and_a_suggestion_are_tried(self) -> None:
        objective = quadratic(2, 3)
        planner = make_planner("cma", horizon=3, samples=8, iterations=1)
        plan = planner.plan(objective, bounds=BOUNDS, prior=objective.target[:, None])
        assert bool((plan.cost == 0).all())
        assert torch.equal(planner.plan(objective, bounds=BOUNDS, state=plan.state).actions, objective.target)
