"""Small sources for the tests of `worldsim.reason`: the shipped push task, filmed once per process."""

from functools import cache

import torch
from torch import Tensor

from worldsim.core import SIMULATOR, TRUE_STATE, Observation
from worldsim.envs.push.env import PushEnv
from worldsim.envs.simulator import SimulatorWorld
from worldsim.evaluate.behaviours import push_behaviours
from worldsim.policies.scripted import PushExpert
from worldsim.protocols import Policy, World
from worldsim.reason.items.footage import Footage
from worldsim.reason.items.sources import JoinedSource, VideoList, split
from worldsim.reason.items.video import Kind, Provenance, Video, layout_of
from worldsim.rollout import Actor, play
from worldsim.worlds import load_world
from worldsim.worlds.latent import LatentWorld


def record_videos(
    world: World, policy: Policy, starts: Observation, keys: Tensor, *, name: str = "policy", steps: int | None = None
) -> VideoList:
    """Play a policy in a world: one video per key, of T + 1 frames; keys are the seeds in the provenance."""
    kind: Kind = "simulator" if SIMULATOR in world.spec.observes else "dream"
    actor = Actor(name=name, policy=policy, rows=torch.arange(len(keys)))
    played = play(world, [actor], starts, keys, steps=steps, stream=0x9EA5).played()
    first_true = starts.get(TRUE_STATE)
    videos = []
    for row, seed in enumerate(keys.tolist()):
        true_state = None
        if played.true_state is not None and first_true is not None:
            true_state = torch.cat([first_true[row : row + 1].cpu().float(), played.true_state[row]])
        success = played.success[row, 1:]
        videos.append(
            Video(
                frames=played.frames[world.spec.camera().key][row],
                provenance=Provenance(
                    kind=kind, episode=str(row), seed=seed, policy=name, rate_hz=world.spec.action.rate_hz
                ),
                action=played.action[row],
                proprio=played.proprio[row],
                true_state=true_state,
                progress=played.progress[row],
                layout=layout_of("worldsim/Push-v0"),
                success=float(success.max() if world.spec.success_at == "any" else success[-1]),
            )
        )
    return VideoList(videos)


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
def filmed(each: int = 14) -> VideoList:
    """Videos of the simulator: `each` of every policy; each seed is met by two policies."""
    videos = []
    for number, (name, policy) in enumerate(policies().items()):
        seeds = torch.arange(each) + 1000 * (number // 2)
        part = record_videos(simulator(), policy, simulator().starts(seeds), seeds, name=name)
        videos += [part.video(i) for i in range(len(part))]
    return VideoList(videos)


@cache
def dreamt(count: int = 12) -> VideoList:
    """Videos of the shipped world's dreams."""
    seeds = torch.arange(count)
    policy = PushExpert()
    world = dreamer()
    return record_videos(world, _Blind(policy), world.starts(seeds), seeds, name="blind", steps=30)


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
    train, held = split(JoinedSource([VideoList([filmed().video(i) for i in range(12)]), dreamt()]), share=0.5)
    return Footage(train, size=32), Footage(held, size=32)
