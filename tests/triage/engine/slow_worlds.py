"""A world and a judge that take their time by a clock of their own, and policies with faults; for other processes."""

import dataclasses

import torch

from benchmarks.toy import ToyWorld, load_toy
from worldsim.core import Verdict
from worldsim.policies.function import FunctionPolicy
from worldsim.triage.engine import rollouts


class Clock:
    """Time that passes only where something says so."""

    now = 0.0

    def perf_counter(self):
        return self.now

    def monotonic(self):
        return self.now


CLOCK = Clock()


@dataclasses.dataclass(frozen=True, kw_only=True)
class TickingWorld(ToyWorld):
    """A step takes a second."""

    def step(self, state, action):
        CLOCK.now += 1
        return super().step(state, action)


def load(*, horizon):
    """A ticking world in a worker that follows its clock."""
    rollouts.time = CLOCK
    return TickingWorld(horizon=horizon)


class SlowJudge:
    """Takes a minute for a batch."""

    def __init__(self, world):
        self.world = world

    def __call__(self, rollout):
        CLOCK.now += 60
        done = rollout.success[:, -1]
        return Verdict(success=done, progress=done, abstain=done > 2, failed_at=torch.full((len(done),), -1))


def load_faulty(ref):
    """Toys, of which one needs a camera that is not there and one does not load."""
    if ref.name == "toy-001":
        return FunctionPolicy(lambda seen: seen["observation.images.wrist"], needs=["observation.images.wrist"])
    if ref.name == "toy-005":
        raise ValueError("bad weights.")
    return load_toy(ref)
