"""A Python function as a policy, and references of the form ``module:name``."""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from worldsim.core import IMAGE, IMAGES, STATE, TASK, TRUE_STATE, Observation, is_image, row_texts
from worldsim.errors import InvalidInputError, PolicyError, WorldsimError, unknown_name
from worldsim.policies.checks import checked_action, require
from worldsim.protocols import Policy
from worldsim.user_code import import_name, source_file

ArrayFunction = Callable[[Mapping[str, NDArray[np.generic]]], ArrayLike]
"""Observation arrays by LeRobot key, each [n, ...] -> actions [n, A] in physical units."""


class FunctionPolicy:
    """A plain callable as a policy.

    The callable gets copies of the observation as NumPy arrays with leading n (images uint8 [n, H, W, 3], the task as texts
    [n]) and returns actions [n, A]. It must be a function of what it gets: memory or a random generator inside it is shared by all
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
        known = [IMAGE, f"{IMAGES}NAME", STATE, TRUE_STATE, TASK]
        for key in self._needs - {STATE, TRUE_STATE, TASK}:
            if not is_image(str(key)):
                raise unknown_name(f"observation key of {self.name}", str(key), known)

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
        arrays: dict[str, NDArray[np.generic]] = {
            key: np.array(row_texts(value)) if key == TASK else value.detach().cpu().numpy().copy()
            for key, value in ((key, observation[key]) for key in sorted(self._needs))
        }
        try:
            given = self.function(arrays)
        except Exception as error:
            raise PolicyError(f"Policy {self.name} raised {type(error).__name__}: {error}") from error
        return checked_action(given, policy=self.name, n=keys.shape[0]), None


def load_function(ref: str) -> Policy:
    """Import a policy from code.

    What the name denotes may be a Policy, a function or class that needs no arguments and returns a Policy, or a
    plain callable from observation arrays to actions (then a `FunctionPolicy` is put around it).

    Args:
        ref: ``package.module:name`` (also looked for in the working folder) or ``path/to/file.py:name``.

    Raises:
        InvalidInputError: The module or file does not exist, or the name is none of the above.
        UnknownNameError: The module has no such name; the closest is named.
        PolicyError: The module or the factory raised.
    """
    value = _guarded(lambda: import_name(ref), ref)
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
    file = _guarded(lambda: source_file(ref), ref)
    source = place.encode() if file is None else file.read_bytes()
    return hashlib.sha256(name.encode() + b"\0" + source).hexdigest()


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
