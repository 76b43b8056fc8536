"""What a planner adds to the bare calls of the model, and what other libraries' planners add to the same calls.

    python -m benchmarks.plan_speed

The floor of a round is the dynamics and cost calls that a plan needs, on actions drawn before; every figure is the median
over rounds of core-seconds over the floor of the same round, one thread, all calls taking turns in shuffled order.
The other libraries come with the extra ``interop``; those that are not installed are named and left out.
"""

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import io
import itertools
import os
import random
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import gymnasium
import torch
import typer
from torch import Tensor, nn

from benchmarks.record import Figure, run, write
from worldsim.planners import Bounds, RolloutObjective, make_planner, rollout_of

LATENT, ACTION, HORIZON, SAMPLES, ITERATIONS, ELITES = 64, 4, 16, 512, 5, 64
BOUNDS = Bounds(-torch.ones(ACTION), torch.ones(ACTION))
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
"""Memory is kept between operations, as in triage's workers: else page faults, not work, decide what tensors cost."""
PEERS = ("stable-worldmodel", "torchrl", "pytorch-mppi")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A model, a goal and where B environments stand; the same for every planner.

    Attributes:
        dynamics: (latents [M, L], actions [M, A]) -> next latents [M, L].
        goal: [L].
        start: [B, L].
    """

    dynamics: Callable[[Tensor, Tensor], Tensor]
    goal: Tensor
    start: Tensor

    def cost(self, latent: Tensor, action: Tensor) -> Tensor:
        """Running cost [...] of latents [..., L] and actions [..., A]."""
        return (latent - self.goal).square().mean(-1) + 0.01 * action.square().sum(-1)

    def total(self, actions: Tensor, start: Tensor | None = None) -> Tensor:
        """Cost [B, N] of actions [B, N, H, A]: a call of dynamics and one of cost per step, nothing stored."""
        b, n = actions.shape[:2]
        start = self.start[:, None].expand(b, n, LATENT) if start is None else start
        latent, cost = start.reshape(b * n, LATENT), torch.zeros(b * n)
        for t in range(actions.shape[2]):
            action = actions[:, :, t].reshape(b * n, -1)
            latent = self.dynamics(latent, action)
            cost = cost + self.cost(latent, action)
        return cost.view(b, n)


def work(model: str, batch: int) -> Work:
    """The linear dynamics or the network 128 wide, for B environments."""
    torch.manual_seed(0)
    goal, start = torch.randn(LATENT), torch.randn(batch, LATENT)
    into, inner, outer = nn.Linear(LATENT + ACTION, LATENT), nn.Linear(LATENT + ACTION, 128), nn.Linear(128, LATENT)
    for layer in (into, inner, outer):
        layer.requires_grad_(False)

    def linear(z: Tensor, a: Tensor) -> Tensor:
        return into(torch.cat([z, a], dim=1))

    def network(z: Tensor, a: Tensor) -> Tensor:
        return z + 0.1 * outer(nn.functional.elu(inner(torch.cat([z, a], dim=1))))

    return Work(dynamics=linear if model == "linear" else network, goal=goal, start=start)


def calls_of(job: Work) -> dict[str, Callable[[], object]]:
    """The floor, worldsim's planners and whatever else is installed, each a call that plans once."""
    batch = len(job.start)
    drawn = [torch.randn(batch, SAMPLES, HORIZON, ACTION).clamp_(-1, 1) for _ in range(ITERATIONS)]
    size = {"horizon": HORIZON, "samples": SAMPLES, "iterations": ITERATIONS}
    cem = make_planner("cem", elites=ELITES, **size)
    weighted = make_planner("weighted", **size)
    pieces = make_planner("cem", elites=ELITES, chunk=256 if batch == 1 else 1024 // batch, **size)
    stored = RolloutObjective(roll=rollout_of(job.dynamics), start=job.start, cost=job.cost)
    seeds = itertools.count()

    def floor() -> None:
        with torch.no_grad():
            for actions in drawn:
                job.total(actions)

    def looking() -> None:
        floor()
        with torch.no_grad():
            job.total(drawn[0][:, :3])

    calls: dict[str, Callable[[], object]] = {
        "floor": floor,
        "bare calls and worldsim's last look": looking,
        "worldsim cem": lambda: cem.plan(job.total, bounds=BOUNDS, batch=batch, seed=next(seeds)),
        "worldsim weighted": lambda: weighted.plan(job.total, bounds=BOUNDS, batch=batch, seed=next(seeds)),
        "worldsim cem, states stored": lambda: cem.plan(stored, bounds=BOUNDS, seed=next(seeds), batch=batch),
        "worldsim cem, states stored, in chunks": lambda: pieces.plan(
            stored, bounds=BOUNDS, seed=next(seeds), batch=batch
        ),
    }
    for peer, make in zip(PEERS, (_stable_worldmodel, _torchrl, _pytorch_mppi), strict=True):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                calls |= make(job)
        except ImportError:
            print(f'{peer} is not installed and is left out: pip install "worldsim[interop]"')
    return calls


def _stable_worldmodel(job: Work) -> dict[str, Callable[[], object]]:
    solvers = importlib.import_module("stable_worldmodel.solver")
    model = types.SimpleNamespace(get_cost=lambda info, actions: job.total(actions, info["z"]))
    batch = len(job.start)
    config = types.SimpleNamespace(horizon=HORIZON, action_block=1)
    calls: dict[str, Callable[[], object]] = {}
    sizes = {"one environment": 1} if batch == 1 else {"all at once": batch, "one by one, its default": 1}
    for name, size in sizes.items():
        solver = solvers.CEMSolver(model, batch_size=size, num_samples=SAMPLES, n_steps=ITERATIONS, topk=ELITES)
        solver.configure(action_space=gymnasium.spaces.Box(-1, 1, (batch, ACTION)), n_envs=batch, config=config)
        calls[f"stable-worldmodel CEM, {name}"] = functools.partial(_quietly, solver, {"z": job.start})
    return calls


def _quietly(call: Callable[[Any], object], argument: Any) -> object:
    """Without the line that the call prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return call(argument)


def _torchrl(job: Work) -> dict[str, Callable[[], object]]:
    planners = importlib.import_module("torchrl.modules.planners")
    modules, data = importlib.import_module("torchrl.modules"), importlib.import_module("torchrl.data")
    based = importlib.import_module("torchrl.envs.model_based")
    dicts = importlib.import_module("tensordict")
    module = importlib.import_module("tensordict.nn").TensorDictModule

    def flat(z: Tensor, a: Tensor) -> Tensor:
        return job.dynamics(z.reshape(-1, LATENT), a.reshape(-1, ACTION)).view(z.shape)

    class Env(based.ModelBasedEnvBase):  # type: ignore[misc, name-defined]
        """The work as a model-based environment."""

        def __init__(self) -> None:
            step = module(flat, in_keys=["z", "action"], out_keys=["z"])
            reward = module(lambda z, a: -job.cost(z, a)[..., None], in_keys=["z", "action"], out_keys=["reward"])
            super().__init__(modules.WorldModelWrapper(step, reward))
            self.observation_spec = data.Composite(z=data.Unbounded((LATENT,)))
            self.state_spec = data.Composite(z=data.Unbounded((LATENT,)))
            self.action_spec, self.reward_spec = data.Bounded(-1, 1, (ACTION,)), data.Unbounded((1,))

        def _reset(self, tensordict: Any, **_: Any) -> Any:
            return tensordict

    planner = planners.CEMPlanner(Env(), HORIZON, ITERATIONS, SAMPLES, ELITES)

    def plan() -> object:
        with torch.no_grad():
            return planner(dicts.TensorDict({"z": job.start}, [len(job.start)]))

    return {"torchrl CEMPlanner": plan}


def _pytorch_mppi(job: Work) -> dict[str, Callable[[], object]]:
    library = importlib.import_module("pytorch_mppi.mppi")
    batch, size = len(job.start), {"num_samples": SAMPLES, "horizon": HORIZON, "u_max": torch.ones(ACTION)}
    sigma = torch.eye(ACTION)
    if batch == 1:
        control = library.MPPI(job.dynamics, job.cost, LATENT, sigma, **size)
    else:
        control = library.MPPI_Batched(job.dynamics, job.cost, LATENT, sigma, batch, **size)
    state = job.start[0] if batch == 1 else job.start

    def plan() -> None:
        with torch.no_grad():
            for _ in range(ITERATIONS):
                control.command(state, False)

    return {"pytorch_mppi MPPI" if batch == 1 else "pytorch_mppi MPPI_Batched": plan}


def ratios(calls: Mapping[str, Callable[[], object]], *, rounds: int, repeats: int) -> tuple[dict[str, float], float]:
    """Median over rounds of every call's core-seconds over the floor's, and the floor's own median in seconds.

    In a round every call is made `repeats` times in a row, as in a control loop, and their median counts: other
    processes of the machine disturb some of them.
    """
    order, names = random.Random(0), list(calls)
    for name in names:
        calls[name]()  # warms up
    spent: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            here = []
            for _ in range(repeats):
                began = time.process_time()
                calls[name]()
                here.append(time.process_time() - began)
            spent[name].append(statistics.median(here))
    floor = spent.pop("floor")
    medians = {k: statistics.median(s / f for s, f in zip(v, floor, strict=True)) for k, v in spent.items()}
    return medians, statistics.median(floor)


def main(rounds: Annotated[int, typer.Option(help="Rounds to take the median over.")] = 12) -> None:
    """Measure and write benchmarks/results/plan_speed.json."""
    if not ALLOCATOR.items() <= os.environ.items():  # read by the C library before Python begins
        os.execve(  # noqa: S606 - the same program again
            sys.executable, [sys.executable, "-m", "benchmarks.plan_speed", *sys.argv[1:]], os.environ | ALLOCATOR
        )
    torch.set_num_threads(1)
    figures, floor_s = [], {}
    for model, batch, repeats in (("linear", 1, 20), ("MLP 128", 8, 3)):
        case = f"{model}, {batch} environment{'s' if batch > 1 else ''}"
        found, floor_s[case] = ratios(calls_of(work(model, batch)), rounds=rounds, repeats=repeats)
        figures += [Figure(name=f"{name}: {case}", value=value, unit="x") for name, value in found.items()]
    versions = {}
    for peer in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[peer] = importlib.metadata.version(peer)
    sizes = {"latent": LATENT, "action": ACTION, "horizon": HORIZON, "samples": SAMPLES, "iterations": ITERATIONS}
    details = {"floor_core_seconds": floor_s, "peers": versions, "rounds": rounds, **sizes, "elites": ELITES}
    write("plan_speed", figures=figures, seeds=[0], details=details)


if __name__ == "__main__":
    run(main)
