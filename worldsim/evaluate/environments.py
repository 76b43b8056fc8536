"""Environments and worlds by name: what users type becomes a Gymnasium environment."""

from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from worldsim.envs.episodes import require_startable
from worldsim.envs.world import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInputError, WorldsimError, unknown_name
from worldsim.protocols import Startable
from worldsim.user_code import import_name, import_place, is_code_ref
from worldsim.worlds import load_world

ALIASES = {"push": "worldsim/Push-v0"}


class MakeEnv:
    """Makes an environment; picklable.

    Args:
        name: An alias, a registered Gymnasium id, ``module:id`` for an id that a module registers, ``module:function``
            or ``file.py:function`` for a function that makes one. The last three are imported.

    Raises:
        UnknownNameError: No such id; the closest is named.
        InvalidInputError: The module or function cannot be imported.
    """

    def __init__(self, name: str) -> None:
        self.name = ALIASES.get(name, name)
        self._find()

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make one; of a registered id with frames, if it can draw."""
        found = self._find()
        if callable(found):
            made: gymnasium.Env[Any, Any] = found()
            return made
        modes = getattr(gymnasium.spec(found), "additional_wrappers", None)
        try:
            return gymnasium.make(found, render_mode="rgb_array") if modes is not None else gymnasium.make(found)
        except TypeError:
            return gymnasium.make(found)

    def _find(self) -> Any:
        """The function that makes it, or its registered id."""
        if self.name in gymnasium.registry:
            return self.name
        try:
            if is_code_ref(self.name):
                return import_name(self.name)
            module, _, identity = self.name.rpartition(":")
            if not module or not all(part.isidentifier() for part in module.split(".")):
                raise unknown_name("environment", self.name, [*ALIASES, *gymnasium.registry])
            import_place(module, ref=self.name)
        except WorldsimError:
            raise
        except ImportError as error:
            raise InvalidInputError(
                f"{self.name!r} could not be imported ({error}). Give module:function, importable from here."
            ) from error
        if identity not in gymnasium.registry:
            raise unknown_name("environment", self.name, [*ALIASES, *gymnasium.registry])
        return identity


def make_world(world: Startable | str | Path) -> Startable:
    """The world itself, or the one in a folder or shipped under a name.

    Raises:
        UnknownNameError: No such folder or name.
        StorageError: The folder is corrupt.
        InvalidInputError: What was given is no world, or has no starts.
    """
    return require_startable(load_world(world) if isinstance(world, str | Path) else world)


def make_world_env(world: Startable | str | Path, **options: Any) -> WorldEnv:
    """What ``gymnasium.make("worldsim/World-v0", world=...)`` calls; options as for `WorldEnv`."""
    return WorldEnv(make_world(world), **options)


def make_world_vector_env(num_envs: int = 1, *, world: Startable | str | Path, **options: Any) -> WorldVectorEnv:
    """What ``gymnasium.make_vec("worldsim/World-v0", world=...)`` calls; options as for `WorldVectorEnv`."""
    return WorldVectorEnv(num_envs, world=make_world(world), **options)


def frame_extent(task_id: str) -> tuple[float, float, float, float] | None:
    """Where the edges of a task's frame lie in the plane in which its agent's position is measured.

    Environments tell it in their metadata, as ``frame_extent_m``.

    Args:
        task_id: A Gymnasium id; only a registered one is looked at.

    Returns:
        Left, right, bottom and top edge, m; None where the environment does not tell.
    """
    if task_id not in gymnasium.registry:
        return None
    entry = gymnasium.registry[task_id].entry_point
    creator = load_env_creator(entry) if isinstance(entry, str) else entry
    extent = getattr(creator, "metadata", {}).get("frame_extent_m")
    return None if extent is None else tuple(extent)
