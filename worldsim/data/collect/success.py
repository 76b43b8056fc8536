"""Rules that say when a task is solved, for environments that do not tell: ``info.coverage > 0.95`` or a function.

The text of a rule is taken apart, never evaluated.
"""

import dataclasses
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np

from worldsim.errors import InvalidInputError
from worldsim.user_code import import_name, is_code_ref

NAMES = ("is_success", "success")
"""Entries of info that say by themselves whether the task stands solved."""
HELP = (
    "an entry of info or of the observation, or the reward, compared with a number, as in 'info.coverage > 0.95', "
    "'observation.achieved_goal.2 >= 0.5' or 'reward == 1'; or module:function of (observation, info, reward)"
)
_RULE = re.compile(r"(info|observation|reward)((?:\.[^\s.<>=!()]+)*)(?:\s*(>=|<=|==|!=|>|<)\s*(\S+))?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_COMPARED: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


class SuccessRule(Protocol):
    """Says whether the task stands solved."""

    @property
    def text(self) -> str:
        """As the user wrote it."""

    @property
    def reads_reward(self) -> bool:
        """Whether it must be given the reward."""

    def __call__(self, observation: Any, info: Mapping[str, Any], reward: float) -> float:
        """1 or 0, or nan where it cannot be said.

        Args:
            observation: As the environment gave it.
            info: Likewise.
            reward: What the last step paid; nan before the first.
        """


def success_rule(text: str) -> SuccessRule:
    """Read a rule.

    Args:
        text: See `HELP`. A name without a comparison is solved where it is true. The function is imported.

    Raises:
        InvalidInputError: It reads as no rule, or the function cannot be imported.
        UnknownNameError: The module has no such function.
    """
    if is_code_ref(text):
        _function(text)
        return FunctionRule(text=text)
    found = _RULE.fullmatch(text.strip())
    number = None if found is None or found[4] is None else _number(found[4])
    unnamed = found is not None and not found[2] and (found[1] == "info" or found[3] is None)
    if found is None or unnamed or (found[4] is not None and number is None):
        raise InvalidInputError(f"{text!r} is no success rule. It is {HELP}.")
    if found[1] == "reward" and found[2]:
        raise InvalidInputError(f"{text!r}: the reward is one number and has no parts. A success rule is {HELP}.")
    path = tuple(found[2].split(".")[1:])
    if number is None:
        return ComparisonRule(text=text, source=found[1], path=path, comparison=">=", number=0.5)
    return ComparisonRule(text=text, source=found[1], path=path, comparison=found[3], number=number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ComparisonRule:
    """A name, a comparison, a number.

    Attributes:
        text: As the user wrote it.
        source: Where the name is: ``"info"``, ``"observation"`` or ``"reward"``.
        path: Keys and positions that lead to it.
        comparison: One of > >= < <= == !=.
        number: What it is compared with.
    """

    text: str
    source: str
    path: tuple[str, ...]
    comparison: str
    number: float

    @property
    def reads_reward(self) -> bool:
        """Whether it must be given the reward."""
        return self.source == "reward"

    def __call__(self, observation: Any, info: Mapping[str, Any], reward: float) -> float:
        """1 or 0, or nan where there is no such entry; see `SuccessRule`.

        Raises:
            InvalidInputError: The entry is not one number.
        """
        value: Any = {"info": info, "observation": observation, "reward": reward}[self.source]
        for key in self.path:
            value = _entry(value, key)
        number = one_number(value, name=self.text)
        return math.nan if math.isnan(number) else float(_COMPARED[self.comparison](number, self.number))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FunctionRule:
    """A function of (observation, info, reward), imported in the process that asks it.

    Attributes:
        text: ``module:function``.
    """

    text: str
    reads_reward: bool = True

    def __call__(self, observation: Any, info: Mapping[str, Any], reward: float) -> float:
        """What the function says, as 1, 0 or nan for None; see `SuccessRule`.

        Raises:
            InvalidInputError: It raised, or returned something else.
        """
        try:
            said = _function(self.text)(observation, info, reward)
        except Exception as error:
            raise InvalidInputError(f"The success rule {self.text} raised {type(error).__name__}: {error}") from error
        return truth(said, name=self.text)


def reported_success(info: Mapping[str, Any]) -> float:
    """1 or 0, as info itself says it; nan where it says nothing."""
    for name in NAMES:
        if info.get(name) is not None:
            return truth(info[name], name=f"info.{name}")
    return math.nan


def truth(value: Any, *, name: str) -> float:
    """1 or 0 for a value that is true or false, or a number from one half on; nan for None and nan.

    Raises:
        InvalidInputError: It is not one value.
    """
    number = one_number(value, name=name)
    return number if math.isnan(number) else float(number >= 0.5)


def one_number(value: Any, *, name: str) -> float:
    """A number, truth value or array of one of them as a float; nan for None.

    Raises:
        InvalidInputError: It is something else.
    """
    if value is None:
        return math.nan
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "fiub":
        shown = f"an array of shape {array.shape}" if array.size != 1 else repr(value)[:80]
        raise InvalidInputError(
            f"{name} must be one number or truth value; got {shown}. Name what counts with a success rule: {HELP}."
        )
    return float(array.reshape(()))


def entry_names(value: Any, prefix: str) -> list[str]:
    """What rules can name within a value, for messages."""
    if isinstance(value, Mapping):
        return [name for key, inner in value.items() for name in entry_names(inner, f"{prefix}.{key}")]
    return [prefix]


@cache
def _function(ref: str) -> Callable[[Any, Mapping[str, Any], float], Any]:
    """The function that a reference names."""
    found = import_name(ref)
    if not callable(found):
        raise InvalidInputError(f"{ref} is no function. A success rule is {HELP}.")
    return found


def _entry(value: Any, key: str) -> Any:
    """What a value holds under a key or at a position; None where it holds nothing there."""
    if isinstance(value, Mapping):
        return value.get(key)
    position = int(key) if key.isdecimal() else -1
    inside = isinstance(value, Sequence | np.ndarray) and np.ndim(value) and 0 <= position < len(value)
    return value[position] if inside else None


def _number(text: str) -> float | None:
    """A finite number, or true or false; None for anything else."""
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None
