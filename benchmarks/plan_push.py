"""Controlling the push task in the true simulator by planning inside learned worlds, and whether the plans' dreams come true.

    python -m benchmarks.plan_push [--episodes 200] [--risk 2] [--caution 2]

Every world plans from the same held-out starts (paired). A plan is remade every two control steps from what is really
observed: true states for the state world, 64x64 pixels for the latent world. For the comparison of dream and truth, plans
made at several moments of those episodes are carried out to their end, open loop, in the simulator; what they promise is the
mean of the final progress that the members of the world's ensemble imagine, each in a rollout of its own.
A search minimises the missing progress plus `risk` times the world's uncertainty. Its finalists are ranked by a second objective:
the members' mean missing progress plus `caution` times their standard deviation. What dreams are worth without either, and
the promise of the world's own single rollout, are measured beside it.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.record import Figure, run, write
from worldsim.core import WorldState
from worldsim.envs.simulator import SimulatorWorld
from worldsim.planners import MPC, EnsembleCheck, costs, make_planner, world_objective
from worldsim.planners.mpc import MPCCarry
from worldsim.planners.objective import unrolled
from worldsim.protocols import observe
from worldsim.stats.intervals import clopper_pearson
from worldsim.worlds import load_world

WORLDS = ("push_state", "push")
PLANNER = {"horizon": 16, "samples": 64, "iterations": 3}
REPEAT = 2
MOMENTS = (0, 6, 12, 18)
BATCH = 50
CARELESS = 40
"""Episodes of the comparison without risk and caution, as far as the last moment."""


def dream_and_truth(mpc: MPC, carry: MPCCarry, sim: SimulatorWorld, state: WorldState) -> Tensor:
    """Final progress of the plans just made, [B, 3]: expected by the members, imagined by the world, and true."""
    plan, belief = carry.plan, carry.belief
    assert plan is not None and belief is not None
    actions = unrolled(plan.actions, repeat=mpc.repeat)
    expected = EnsembleCheck.of(mpc.world).expected_progress(belief, actions)
    with torch.no_grad():
        imagined = mpc.world.rollout(belief, actions)[1].progress
    return torch.stack([p[:, -1] for p in (expected, imagined, sim.rollout(state, actions)[1].progress)], dim=1)


def driver(planner: str, name: str, risk: float, caution: float) -> MPC:
    """Planning in a world for progress, at a price for uncertainty, its finalists ranked at a price for disagreement."""
    world = load_world(name)
    check = EnsembleCheck.of(world)
    parts = ((1.0, costs.progress), (risk, costs.uncertainty)) if risk else ((1.0, costs.progress),)
    return MPC(
        make_planner(planner, **PLANNER),
        world,
        objective=lambda w, s: world_objective(w, s, costs.weigh(*parts), repeat=REPEAT),
        repeat=REPEAT,
        rerank=(lambda w, s: check.objective(s, weight=caution, repeat=REPEAT)) if caution else None,
    )


def controlled(mpc: MPC, sim: SimulatorWorld, indices: Tensor, *, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Success [B] and progress [B] after so many steps; what plans promised and gave, [B, moments, 3]."""
    seen = dict(load_world("push_state").starts(indices))  # pixels, true states and the simulator's own
    state: WorldState = sim.reset(seen, indices)
    carry, plans = mpc.initial(len(indices)), []
    for t in range(steps):
        action, carry = mpc.act({k: seen[k] for k in mpc.needs}, carry, indices * 1000 + t)
        if t in MOMENTS:
            plans.append(dream_and_truth(mpc, carry, sim, state))
        state, step = sim.step(state, action)
        seen = observe(sim, step, mpc.needs)
    return step.success, step.progress, torch.stack(plans, 1)


def correlation(dreams: Tensor, truths: Tensor) -> float:
    """Pearson correlation of dreamed and true progress."""
    return float(np.corrcoef(dreams.flatten(), truths.flatten())[0, 1])


def optimism(dreams: Tensor, truths: Tensor) -> float:
    """How much more is dreamed than comes, on average."""
    return float((dreams - truths).double().mean())


def farthest(dreams: Tensor, truths: Tensor, count: int = 8) -> list[str]:
    """Where dream and truth part most, in words."""
    order = (dreams - truths).abs().flatten().topk(min(count, dreams.numel())).indices.tolist()
    places = [divmod(i, len(MOMENTS)) for i in order]
    return [f"start {b}, step {MOMENTS[m]}: {dreams[b, m]:.2f} promised, {truths[b, m]:.2f} came" for b, m in places]


def measured(
    name: str, planner: str, risk: float, caution: float, episodes: int
) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of one world, and what lies behind them."""
    torch.set_num_threads(1)
    sim, mpc = SimulatorWorld("worldsim/Push-v0"), driver(planner, name, risk, caution)
    began = time.process_time()
    parts = [controlled(mpc, sim, rows, steps=sim.spec.horizon) for rows in torch.arange(episodes).split(BATCH)]
    spent = time.process_time() - began
    success, progress, plans = (torch.cat(part).double() for part in zip(*parts, strict=True))
    few = torch.arange(min(episodes, CARELESS))
    careless = controlled(driver(planner, name, 0.0, 0.0), sim, few, steps=MOMENTS[-1] + 1)[2].unbind(2)
    expected, imagined, truths = plans.unbind(2)
    wins = int(success.sum())
    low, high = (float(edge) for edge in clopper_pearson(wins, episodes))
    print(f"{name}: {wins}/{episodes} [{low:.3f}, {high:.3f}], {spent:.0f} core-seconds", flush=True)
    figures = [
        Figure(name=f"{name}: success in the simulator", value=wins / episodes),
        Figure(name=f"{name}: success, 95 % interval, low", value=low),
        Figure(name=f"{name}: success, 95 % interval, high", value=high),
        Figure(name=f"{name}: final progress", value=float(progress.mean())),
        Figure(name=f"{name}: correlation of dreamed and true progress", value=correlation(expected, truths)),
        Figure(name=f"{name}: optimism of dreamed progress", value=optimism(expected, truths)),
        Figure(name=f"{name}: correlation of the world's own rollout", value=correlation(imagined, truths)),
        Figure(name=f"{name}: correlation without risk and caution", value=correlation(careless[1], careless[2])),
        Figure(name=f"{name}: optimism without risk and caution", value=optimism(careless[1], careless[2])),
        Figure(name=f"{name}: core-milliseconds a control step", value=spent / episodes / sim.spec.horizon * 1000),
    ]
    details = {
        "failed_starts": [int(i) for i in (success < 0.5).nonzero()[:, 0]],
        "optimism_by_moment": {str(t): float(v) for t, v in zip(MOMENTS, (expected - truths).mean(0), strict=True)},
        "final_progress": [round(float(p), 4) for p in progress],
        "farthest_apart": farthest(expected, truths),
    }
    return figures, details


def main(
    episodes: Annotated[int, typer.Option(help="Episodes per world.")] = 200,
    planner: Annotated[str, typer.Option(help="Planner.")] = "weighted",
    risk: Annotated[float, typer.Option(help="Weight of the world's uncertainty.")] = 2.0,
    caution: Annotated[float, typer.Option(help="Weight of the members' disagreement among the finalists.")] = 2.0,
) -> None:
    """Measure, a process for each world, and write benchmarks/results/plan_push.json."""
    with ProcessPoolExecutor(len(WORLDS), mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(measured, name, planner, risk, caution, episodes) for name in WORLDS]
        found = [one.result() for one in asked]
    write(
        "plan_push",
        figures=[figure for figures, _ in found for figure in figures],
        seeds=[0],
        details={
            "planner": planner,
            **PLANNER,
            "repeat": REPEAT,
            "risk": risk,
            "caution": caution,
            "moments": MOMENTS,
            **{name: details for name, (_, details) in zip(WORLDS, found, strict=True)},
        },
    )


if __name__ == "__main__":
    run(main)
