"""worldsim: rank robot policy checkpoints, and plan robot actions, inside learned world models.

Importing this package is cheap: it registers Gymnasium ids as strings and loads neither torch nor any extra.
"""

import contextlib
import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "ActionSpec": "worldsim.actions",
    "Observation": "worldsim.core",
    "Policy": "worldsim.protocols",
    "Rollout": "worldsim.core",
    "Verdict": "worldsim.core",
    "World": "worldsim.protocols",
    "WorldSpec": "worldsim.core",
    "WorldState": "worldsim.core",
    "WorldStep": "worldsim.core",
    "WorldsimError": "worldsim.errors",
    "load_policy": "worldsim.evaluate.policies",
    "load_world": "worldsim.worlds",
    "make_world": "worldsim.evaluate.environments",
}
__all__ = [*_PUBLIC, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'worldsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _register() -> None:
    """Tell Gymnasium our ids; a machine that only trains may lack it."""
    import gymnasium

    gymnasium.register(
        id="worldsim/Push-v0",
        entry_point="worldsim.envs.push.env:PushEnv",
        vector_entry_point="worldsim.envs.push.env:PushVectorEnv",
        max_episode_steps=50,
    )
    gymnasium.register(
        id="worldsim/World-v0",
        entry_point="worldsim.evaluate.environments:make_world_env",
        vector_entry_point="worldsim.evaluate.environments:make_world_vector_env",
    )


with contextlib.suppress(ModuleNotFoundError):
    _register()
