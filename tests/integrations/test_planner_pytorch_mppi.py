"""pytorch_mppi's interface on worldsim's planners; the library itself where it is installed."""

import importlib.util

import pytest
import torch

from worldsim.errors import InvalidInputError
from worldsim.integrations.planners.pytorch_mppi import MPPI, objective_of

X, A, T = 4, 2, 12
LIMIT = torch.tensor([1.0, 2.0])
SIGMA = torch.diag(torch.tensor([0.25, 1.0]))
START = torch.tensor([1.0, -1.0, 0.3, 0.0])
KNOWN = importlib.util.find_spec("pytorch_mppi") is not None


def dynamics(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    place, speed = state[:, :2], state[:, 2:]
    return torch.cat([place + 0.2 * speed, speed + 0.2 * action], dim=1)


def running_cost(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    return state[:, :2].square().sum(1) + 0.1 * state[:, 2:].square().sum(1) + 0.01 * action.square().sum(1)


def terminal(states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    return 5 * states[..., -1, :2].square().sum(-1)


def controller(cls=MPPI, **options):
    return cls(
        dynamics, running_cost, X, SIGMA, **{"num_samples": 256, "horizon": T, "u_max": LIMIT, "lambda_": 0.1} | options
    )


def drive(control, steps: int = 40, state: torch.Tensor = START) -> torch.Tensor:
    """Total cost of driving to the origin, [] or [B]."""
    total = torch.zeros(state.shape[:-1])
    for _ in range(steps):
        action = control.command(state)
        assert bool((action.abs() <= LIMIT).all())
        state = torch.atleast_2d(state)
        state = dynamics(state, action.reshape(len(state), A)).reshape(*total.shape, X)
        total += running_cost(torch.atleast_2d(state), action.reshape(-1, A)).reshape(total.shape)
    return total


@pytest.mark.parametrize(
    ("planner", "iterations"),
    [("mppi", 1), ("cem", 2), ("weighted", 2), ("predictive", 1), ("hybrid", 1), ("random", 1)],
)
def test_any_planner_drives_home(planner: str, iterations: int) -> None:
    control = controller(planner=planner, iterations=iterations, terminal_state_cost=terminal)
    still = sum(float(running_cost(s[None], torch.zeros(1, A))) for s in control.get_rollouts(START)[0])
    total = float(drive(control))
    assert total < 40 if planner == "random" else total < 16
    assert still > 20


def test_the_plan_is_kept_shifted_cut_and_forgotten() -> None:
    control = controller(planner="weighted")
    control.command(START)
    plan, elites = control.U, control._search.elites
    assert plan.shape == (T, A) and bool(plan.any()) and torch.equal(plan, control.get_action_sequence())
    control.shift_nominal_trajectory()
    assert torch.equal(control.U[:-1], plan[1:]) and not bool(control.U[-1].any())
    assert torch.equal(control._search.elites[:, :, :-1], elites[:, :, 1:])
    control.change_horizon(5)
    assert torch.equal(control.U, plan[1:6])
    control.change_horizon(9)
    assert control.U.shape == (9, A) and not bool(control.U[5:].any())
    assert control.command(START, shift_nominal_trajectory=False).shape == (A,) and control.T == 9
    control.reset()
    assert not bool(control.U.any())


def test_same_seed_same_commands_and_robots_do_not_disturb_each_other() -> None:
    many = torch.stack([START, -START, 0.5 * START])
    one, other = controller(), controller()
    for _ in range(3):
        assert torch.equal(one.command(START), other.command(START))
    together, alone = controller(u_per_command=3), controller(u_per_command=3)
    assert together.command(many).shape == (3, 3, A)
    alone.command(START)
    assert torch.allclose(alone.U, together.U[0], atol=1e-5)
    assert bool((drive(controller(), state=many) < 20).all())


def test_costs_are_the_sum_that_they_say() -> None:
    generator = torch.Generator().manual_seed(0)
    actions, start = torch.randn(2, 3, T, A, generator=generator), torch.stack([START, -START])
    expected = torch.zeros(2, 3)
    states, path = start[:, None].expand(2, 3, X).reshape(6, X), []
    for t in range(T):
        action = 0.5 * actions[:, :, t].reshape(6, A)
        states = dynamics(states, action)
        expected += running_cost(states, action).view(2, 3)
        path.append(states)
    expected += terminal(torch.stack(path, 1)[None], actions)[0].view(2, 3)
    plain = objective_of(dynamics, running_cost, start, terminal_state_cost=terminal, u_scale=0.5)
    stepped = objective_of(
        lambda s, u, t: dynamics(s, u),
        lambda s, u, t: running_cost(s, u) * (t < T),
        start,
        terminal_state_cost=terminal,
        step_dependent_dynamics=True,
        u_scale=0.5,
    )
    assert torch.allclose(plain(actions), expected) and torch.allclose(stepped(actions), expected)


def test_noise_has_the_covariance_that_was_asked_for() -> None:
    sigma = torch.tensor([[0.3, 0.2], [0.2, 0.5]])
    seen = []

    def spy(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        seen.append(action)
        return dynamics(state, action)

    for limits in ({}, {"u_min": torch.tensor([-50.0, -80.0]), "u_max": torch.tensor([70.0, 60.0])}):
        seen.clear()
        MPPI(spy, running_cost, X, sigma, num_samples=20_000, horizon=1, **limits).command(START)
        drawn = max(seen, key=len)
        assert torch.allclose(drawn.T.cov(), sigma, atol=0.02)


def test_what_else_is_tried() -> None:
    class Sampler:
        def sample_trajectories(self, state, info):
            return info["plan"].expand(2, T, A)

    plan = torch.full((T, A), 0.125)
    control = controller(specific_action_sampler=Sampler(), sample_null_action=True, u_init=torch.ones(A))
    assert control._prior(START, 1, {"plan": plan}).shape == (1, 3, T, A)
    control._problem["running_cost"] = lambda s, u: (u - 0.125).square().sum(1)
    control.command(START, info={"plan": plan})
    assert torch.equal(control.U, plan)


def test_what_is_not_supported_is_refused() -> None:
    for options in ({"rollout_samples": 2}, {"noise_mu": torch.ones(A)}):
        with pytest.raises(InvalidInputError, match="risk"):
            controller(**options)
    with pytest.raises(InvalidInputError, match="u_min"):
        MPPI(dynamics, running_cost, X, SIGMA, planner="hybrid")
    with pytest.raises(InvalidInputError, match="state"):
        controller().command(torch.zeros(3))


@pytest.mark.integration
@pytest.mark.skipif(not KNOWN, reason="the interop extra is not installed")
def test_the_same_line_drives_as_well_as_theirs() -> None:
    from pytorch_mppi import MPPI as Theirs

    torch.manual_seed(0)
    theirs = drive(controller(Theirs))
    assert float(drive(controller())) < 1.1 * float(theirs)
    assert float(drive(controller(planner="weighted", iterations=2, num_samples=128))) < 1.1 * float(theirs)
