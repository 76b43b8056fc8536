"""Mixtures of behaviours that act while data is collected, by name; failures are part of them.

A task that worldsim knows gets pushes of every kind on top of what needs no knowledge of the task.
"""

import numpy as np

from worldsim.actions import ActionSpec
from worldsim.data.collect.env_adapter import EnvAdapter, EnvView
from worldsim.data.collect.goal_exploration import varied_behaviours
from worldsim.data.collect.random_exploration import Behaviour, Hold, Switching, Wander
from worldsim.errors import unknown_name
from worldsim.evaluate.environments import ALIASES, MakeEnv
from worldsim.policies.degraded import Degradation, DegradedPolicy
from worldsim.policies.scripted import PushExpert, PushExpertConfig

MIXTURES = ("auto", "push", "demonstrations", "general")
VARIANTS = 60
"""Differently parametrised behaviours in a mixture."""


def push_behaviours(action: ActionSpec, *, seed: int = 0) -> tuple[Behaviour, ...]:
    """Behaviours of the pushing task, drawn once from `seed`.

    Scripted pushes to the goal and to random places, through the centre and beside it (which turns the block), at
    several speeds, corrupted by noise, gain, rotation and offset; and a tenth of what needs no knowledge of the task.
    """
    generator = np.random.default_rng(seed)
    made = []
    for i in range(VARIANTS):
        name = ("to_goal", "wander", "turn")[int(np.searchsorted([0.35, 0.75], generator.random()))]
        spread = {"to_goal": 0.0, "wander": 0.22, "turn": 0.12}[name]
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
    return (*made, *general_behaviours(action, weight=VARIANTS / 30))


def push_demonstrations(action: ActionSpec) -> tuple[Behaviour, ...]:
    """The expert at work, undisturbed and disturbed, for cloning: disturbances teach how to recover."""
    made = []
    for noise, memory in ((0.0, 0.0), (0.2, 0.0), (0.35, 0.6), (0.5, 0.8)):
        how = Degradation(noise=noise, noise_memory=memory)
        made.append(
            Behaviour(name=f"expert_noise_{noise:g}", policy=DegradedPolicy(PushExpert(), action=action, how=how))
        )
    return tuple(made)


def general_behaviours(action: ActionSpec, *, weight: float = 1.0) -> tuple[Behaviour, ...]:
    """Noise alone: wandering, holding, and switching between both.

    Args:
        action: Meaning of the actions.
        weight: Share of each, relative to other behaviours.
    """
    wander, hold = Wander(action), Hold(action)
    return (
        Behaviour(name="wander", policy=wander, weight=weight),
        Behaviour(name="hold", policy=hold, weight=weight),
        Behaviour(name="switch", policy=Switching([wander, hold]), weight=weight),
    )


def named_behaviours(name: str, env: str | MakeEnv, *, cameras: tuple[str, ...] | None = None) -> tuple[Behaviour, ...]:
    """The behaviours of a name.

    Args:
        name: One of `MIXTURES`; ``"auto"`` takes the task's own where worldsim knows it.
        env: The environment they act in, or its name as for `MakeEnv`.
        cameras: Cameras that are recorded; None for all.

    Raises:
        UnknownNameError: No such mixture or environment.
        InvalidInputError: The environment cannot be recorded.
    """
    if name not in MIXTURES:
        raise unknown_name("mixture of behaviours", name, MIXTURES)
    make = MakeEnv(env) if isinstance(env, str) else env
    if name == "auto":
        name = "push" if make.name == ALIASES["push"] else "general"
    trial = make()
    try:
        adapter = EnvAdapter(trial, EnvView(cameras=cameras))
        if name == "demonstrations":
            return push_demonstrations(adapter.action)
        if name == "push":
            return push_behaviours(adapter.action)
        return varied_behaviours(adapter.action, camera=adapter.main_camera())
    finally:
        trial.close()
