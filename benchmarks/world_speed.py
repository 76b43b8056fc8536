"""How fast a world encodes starts, steps and draws on one core, and what Gymnasium and triage add to the bare model.

    python -m benchmarks.world_speed [--world push] [--also worlds/fetch_push]

All timings are core-seconds of one process with one thread; every ratio is of two timings of this one run.
"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated

import gymnasium
import numpy as np
import torch
import typer

from benchmarks.record import Figure, run, write
from worldsim.core import IMAGE, STATE
from worldsim.evaluate.policies import load_ref, policy_refs
from worldsim.noise import fold
from worldsim.protocols import observe, require_drawable
from worldsim.triage.engine.batches import Batch, Slot
from worldsim.triage.engine.rollouts import Loaders, Rollouts
from worldsim.triage.request import Ref, TriageRequest
from worldsim.worlds import load_world
from worldsim.worlds.latent import LearnedWorld

BATCH = 64
REPEATS = 7


def core_seconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Least core-seconds of each call; the calls take turns, so that a busy machine troubles all alike."""
    least = dict.fromkeys(calls, float("inf"))
    for turn in range(REPEATS + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if turn:  # the first warms up
                least[name] = min(least[name], time.process_time() - began)
    return least


def overhead_at_one(model: LearnedWorld) -> float:
    """What `gymnasium.make` adds to one episode's steps and drawings, %: medians of steps that take turns."""
    draw = require_drawable(model).decode
    env = gymnasium.make("worldsim/World-v0", world=model)
    starts, key = model.starts(torch.tensor([0])), torch.tensor([0])
    low, high = np.array(model.spec.action.low), np.array(model.spec.action.high)
    actions = np.random.default_rng(0).uniform(low, high, (model.spec.horizon, len(low))).astype(np.float32)
    bare, inside = list[float](), list[float]()
    for turn in range(REPEATS + 1):
        state = model.reset(starts, key)
        env.reset(seed=0)
        for action in actions:
            given, began = torch.from_numpy(action[None]), time.process_time()
            state, step = model.step(state, given)
            draw(step.latent)
            between = time.process_time()
            env.step(action)
            if turn:  # the first warms up
                bare.append(between - began)
                inside.append(time.process_time() - between)
    return float(100 * (np.median(inside) / np.median(bare) - 1))


def stepping(model: LearnedWorld) -> dict[str, Callable[[], None]]:
    """Calls that encode what a batch of episodes begins with, that roll it out from there, and that draw every step too."""
    keys, spec = torch.arange(BATCH), model.spec
    starts = model.starts(keys)
    low, high = torch.tensor(spec.action.low), torch.tensor(spec.action.high)
    share = torch.rand(BATCH, spec.steps, spec.action.dim, generator=torch.Generator().manual_seed(0))
    actions = low + (0.3 + 0.4 * share) * (high - low)
    begun = model.reset(starts, keys)

    def encoded() -> None:
        model.reset(starts, keys)

    def latent() -> None:
        model.rollout(begun, actions)

    def decoded() -> None:
        state = begun
        for t in range(spec.steps):
            state, step = model.step(state, actions[:, t])
            require_drawable(model).decode(step.latent)

    return {call.__name__: call for call in (encoded, latent, decoded)}


def also_figures(other: LearnedWorld, seconds: Mapping[str, float]) -> list[Figure]:
    """Speed of the other world."""
    name = f"{type(other.tokenizer).__name__}, {other.spec.image_size[0]} px"
    return [
        Figure(name=f"{what} per core-second, batch 64: {name}", value=count / seconds[f"also {call}"], unit="1/s")
        for what, call, count in counted(other.spec.steps)
    ]


def counted(steps: int) -> list[tuple[str, str, int]]:
    """What is counted in each call of `stepping`, its name, and how many there are of it."""
    return [
        ("starts encoded", "encoded", BATCH),
        ("latent steps", "latent", BATCH * steps),
        ("decoded steps", "decoded", BATCH * steps),
    ]


def main(
    world: Annotated[str, typer.Option(help="World name or folder.")] = "push",
    also: Annotated[str, typer.Option(help="Another world that is stepped and drawn in the same run.")] = "",
) -> None:
    """Measure and write benchmarks/results/world_speed.json."""
    torch.set_num_threads(1)
    model = load_world(world)
    horizon, keys = model.spec.horizon, torch.arange(BATCH)
    starts = model.starts(keys)
    actions = (
        torch.rand(BATCH, horizon, model.spec.action.dim, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ) * 0.4

    envs = gymnasium.make_vec("worldsim/World-v0", num_envs=BATCH, world=model)

    def gymnastic() -> None:
        envs.reset(seed=0)
        for t in range(horizon):
            envs.step(np.asarray(actions[:, t]))

    policy = load_ref(policy_refs([])[0])

    def bare() -> None:
        state = model.reset(starts, keys)
        seen, carry = dict(starts), policy.initial(BATCH)
        for t in range(horizon):
            action, carry = policy.act({k: seen[k] for k in policy.needs}, carry, fold(keys, t))
            state, step = model.step(state, action)
            seen = observe(model, step, frozenset({IMAGE, STATE}))

    slots = tuple(Slot(policy=0, episode=i, start=i, key=i) for i in range(BATCH))
    request = TriageRequest(policies=(Ref(name="policy", digest="p"),), world=Ref(name=world, digest="w"), k=1)
    rollouts = Rollouts(request, loaders=Loaders(world=lambda: model, policy=lambda _: policy))
    batch = Batch(id="0" * 64, kind="world", block="speed", slots=slots, width=BATCH)
    calls: dict[str, Callable[[], object]] = {**stepping(model), "gymnastic": gymnastic, "bare": bare}
    other = load_world(also) if also else None
    if other is not None:
        assert isinstance(other, LearnedWorld)
        calls |= {f"also {name}": call for name, call in stepping(other).items()}
    seconds = core_seconds({**calls, "triage": lambda: rollouts.run(batch, {})})
    figures = [
        Figure(name=f"{what} per core-second, batch 64", value=count / seconds[call], unit="1/s")
        for what, call, count in counted(horizon)
    ]
    figures += [
        Figure(
            name="Gymnasium over the bare world's step and decode",
            value=seconds["gymnastic"] / (seconds["encoded"] + seconds["decoded"]) - 1,
        ),
        Figure(name="Gymnasium overhead at batch 1, %", value=overhead_at_one(model), unit="%"),
        Figure(
            name="triage over bare world, decode and policy",
            value=seconds["triage"] / seconds["bare"] - 1,
        ),
        Figure(name="triage rollouts per core-second", value=BATCH / seconds["triage"], unit="1/s"),
    ]
    figures += [] if other is None else also_figures(other, seconds)
    write(
        "world_speed", figures=figures, seeds=[0], details={"core_seconds": seconds, "batch": BATCH, "horizon": horizon}
    )


if __name__ == "__main__":
    run(main)
