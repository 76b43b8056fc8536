"""Small sources for the tests of `worldsim.reason`: the shipped push task, filmed once per process."""

from functools import cache

import torch

from worldsim.envs.push.env import PushEnv
from worldsim.envs.simulator import SimulatorWorld
from worldsim.evaluate.behaviours import push_behaviours
from worldsim.policies.scripted import PushExpert
from worldsim.protocols import Policy
from worldsim.reason.footage import Footage
from worldsim.reason.rolled import rolled
from worldsim.reason.sources import Joined, Listed
from worldsim.reason.split import split
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld


@cache
def simulator() -> SimulatorWorld:
    return SimulatorWorld(PushEnv("all"), horizon=40)


@cache
def dreamer() -> LatentWorld:
    world = load_world("push")
    assert isinstance(world, LatentWorld)
    return world


@cache
def policies() -> dict[str, Policy]:
    """What the push task's own data is collected with: good and bad ones, towards the goal and elsewhere; an expert."""
    behaviours = push_behaviours(simulator().spec.action)
    return {"expert": PushExpert()} | {b.name: b.policy for b in (*behaviours[:14:2], *behaviours[-3:-1])}


@cache
def filmed(each: int = 14) -> Listed:
    """Videos of the simulator: `each` of every policy; each seed is met by two policies."""
    videos = []
    for number, (name, policy) in enumerate(policies().items()):
        seeds = torch.arange(each) + 1000 * (number // 2)
        part = rolled(simulator(), policy, simulator().starts(seeds), seeds, name=name)
        videos += [part.video(i) for i in range(len(part))]
    return Listed(videos)


@cache
def dreamt(count: int = 12) -> Listed:
    """Videos of the shipped world's dreams."""
    seeds = torch.arange(count)
    policy = PushExpert()
    world = dreamer()
    return rolled(world, _Blind(policy), world.starts(seeds), seeds, name="blind", steps=30)


class _Blind:
    """The expert on a guess of where the block is, for worlds that do not tell: it drives about."""

    needs = frozenset({"observation.state"})

    def __init__(self, expert: PushExpert) -> None:
        self._expert = expert

    def initial(self, n: int) -> object:
        return self._expert.initial(n)

    def act(self, observation, carry, keys):  # type: ignore[no-untyped-def]
        guess = torch.tensor([[0.05, 0.02, 1.0, 0.0]]).expand(len(keys), -1)
        seen = {**observation, "observation.environment_state": guess}
        return self._expert.act(seen, carry, keys)


@cache
def footage(size: int = 32) -> tuple[Footage, Footage]:
    """Training and held-out footage of the simulator."""
    train, held = split(filmed(), by="seed", share=0.5)
    known = Footage(train, size=size)
    return known, Footage(held, size=size, limits=known.limits)


@cache
def mixed_footage() -> tuple[Footage, Footage]:
    """Real and dreamed videos."""
    train, held = split(Joined([Listed([filmed().video(i) for i in range(12)]), dreamt()]), share=0.5)
    return Footage(train, size=32), Footage(held, size=32)
