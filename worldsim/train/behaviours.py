"""Who acts while data is collected: mixtures of behaviours by task, failures included.

A task worldsim knows gets pushes of every kind on top of what needs no knowledge of the task. Wires policies to data;
the behaviours themselves are in `worldsim.policies` and `worldsim.data.behaviours`.
"""

import dataclasses

import numpy as np

from worldsim.actions import ActionSpec
from worldsim.policies.degrade import Degradation, DegradedPolicy
from worldsim.policies.scripted import PushExpert, PushExpertConfig
from worldsim.protocols import Policy

VARIANTS = 60
"""Differently parametrised behaviours in a mixture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Behaviour:
    """One member of a mixture."""

    name: str
    policy: Policy


def push_behaviours(action: ActionSpec, *, seed: int = 0) -> tuple[Behaviour, ...]:
    """Behaviours of the pushing task, drawn once from `seed`, each as likely as the other.

    Scripted pushes to the goal and to random places, through the centre and beside it (which turns the block), at
    several speeds, corrupted by noise, gain, rotation and offset; and slow random wandering around the block.
    """
    generator = np.random.default_rng(seed)
    kinds = (("to_goal", 0.0, 0.35), ("wander", 0.22, 0.4), ("turn", 0.12, 0.25))
    made = []
    for i in range(VARIANTS):
        draw = generator.random()
        name, spread, _ = kinds[0] if draw < 0.35 else kinds[1] if draw < 0.75 else kinds[2]
        config = PushExpertConfig(
            goal_spread_m=spread,
            offset_m=float(generator.uniform(0.02, 0.05)) if name == "turn" else float(generator.uniform(0, 0.03)),
            speed_m_s=float(generator.uniform(0.15, 0.4)),
            clear_m=float(generator.uniform(0.095, 0.13)),
            lane_m=float(generator.uniform(0.015, 0.04)),
        )
        how = Degradation(
            rotation_rad=float(generator.normal(0, 0.15)),
            gain=float(generator.uniform(0.7, 1.2)),
            offset=tuple(float(v) for v in generator.normal(0, 0.06, action.dim)),
            random=float(generator.choice([0.0, 0.0, 0.1, 0.25])),
            noise=float(generator.choice([0.0, 0.1, 0.25, 0.5])),
            noise_memory=float(generator.choice([0.0, 0.6, 0.9])),
            salt=i,
        )
        made.append(Behaviour(name=f"{name}_{i}", policy=DegradedPolicy(PushExpert(config), action=action, how=how)))
    return tuple(made)
