"""Anybody's Python function as a policy, and references of the form ``module:name``.

Not for folders of weights: `worldsim.policies.load`.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldsim.core import IMAGE, STATE, TRUE_STATE, Observation
from worldsim.errors import InvalidInputError, PolicyError, WorldsimError, unknown_name
from worldsim.policies.checks import checked_action, require
from worldsim.protocols import Policy

ArrayFunction = Callable[[Mapping[str, NDArray[np.generic]]], ArrayLike]
"""Observation arrays by LeRobot key, each [n, ...] -> actions [n, A] in physical units."""


class FunctionPolicy:
    """A plain callable as a policy.

    The callable gets copies of the observation as NumPy arrays with leading n (images uint8 [n, H, W, 3]) and returns
    actions [n, A]. It must be a function of what it gets: memory or a random generator inside it is shared by all
    episodes, and then nothing can promise that an episode repeats. Write a `worldsim.protocols.Policy` for that.

    Args:
        function: The callable. Its attribute `needs`, if it has one, names the keys it reads.
        name: For messages; the function's own name if empty.
        needs: Keys it reads; overrides the attribute. By default IMAGE and STATE.

    Raises:
        InvalidInputError: It cannot be called, or a key does not exist.
    """

    def __init__(self, function: ArrayFunction, *, name: str = "", needs: Iterable[str] | None = None) -> None:
        if not callable(function):
            raise InvalidInputError(f"FunctionPolicy needs a callable; got {type(function).__name__}.")
        self.function = function
        self.name = name or getattr(function, "__qualname__", type(function).__name__)
        wanted = getattr(function, "needs", (IMAGE, STATE)) if needs is None else needs
        self._needs = frozenset([wanted] if isinstance(wanted, str) else wanted)
        for key in self._needs - {IMAGE, STATE, TRUE_STATE}:
            raise unknown_name(f"observation key of {self.name}", str(key), [IMAGE, STATE, TRUE_STATE])

    @property
    def needs(self) -> frozenset[str]:
        """The keys the function reads."""
        return self._needs

    def initial(self, n: int) -> None:
        """A function has no memory: the carry is None."""

    def act(self, observation: Observation, carry: None, keys: Tensor) -> tuple[Tensor, None]:
        """Call the function; see `worldsim.protocols.Policy.act`.

        Raises:
            PolicyError: The function raised, or did not return finite actions [n, A]; the message names it.
        """
        require(observation, self._needs, policy=self.name)
        arrays = {key: observation[key].detach().cpu().numpy().copy() for key in sorted(self._needs)}
        try:
            given = self.function(arrays)
        except Exception as error:
            raise PolicyError(f"Policy {self.name} raised {type(error).__name__}: {error}") from error
        return checked_action(given, policy=self.name, n=keys.shape[0]), None


def is_function_ref(ref: str) -> bool:
    """Whether `ref` reads as ``package.module:name`` or ``path/to/file.py:name``, and is no existing path."""
    module, _, name = ref.rpartition(":")
    plain = module.endswith(".py") or all(part.isidentifier() for part in module.split("."))
    return bool(module) and plain and name.isidentifier() and not Path(ref).exists()


def load_function(ref: str) -> Policy:
    """Import a policy from code.

    What the name denotes may be a Policy, a function or class that needs no arguments and returns a Policy, or a
    plain callable from observation arrays to actions (then a `FunctionPolicy` is put around it).

    Args:
        ref: ``package.module:name`` (also looked for in the working directory) or ``path/to/file.py:name``.

    Raises:
        InvalidInputError: The module or file does not exist, or the name is none of the above.
        UnknownNameError: The module has no such name; the closest is named.
        PolicyError: The module or the factory raised.
    """
    place, _, name = ref.rpartition(":")
    module = _module(place, ref)
    if not hasattr(module, name):
        raise unknown_name(f"name in {place}", name, [n for n in vars(module) if not n.startswith("_")])
    value = getattr(module, name)
    if not inspect.isclass(value) and isinstance(value, Policy):
        return value
    if not callable(value):
        raise InvalidInputError(
            f"{ref} is a {type(value).__name__}; expected a policy, a factory of one, or a callable from observation "
            "arrays to actions."
        )
    if _required(value) == 0:
        made = _guarded(value, ref)
        if not isinstance(made, Policy):
            raise InvalidInputError(
                f"{ref} takes no argument and returned a {type(made).__name__}, which is no policy (needs, initial, "
                "act). A callable that is to be used as a policy itself takes the observation as its one argument."
            )
        return made
    if inspect.isclass(value):
        raise InvalidInputError(
            f"{ref} is a class that needs arguments. Name a function without arguments that builds it."
        )
    return FunctionPolicy(value, name=ref)


def function_digest(ref: str) -> str:
    """Digest of the file that defines ``module:name`` together with the name; other files it reads do not count.

    Raises:
        InvalidInputError: The module or file does not exist.
    """
    place, _, name = ref.rpartition(":")
    file = _file(place, ref) if place.endswith(".py") else Path(_module(place, ref).__file__ or "")
    source = file.read_bytes() if file.is_file() else place.encode()
    return hashlib.sha256(name.encode() + b"\0" + source).hexdigest()


def _module(place: str, ref: str) -> ModuleType:
    """Import a module by name or by file."""
    if place.endswith(".py"):
        file = _file(place, ref)
        unique = hashlib.sha256(str(file).encode()).hexdigest()[:8]
        spec = importlib.util.spec_from_file_location(f"worldsim_user_{unique}_{file.stem}", file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickling by workers look a module up by its name
        _guarded(functools.partial(spec.loader.exec_module, module), ref)
        return module
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())  # at the end: nothing installed is shadowed
    if _find(place) is None:
        raise InvalidInputError(f"{ref} names the module {place!r}, which is neither installed nor in {os.getcwd()}.")
    module = _guarded(lambda: importlib.import_module(place), ref)
    return module


def _file(place: str, ref: str) -> Path:
    """A Python file that exists."""
    file = Path(place).expanduser().resolve()
    if not file.is_file():
        raise InvalidInputError(f"{ref} names the file {file}, which does not exist.")
    return file


def _find(place: str) -> object | None:
    """Whether a module can be found; a missing parent package counts as not found."""
    try:
        return importlib.util.find_spec(place)
    except (ModuleNotFoundError, ValueError):
        return None


def _guarded[T](call: Callable[[], T], ref: str) -> T:
    """Run a user's code; what it raises becomes a PolicyError that names the reference."""
    try:
        return call()
    except WorldsimError:
        raise
    except Exception as error:
        raise PolicyError(f"Policy {ref} could not be loaded: {type(error).__name__}: {error}") from error


def _required(function: Callable[..., object]) -> int:
    """How many arguments a callable cannot be called without; 1 where Python cannot tell."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return sum(p.default is inspect.Parameter.empty and p.kind not in optional for p in parameters)
