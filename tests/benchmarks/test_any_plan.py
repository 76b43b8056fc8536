"""What is said of plans is what they promise, and what the simulator gives them."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from numpy.typing import NDArray

import worldsim  # noqa: F401  (registers Push-v0)
from benchmarks.any_plan import Driven, drive, figures_of, joined
from worldsim.core import STATE, TRUE_STATE
from worldsim.envs.simulator import SimulatorWorld
from worldsim.planners import MPC, EnsembleCheck, make_planner
from worldsim.planners.objective import unrolled
from worldsim.policies.function import FunctionPolicy
from worldsim.protocols import Policy
from worldsim.worlds import load_world

SEEDS, STEPS, REPEAT = torch.tensor([5, 9]), 25, 2


def simulator() -> SimulatorWorld:
    return SimulatorWorld("worldsim/Push-v0", horizon=40)


def pushing() -> Policy:
    """Runs into the block, wherever that is."""

    def act(seen: Mapping[str, Any]) -> NDArray[Any]:
        return towards(*(torch.from_numpy(seen[key]) for key in (STATE, TRUE_STATE))).numpy()

    return FunctionPolicy(act, needs=[STATE, TRUE_STATE])


def towards(agent: torch.Tensor, block: torch.Tensor) -> torch.Tensor:
    return (5 * (block[:, :2] - agent[:, :2])).clamp(-1, 1)


def test_a_controller_is_driven_as_the_simulator_goes_and_plans_nothing() -> None:
    sim, policy = simulator(), pushing()
    driven = drive(policy, sim, SEEDS, steps=STEPS)
    seen = dict(sim.starts(SEEDS))
    state, first = sim.reset(seen, SEEDS), None
    for _ in range(STEPS):
        state, step = sim.step(state, towards(seen[STATE], seen[TRUE_STATE]))
        first = step.progress if first is None else first
        assert step.true_state is not None
        seen = {STATE: step.proprio, TRUE_STATE: step.true_state}
    assert first is not None and float((step.progress - first).abs().min()) > 0.01  # both blocks were moved
    torch.testing.assert_close(driven.progress, step.progress)
    assert driven.promised.shape == driven.given.shape == (2, 0)


def test_plans_are_carried_out_without_looking_for_what_they_give() -> None:
    sim, world = simulator(), load_world("push")
    mpc = MPC(make_planner("weighted", horizon=2, samples=8, iterations=1), world, repeat=REPEAT)
    driven = drive(mpc, sim, SEEDS, steps=1)
    seen = dict(sim.starts(SEEDS))
    state = sim.reset(seen, SEEDS)
    _, carry = mpc.act({k: seen[k] for k in mpc.needs}, mpc.initial(2), SEEDS * 1000)
    assert carry.plan is not None and carry.belief is not None
    actions = unrolled(carry.plan.actions, repeat=REPEAT)
    expected = EnsembleCheck.of(world).expected_progress(carry.belief, actions)[:, -1]
    for t in range(actions.shape[1]):
        state, step = sim.step(state, actions[:, t])
    torch.testing.assert_close(driven.given[:, 0], step.progress)
    torch.testing.assert_close(driven.promised[:, 0], expected)


def test_optimism_is_what_plans_promise_beyond_what_they_give() -> None:
    def episode(progress: float, promised: float, given: float) -> Driven:
        both = torch.tensor([[promised, promised]]), torch.tensor([[given, given + 0.1]])
        return Driven(progress=torch.tensor([progress]), success=torch.zeros(1), promised=both[0], given=both[1])

    plan = joined([episode(0.6, 0.5, 0.2), episode(0.2, 0.3, 0.1)])
    script = joined([episode(0.8, 0.0, 0.0)] * 2)
    said = figures_of("scene", {"planner": plan, "script": script}, torch.tensor([True, False]))
    value = {f.name: f.value for f in said}
    assert value["scene: final progress, planner over script"] == pytest.approx(0.5)
    assert value["scene: optimism"] == pytest.approx(0.2)
    assert value["scene: optimism of plans at step 15"] == pytest.approx(0.15)
    assert value["scene: hidden, final progress, planner"] == pytest.approx(0.2)
    assert value["scene: hidden"] == 1
