import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.planners import RolloutObjective, make_planner, rollout_of
from worldsim.planners.compile import Graphed, compiled


def _objective() -> RolloutObjective:
    return RolloutObjective(
        roll=rollout_of(lambda state, action: 0.9 * state + action),
        start=torch.linspace(-1, 1, 6).view(2, 3),
        cost=lambda states, actions: states.square().sum(-1) + 0.1 * actions.square().sum(-1),
    )


@pytest.mark.parametrize("name", ["weighted", "hybrid"])
def test_a_compiled_objective_gives_the_same_plans(name: str) -> None:
    planner = make_planner(name, horizon=4, samples=32, iterations=3)
    bounds = (-torch.ones(3), torch.ones(3))
    plain = planner.plan(_objective(), bounds=bounds, batch=2)
    fast = planner.plan(compiled(_objective(), backend="aot_eager"), bounds=bounds, batch=2)
    torch.testing.assert_close(fast.actions, plain.actions)
    torch.testing.assert_close(fast.cost, plain.cost)


def test_a_graph_needs_a_gpu() -> None:
    with pytest.raises(InvalidInputError, match="GPU"):
        Graphed(_objective(), torch.zeros(2, 8, 4, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="records a CUDA graph")
def test_a_graph_gives_the_same_costs_and_refuses_other_shapes() -> None:
    objective = RolloutObjective(roll=_objective().roll, start=_objective().start.cuda(), cost=_objective().cost)
    actions = torch.rand(2, 8, 4, 3, device="cuda")
    graphed = Graphed(objective, torch.zeros_like(actions))
    torch.testing.assert_close(graphed(actions), objective(actions))
    with pytest.raises(InvalidInputError, match="recorded"):
        graphed(actions[:1])
