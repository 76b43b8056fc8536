"""Both adapters between worldsim's planners and stable-worldmodel's solvers; the library itself where it is installed."""

import importlib
import importlib.util
import types
import warnings

import gymnasium
import numpy as np
import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.integrations.planners.stable_worldmodel import CostObjective, SolverPlanner, WorldsimSolver
from worldsim.planners import Limits, make_planner

B, H, A, BLOCK = 3, 5, 2, 2
KNOWN = importlib.util.find_spec("stable_worldmodel") is not None
theirs = [pytest.mark.integration, pytest.mark.skipif(not KNOWN, reason="the interop extra is not installed")]


class Model(torch.nn.Module):
    """A point pushed by blocks of actions towards a goal; what it has encoded it keeps in `info`, as LeWM does."""

    def __init__(self, width: int = A * BLOCK) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.push = torch.nn.Parameter(torch.randn(width, 4, generator=generator) * 0.3)
        self.encoded = 0

    def get_cost(self, info: dict, actions: torch.Tensor) -> torch.Tensor:
        if "code" not in info:
            self.encoded += 1
            info["code"] = info["place"].sum(2) - info["goal"].sum(2)
        path = info["code"][:, :, None] + (actions @ self.push).cumsum(2)
        return path.square().sum(-1).sum(-1) + 0.05 * actions.square().sum((-1, -2))


def info(batch: int = B) -> dict:
    generator = torch.Generator().manual_seed(1)
    return {
        "place": torch.randn(batch, 1, 4, generator=generator, dtype=torch.float64),
        "goal": torch.randn(batch, 1, 4, generator=generator),
        "step_idx": np.arange(batch)[:, None],
        "id": [str(i) for i in range(batch)],
    }


def config(horizon: int = H) -> types.SimpleNamespace:
    return types.SimpleNamespace(horizon=horizon, receding_horizon=2, action_block=BLOCK, warm_start=True)


def space(high: float = 1.0) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(-high, high, (B, A))


def configured(solver, high: float = 1.0):
    solver.configure(action_space=space(high), n_envs=B, config=config())
    return solver


def solver(cls: str, *args, **kwargs):
    """One of theirs; importing it warns about games that are not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(importlib.import_module("stable_worldmodel.solver"), cls)(*args, **kwargs)


@pytest.mark.parametrize("planner", ["weighted", "cem", "icem", "mppi", "gradient", "hybrid"])
def test_any_planner_is_a_solver(planner: str) -> None:
    model = Model()
    ours = configured(WorldsimSolver(model=model, planner=planner, num_samples=64, n_steps=8, topk=8))
    assert (ours.action_dim, ours.n_envs, ours.horizon) == (A * BLOCK, B, H)
    out = ours(info(), init_action=None)
    assert set(out) == {"actions", "costs", "mean", "var"}
    assert out["actions"].shape == out["mean"][0].shape == out["var"][0].shape == (B, H, A * BLOCK)
    assert bool((out["actions"].abs() <= 1).all())
    exact = CostObjective(model, info())(out["actions"][:, None])[:, 0]
    still = CostObjective(model, info())(torch.zeros(B, 1, H, A * BLOCK))[:, 0]
    assert torch.allclose(torch.tensor(out["costs"]), exact.detach())
    assert bool((exact < 0.7 * still).all())


def test_a_planner_object_gets_the_policys_horizon() -> None:
    ours = configured(WorldsimSolver(model=Model(), planner=make_planner("cem", horizon=1, samples=32, iterations=2)))
    assert ours.solve(info())["actions"].shape == (B, H, A * BLOCK)
    with pytest.raises(InvalidInputError, match="takes no options"):
        WorldsimSolver(model=Model(), planner=make_planner("cem", horizon=1), topk=3)


def test_an_observation_is_encoded_once_per_number_of_candidates() -> None:
    model = Model()
    configured(WorldsimSolver(model=model, planner="cem", num_samples=32, n_steps=6)).solve(info())
    assert model.encoded == 2  # the search, and the last look


def test_memory_is_no_question_of_results() -> None:
    together = configured(WorldsimSolver(model=Model(), num_samples=32, n_steps=3))
    alone = configured(WorldsimSolver(model=Model(), num_samples=32, n_steps=3, batch_size=1))
    first, second = [(together.solve(info())["actions"], alone.solve(info())["actions"]) for _ in range(2)]
    assert torch.allclose(*first, atol=1e-5) and torch.allclose(*second, atol=1e-5)
    assert not torch.allclose(first[0], second[0], atol=1e-5)  # every call draws new noise


def test_their_spellings_and_the_space_of_the_model() -> None:
    ours = WorldsimSolver(model=Model(), planner="icem", noise_beta=1.0, n_elite_keep=3, alpha=0.2, var_scale=0.5)
    rule = ours._planner.stages[0].rule
    assert (rule.beta, rule.keep, rule.momentum, rule.std) == (1.0, 3, 0.2, 0.5)
    scaler = types.SimpleNamespace(mean_=np.array([0.5, 0.0]), scale_=np.array([0.25, 2.0]))
    ours = configured(WorldsimSolver(model=Model(), scaler=scaler), high=1.0)
    assert ours._bounds.low.tolist() == [-6.0, -0.5] * BLOCK and ours._bounds.high.tolist() == [2.0, 0.5] * BLOCK
    with pytest.raises(InvalidInputError, match="finite"):
        configured(WorldsimSolver(model=Model()), high=np.inf)
    configured(WorldsimSolver(model=Model(), bounds=([-1.0] * A, [1.0] * A)), high=np.inf).solve(info())


def test_a_warm_start_is_completed_and_never_made_worse() -> None:
    model = Model()
    ours = configured(WorldsimSolver(model=model, num_samples=64, n_steps=8))
    first = ours.solve(info())
    again = ours.solve(info(), init_action=first["actions"])
    assert all(new <= old for new, old in zip(again["costs"], first["costs"], strict=True))
    ours.solve(info(), init_action=first["actions"][:, 2:])
    with pytest.raises(InvalidInputError, match="init_action"):
        ours.solve(info(), init_action=first["actions"][:, :, :1])
    model.get_action = lambda info, horizon, prefix_actions: torch.full((B, horizon, A * BLOCK), 0.25)
    assert ours._complete(info(), first["actions"][:, 2:], B)[:, -2:].eq(0.25).all()


def test_reproduction_is_for_their_cem_alone() -> None:
    with pytest.raises(InvalidInputError, match="reproduce"):
        WorldsimSolver(model=Model(), planner="weighted", reproduce=True)
    with pytest.raises(InvalidInputError, match="keep"):
        WorldsimSolver(model=Model(), planner="cem", reproduce=True, keep=3)


class Argmin:
    """The least that has the shape of their solvers: the best of one sample."""

    model, batch_size, device, _dtype, torch_gen = None, 1, "cpu", torch.float32, None

    def configure(self, *, action_space, n_envs, config) -> None:
        self.shape = (n_envs, 64, config.horizon, action_space.shape[1] * config.action_block)

    @torch.inference_mode()
    def solve(self, info_dict, init_action=None):
        candidates = torch.randn(self.shape, generator=self.torch_gen) + init_action[:, None]
        best = self.model.get_cost(info_dict, candidates).argmin(1)
        return {"actions": candidates[torch.arange(len(best)), best]}


def objective(actions: torch.Tensor) -> torch.Tensor:
    return (actions - torch.tensor([0.9, 5.0])).square().sum((2, 3))


BOUNDS = (torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 8.0]))


def test_a_solver_is_a_planner() -> None:
    planner = SolverPlanner(Argmin(), horizon=2)
    plan = planner.plan(objective, bounds=BOUNDS, batch=4, seed=3)
    still = objective(torch.zeros(4, 1, 2, 2))[:, 0]
    assert plan.actions.shape == (4, 2, 2) and plan.stats.evaluations == 64 + 2
    assert bool(((plan.actions >= BOUNDS[0]) & (plan.actions <= BOUNDS[1])).all())
    assert torch.equal(plan.cost, objective(plan.actions[:, None])[:, 0]) and bool((plan.cost < still).all())
    assert torch.equal(plan.actions, planner.plan(objective, bounds=BOUNDS, batch=4, seed=3).actions)
    best = torch.tensor([0.9, 5.0]).expand(4, 2, 2)
    assert torch.equal(planner.plan(objective, bounds=BOUNDS, initial=best).actions, best)
    assert torch.equal(planner.plan(objective, bounds=BOUNDS, prior=best[:, None]).actions, best)
    planner.plan(objective, bounds=BOUNDS, state=plan.state.shift(1))
    with pytest.raises(InvalidInputError, match="limits"):
        planner.plan(objective, bounds=BOUNDS, limits=Limits(budget=10))
    with pytest.raises(InvalidInputError, match="solver"):
        SolverPlanner(object(), horizon=2)


class TestTheirs:
    pytestmark = theirs

    @pytest.mark.parametrize("batch_size", [1, 2, B])
    def test_cem_is_theirs_bit_for_bit(self, batch_size: int) -> None:
        options = {"num_samples": 64, "n_steps": 6, "topk": 8, "var_scale": 1.5, "batch_size": batch_size, "seed": 7}
        one = configured(solver("CEMSolver", model=Model(), **options))
        other = configured(WorldsimSolver(model=Model(), planner="cem", reproduce=True, **options))
        start = 3 * torch.randn(B, 2, A * BLOCK, generator=torch.Generator().manual_seed(2))  # beyond any bounds
        for init in (None, start):  # the second solve goes on with the same stream
            a, b = one.solve(info(), init_action=init), other.solve(info(), init_action=init)
            assert torch.equal(a["actions"], b["actions"]) and torch.equal(a["var"][0], b["var"][0])
            assert bool((a["actions"].abs() > 1).any())

    def test_the_policy_plans_with_us(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            policy = importlib.import_module("stable_worldmodel.policy")
        ours = WorldsimSolver(model=Model(), num_samples=32, n_steps=3)
        plan = policy.PlanConfig(horizon=H, receding_horizon=2, action_block=BLOCK)
        agent = policy.WorldModelPolicy(solver=ours, config=plan)
        agent.set_env(types.SimpleNamespace(num_envs=B, action_space=space(), single_action_space=space()))
        for _ in range(5):
            assert agent.get_action({k: v for k, v in info().items() if k != "id"}).shape == (B, A)

    @pytest.mark.parametrize("name", ["CEMSolver", "ICEMSolver", "MPPISolver", "PredictiveSamplingSolver"])
    def test_their_samplers_plan_for_us(self, name: str) -> None:
        steps = {} if name == "PredictiveSamplingSolver" else {"n_steps": 4, "topk": 8}
        planner = SolverPlanner(solver(name, model=None, num_samples=64, **steps), horizon=3)
        plan = planner.plan(objective, bounds=BOUNDS, batch=2)
        again = planner.plan(objective, bounds=BOUNDS, batch=2)
        assert torch.equal(plan.actions, again.actions)
        assert bool((plan.cost < objective(torch.zeros(2, 1, 3, 2))[:, 0]).all())

    def test_their_gradients_plan_for_us(self) -> None:
        descent = solver("GradientSolver", model=None, n_steps=60, optimizer_kwargs={"lr": 0.02})
        plan = SolverPlanner(descent, horizon=3).plan(objective, bounds=BOUNDS, batch=2)
        assert bool((plan.cost < 0.1).all())
