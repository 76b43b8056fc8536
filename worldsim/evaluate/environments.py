"""Environments and worlds by name: what users type becomes a Gymnasium environment."""

import atexit
import contextlib
import ctypes.util
import os
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator

from worldsim.data.collect.env_calls import env_call, package_of
from worldsim.envs.episodes import require_startable
from worldsim.envs.world import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInputError, MissingExtraError, UnknownNameError, unknown_name
from worldsim.protocols import Startable
from worldsim.user_code import import_name, import_place, is_code_ref
from worldsim.worlds import load_world

ALIASES = {"push": "worldsim/Push-v0"}


class MakeEnv:
    """Makes an environment; picklable.

    Args:
        name: An alias, a registered Gymnasium id, ``module:id`` for an id that a module registers, ``module:function``
            or ``file.py:function`` for a function that makes one. The last three are imported.
        imports: Modules or files to import first, because they register environments.

    Raises:
        UnknownNameError: No such id; the closest are named.
        InvalidInputError: A module or function cannot be imported.
        MissingExtraError: A module needs another one that is not installed.
    """

    def __init__(self, name: str, *, imports: Sequence[str] = ()) -> None:
        self.name, self.imports = ALIASES.get(name, name), tuple(imports)
        self._find()

    def __call__(self) -> gymnasium.Env[Any, Any]:
        """Make one; of a registered id with frames, if it can draw.

        Raises:
            MissingExtraError: It lacks a library; the message says how to install it.
            EnvError: It raised while it was made.
            InvalidInputError: Gymnasium refuses to make it, or the function made something else.
        """
        found = self._find()
        with env_call(self.name, "while it was made"):
            made = found() if callable(found) else _made(found)
        if not isinstance(made, gymnasium.Env):
            raise InvalidInputError(f"{self.name} made a {type(made).__name__}; expected a gymnasium.Env.")
        atexit.register(_close, weakref.ref(made))
        return made

    def _find(self) -> Any:
        """The function that makes it, or its registered id."""
        prefer_offscreen()
        for place in self.imports:
            self._import(place, place)
        if self.name in gymnasium.registry:
            return self.name
        if is_code_ref(self.name):
            with env_call(self.name, "while it was imported"):
                found = import_name(self.name)
            if not callable(found):
                raise InvalidInputError(
                    f"{self.name} is a {type(found).__name__}; expected a function that makes an environment."
                )
            return found
        module, _, identity = self.name.rpartition(":")
        if module and all(part.isidentifier() for part in module.split(".")):
            self._import(module, self.name)
        else:
            identity = self.name
        if identity not in gymnasium.registry:
            raise _unknown(self.name, identity)
        return identity

    @staticmethod
    def _import(place: str, ref: str) -> None:
        """Import a module, which registers its environments."""
        with env_call(ref, "while it was imported"):
            try:
                import_place(place, ref=ref)
            except InvalidInputError as error:
                if (package := package_of(place)) is None:
                    raise
                raise MissingExtraError(f"{ref} needs the module {place}: pip install {package}") from error


def _close(env: weakref.ref[gymnasium.Env[Any, Any]]) -> None:
    """Close an environment that is still there when the process ends, while what it draws with is still loaded."""
    found = env()
    if found is not None:
        with contextlib.suppress(Exception):
            found.close()


def prefer_offscreen() -> None:
    """Choose how MuJoCo draws where there is no screen and the user chose nothing: EGL, else OSMesa, if installed.

    Without this MuJoCo tries the screen, and a second try ends the process.
    """
    has_screen = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    if sys.platform != "linux" or has_screen or os.environ.get("MUJOCO_GL"):
        return
    import mujoco  # noqa: F401  # reads the variable when it is imported, and needs none for what worldsim draws itself

    for library, choice in (("EGL", "egl"), ("OSMesa", "osmesa")):
        if ctypes.util.find_library(library):
            os.environ["MUJOCO_GL"] = choice
            return


def _made(identity: str) -> gymnasium.Env[Any, Any]:
    """The environment of a registered id, drawing frames if it can."""
    modes = getattr(gymnasium.spec(identity), "additional_wrappers", None)
    try:
        return gymnasium.make(identity, render_mode="rgb_array") if modes is not None else gymnasium.make(identity)
    except TypeError:
        return gymnasium.make(identity)


def _unknown(name: str, identity: str) -> UnknownNameError:
    """The error for an id that is not registered; it says how ids of other packages are named."""
    error = unknown_name("environment", identity, [*ALIASES, *gymnasium.registry])
    package = identity.partition("/")[0] if "/" in identity else "PACKAGE"
    if ":" in name:
        return UnknownNameError(f"{error} The module of {name!r} was imported and registers no such environment.")
    return UnknownNameError(
        f"{error} If a package registers it, name the package: {package}:{identity}, or --import {package}."
    )


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
