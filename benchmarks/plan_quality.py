"""How good plans are for the evaluations they cost, on two problems with a known answer.

    python -m benchmarks.plan_quality [--peers]

LQR: a double integrator whose optimum the Riccati recursion gives; the gap is the excess cost of a plan, in per cent.
Wall: a mass before a wall, the goal behind it, the opening aside; success is reaching the goal without touching the wall.
Open loop: one plan of N x I evaluations. Closed loop: a plan per step, executed for one step, warm-started from the last.
`--peers` adds stable-worldmodel's solvers on the same problems, where that package is installed.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.plan_problems import BOUNDS, Problem, lqr, lqr_optimum, through_the_opening, wall
from benchmarks.record import Figure, run, write
from worldsim.planners import Planner, Search, make_planner, rollout_of

STARTS = 64
SEEDS = (11, 12, 13)
STEPS = {"lqr": 24, "wall": 40}
WHITE: dict[str, Any] = {"beta": 0.0, "std": 1.0}
PLANNERS: dict[str, tuple[str, dict[str, Any]]] = {
    "CEM": ("cem", {}),
    "weighted, white noise": ("weighted", WHITE),
    "weighted (default)": ("weighted", {}),
    "iCEM": ("icem", {}),
    "MPPI": ("mppi", {}),
    "predictive sampling": ("predictive", {}),
    "gradient": ("gradient", {}),
    "hybrid": ("hybrid", {}),
}
BUDGETS = ((64, 5), (512, 5), (300, 30))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one planner reached."""

    gap: float  # per cent, median over starts and seeds
    success: float  # per cent


def planned(planner: Any, problem: Problem, seed: int) -> Tensor:
    """One plan per start, [B, H, A]."""
    return planner.plan(problem.objective(), bounds=BOUNDS, batch=len(problem.start), seed=seed).actions


def open_loop(make: Callable[[int], Any]) -> Outcome:
    """The gap on the LQR and the success at the wall of single plans."""
    gaps, through = [], []
    for seed in SEEDS:
        linear, blocked = lqr(STARTS, seed=seed), wall(STARTS, seed=seed)
        gaps.append(excess(linear, planned(make(linear.horizon), linear, seed)))
        states = rollout_of(blocked.step)(blocked.start, planned(make(blocked.horizon), blocked, seed))
        through.append(through_the_opening(states).float())
    return Outcome(float(torch.cat(gaps).median()), float(torch.cat(through).mean()) * 100)


def excess(problem: Problem, actions: Tensor) -> Tensor:
    """Excess cost of plans [B, H, A] over the optimum, per cent [B]."""
    _, best = lqr_optimum(problem)
    cost = problem.objective()(actions[:, None])
    assert isinstance(cost, Tensor)
    return (cost[:, 0] - best) / best * 100


def executed(problem: Problem, steps: int, act: Callable[[Tensor, int], Tensor]) -> tuple[Tensor, Tensor]:
    """Act for some steps: total cost [B] and path [B, steps + 1, S]."""
    state, total = problem.start, torch.zeros(len(problem.start))
    path = [state]
    for t in range(steps):
        action = act(state, t)
        state = problem.step(state, action)
        total = total + problem.cost(state[:, None, None], action[:, None, None])[:, 0, 0]
        path.append(state)
    return total, torch.stack(path, dim=1)


def controlled(
    planner: Planner, problem: Problem, steps: int, *, seed: int, warm: bool = True
) -> tuple[Tensor, Tensor]:
    """Closed loop: plan, take one step, plan again."""
    kept: list[Search | None] = [None]

    def act(state: Tensor, t: int) -> Tensor:
        plan = planner.plan(
            problem.objective(state), bounds=BOUNDS, batch=len(state), seed=seed * 1000 + t, state=kept[0]
        )
        kept[0] = plan.state.shift(1) if warm else None
        return plan.actions[:, 0]

    return executed(problem, steps, act)


def closed_loop(name: str, options: dict[str, Any]) -> dict[str, float]:
    """Excess cost on the LQR, warm and cold, and success at the wall, with 128 x 3 evaluations per step."""
    found: dict[str, list[Tensor]] = {"warm": [], "cold": [], "wall": []}
    for seed in SEEDS:
        linear, blocked = lqr(STARTS, seed=seed), wall(STARTS, seed=seed)
        best, _ = executed(linear, STEPS["lqr"], lambda state, t, p=linear: lqr_optimum(p, state)[0][:, 0])  # type: ignore[misc]
        planner = make_planner(name, horizon=linear.horizon, samples=128, iterations=3, **options)
        for kind in ("warm", "cold"):
            cost, _ = controlled(planner, linear, STEPS["lqr"], seed=seed, warm=kind == "warm")
            found[kind].append((cost - best) / best * 100)
        planner = make_planner(name, horizon=blocked.horizon, samples=128, iterations=3, **options)
        _, path = controlled(planner, blocked, STEPS["wall"], seed=seed)
        found["wall"].append(through_the_opening(path).float() * 100)
    return {k: float(torch.cat(v).mean() if k == "wall" else torch.cat(v).median()) for k, v in found.items()}


def peers() -> dict[str, dict[str, Outcome]]:
    """stable-worldmodel's solvers on the same problems."""
    from stable_worldmodel.solver import CEMSolver, ICEMSolver, MPPISolver

    from worldsim.integrations.planners.stable_worldmodel import SolverPlanner

    kinds = {"CEM": CEMSolver, "iCEM": ICEMSolver, "MPPI": MPPISolver}
    table: dict[str, dict[str, Outcome]] = {}
    for name, kind in kinds.items():
        for samples, iterations in BUDGETS:

            def make(horizon: int, kind: Any = kind, n: int = samples, i: int = iterations) -> Any:
                return SolverPlanner(kind(model=None, num_samples=n, n_steps=i), horizon=horizon)

            table.setdefault(f"stable-worldmodel {name}", {})[f"{samples}x{iterations}"] = open_loop(make)
    return table


def main(with_peers: Annotated[bool, typer.Option("--peers", help="Also measure stable-worldmodel.")] = False) -> None:
    """Measure and write benchmarks/results/plan_quality.json."""
    torch.set_num_threads(1)
    table: dict[str, dict[str, Outcome]] = peers() if with_peers else {}
    for label, (name, options) in PLANNERS.items():
        for samples, iterations in BUDGETS:

            def make(horizon: int, n: int = samples, i: int = iterations, k: str = name, o: Any = options) -> Planner:
                return make_planner(k, horizon=horizon, samples=n, iterations=i, **o)

            table.setdefault(label, {})[f"{samples}x{iterations}"] = open_loop(make)
        print(label, {k: (round(v.gap, 2), round(v.success)) for k, v in table[label].items()}, flush=True)
    loops = {label: closed_loop(name, options) for label, (name, options) in PLANNERS.items()}
    default = loops["weighted (default)"]
    worst = max(row["warm"] - row["cold"] for row in (default, loops["hybrid"]))
    reached = [
        Figure(name="LQR gap, 300 x 30, CEM", value=table["CEM"]["300x30"].gap, unit="%"),
        Figure(
            name="LQR gap, 300 x 30, weighted, white noise",
            value=table["weighted, white noise"]["300x30"].gap,
            unit="%",
        ),
        Figure(name="LQR gap, 300 x 30, hybrid", value=table["hybrid"]["300x30"].gap, unit="%"),
        Figure(name="LQR gap, 512 x 5, hybrid", value=table["hybrid"]["512x5"].gap, unit="%"),
        Figure(name="wall, 512 x 5, open loop, hybrid", value=table["hybrid"]["512x5"].success, unit="%"),
        Figure(name="wall, 128 x 3, closed loop, weighted (default)", value=default["wall"], unit="%"),
        Figure(name="wall, 128 x 3, closed loop, plain CEM", value=loops["CEM"]["wall"], unit="%"),
        Figure(
            name="LQR excess, 128 x 3, closed loop, weighted (default)",
            value=default["warm"],
            unit="%",
        ),
        Figure(name="LQR excess, warm above cold, default and hybrid", value=worst, unit="points"),
    ]
    others = [
        Figure(name=f"{label}, {budget}: {what}", value=value, unit="%")
        for label, row in table.items()
        for budget, outcome in row.items()
        for what, value in (("LQR gap", outcome.gap), ("wall", outcome.success))
    ] + [
        Figure(name=f"{label}, closed loop 128x3: {kind}", value=value, unit="%")
        for label, row in loops.items()
        for kind, value in row.items()
    ]
    write(
        "plan_quality",
        figures=reached + others,
        seeds=SEEDS,
        details={"starts": STARTS, "steps": STEPS},
    )


if __name__ == "__main__":
    run(main)
