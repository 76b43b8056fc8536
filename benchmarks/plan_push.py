"""Controlling the push task in the true simulator by planning inside learned worlds, and whether the plans' dreams come true.

    python -m benchmarks.plan_push [--episodes 200] [--risk 2]

Every world plans from the same held-out starts (paired). A plan is remade every two control steps from what is really
observed: true states for the state world, 64x64 pixels for the latent world. For the comparison of dream and truth, plans
made at several moments of those episodes are carried out to their end, open loop, in the simulator and in the world.
The cost is the missing progress plus `risk` times the world's uncertainty; what dreams are worth without that second part is
measured beside it, on fewer episodes.
"""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.record import Figure, write
from worldsim.envs.simulator import SimulatorWorld
from worldsim.planners import MPC, costs, make_planner, world_objective
from worldsim.planners.mpc import MPCCarry
from worldsim.planners.objective import unrolled
from worldsim.protocols import observe
from worldsim.triage.intervals import clopper_pearson
from worldsim.types import WorldState
from worldsim.worlds import load_world

REACH = {"push_state": 0.98, "push": 0.8}
PLANNER = {"horizon": 16, "samples": 64, "iterations": 3}
REPEAT = 2
MOMENTS = (0, 6, 12, 18)
BATCH = 50
WITHOUT_RISK = 40
"""Episodes of the comparison without risk, as far as the last moment."""


def dream_and_truth(mpc: MPC, carry: MPCCarry, sim: SimulatorWorld, state: WorldState) -> tuple[Tensor, Tensor]:
    """Final progress [B] of the plans just made, as the world imagines it and as the simulator gives it."""
    plan, belief = mpc.last_plan, carry.belief
    assert plan is not None and belief is not None
    actions = unrolled(plan.actions, repeat=mpc.repeat)
    with torch.no_grad():
        dreamed = mpc.world.rollout(belief, actions)[1].progress[:, -1]
    return dreamed, sim.rollout(state, actions)[1].progress[:, -1]


def driver(planner: str, world: str, risk: float) -> MPC:
    """Planning in a world for progress, at a price for doubt."""
    parts = ((1.0, costs.progress), (risk, costs.doubt)) if risk else ((1.0, costs.progress),)
    return MPC(
        make_planner(planner, **PLANNER),
        load_world(world),
        objective=lambda w, s: world_objective(w, s, costs.weigh(*parts), repeat=REPEAT),
        repeat=REPEAT,
    )


def controlled(mpc: MPC, sim: SimulatorWorld, indices: Tensor, *, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Success [B] and progress [B] after so many steps; dreamed and true progress of plans [B, moments]."""
    seen = dict(load_world("push_state").starts(indices))  # pixels, true states and the simulator's own
    state: WorldState = sim.reset(seen, indices)
    carry, dreams, truths = mpc.initial(len(indices)), [], []
    for t in range(steps):
        action, carry = mpc.act({k: seen[k] for k in mpc.needs}, carry, indices * 1000 + t)
        if t in MOMENTS:
            dream, true = dream_and_truth(mpc, carry, sim, state)
            dreams.append(dream)
            truths.append(true)
        state, step = sim.step(state, action)
        seen = observe(sim, step, mpc.needs)
    return step.success, step.progress, torch.stack(dreams, 1), torch.stack(truths, 1)


def correlation(dreams: Tensor, truths: Tensor) -> float:
    """Pearson correlation of dreamed and true progress."""
    return float(np.corrcoef(dreams.flatten(), truths.flatten())[0, 1])


def optimism(dreams: Tensor, truths: Tensor) -> float:
    """How much more is dreamed than comes, on average."""
    return float((dreams - truths).double().mean())


def measured(name: str, planner: str, risk: float, episodes: int) -> tuple[list[Figure], dict[str, Any]]:
    """The figures of one world, and what lies behind them."""
    torch.set_num_threads(1)
    sim, mpc = SimulatorWorld("worldsim/Push-v0"), driver(planner, name, risk)
    began = time.process_time()
    parts = [controlled(mpc, sim, rows, steps=sim.spec.horizon) for rows in torch.arange(episodes).split(BATCH)]
    spent = time.process_time() - began
    success, progress, dreams, truths = (torch.cat(part).double() for part in zip(*parts, strict=True))
    few = torch.arange(min(episodes, WITHOUT_RISK))
    _, _, *careless = controlled(driver(planner, name, 0.0), sim, few, steps=MOMENTS[-1] + 1)
    wins = int(success.sum())
    low, high = (float(edge) for edge in clopper_pearson(wins, episodes))
    print(f"{name}: {wins}/{episodes} [{low:.3f}, {high:.3f}], {spent:.0f} core-seconds", flush=True)
    figures = [
        Figure(name=f"{name}: success in the simulator", value=wins / episodes, reach=REACH[name]),
        Figure(name=f"{name}: success, 95 % interval, low", value=low),
        Figure(name=f"{name}: success, 95 % interval, high", value=high),
        Figure(name=f"{name}: final progress", value=float(progress.mean())),
        Figure(name=f"{name}: correlation of dreamed and true progress", value=correlation(dreams, truths), reach=0.9),
        Figure(name=f"{name}: optimism of dreamed progress", value=optimism(dreams, truths), reach=0.1, order="<="),
        Figure(name=f"{name}: correlation without risk in the cost", value=correlation(*careless)),
        Figure(name=f"{name}: optimism without risk in the cost", value=optimism(*careless)),
        Figure(name=f"{name}: core-milliseconds a control step", value=spent / episodes / sim.spec.horizon * 1000),
    ]
    details = {
        "failed_starts": [int(i) for i in (success < 0.5).nonzero()[:, 0]],
        "optimism_by_moment": {str(t): float(v) for t, v in zip(MOMENTS, (dreams - truths).mean(0), strict=True)},
        "final_progress": [round(float(p), 4) for p in progress],
    }
    return figures, details


def main(
    episodes: Annotated[int, typer.Option(help="Episodes per world.")] = 200,
    planner: Annotated[str, typer.Option(help="Planner.")] = "weighted",
    risk: Annotated[float, typer.Option(help="Weight of the world's uncertainty.")] = 2.0,
) -> None:
    """Measure, a process for each world, and write benchmarks/results/plan_push.json."""
    with ProcessPoolExecutor(len(REACH), mp_context=multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(measured, name, planner, risk, episodes) for name in REACH]
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
            "moments": MOMENTS,
            **{name: details for name, (_, details) in zip(REACH, found, strict=True)},
        },
    )


if __name__ == "__main__":
    typer.run(main)
