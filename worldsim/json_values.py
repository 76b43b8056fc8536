"""JSON values of other people: parsed with a limit on depth, turned into dataclasses with every type and range checked."""

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInputError, StorageError, unknown_name
from worldsim.text import shorten

MAX_JSON_DEPTH = 64
_MAX_INTEGER = 2**63


def parse_json(data: bytes | str, *, source: object) -> Any:
    """Parse JSON that somebody else may have written.

    Args:
        data: UTF-8 text.
        source: Where it comes from, for messages.

    Raises:
        StorageError: Not JSON, or nested deeper than `MAX_JSON_DEPTH`.
    """
    try:
        value = json.loads(data)
        deep = _deeper_than(value, MAX_JSON_DEPTH)
    except RecursionError:
        deep = True
    except ValueError as error:
        raise StorageError(f"{source} is not valid JSON ({error}). Restore it, or make it again.") from error
    if deep:
        raise StorageError(f"{source} nests more than {MAX_JSON_DEPTH} levels deep. Check where it comes from.")
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    """Whether JSON values nest deeper than so many levels."""
    level = [value]
    for _ in range(depth):
        inner = [list(v.values()) if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)]
        level = [v for values in inner for v in values]
        if not level:
            return False
    return True


def to_json(value: Any) -> Any:
    """Turn dataclasses, tuples, paths and mappings into JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def from_json[T](cls: type[T], value: Any) -> T:
    """Rebuild a dataclass from JSON values, strictly.

    Raises:
        InvalidInputError: `value` is not a mapping, or a field is missing.
        UnknownNameError: A key is not a field; the closest field is named.
    """
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"{cls.__name__} needs a mapping; got {type(value).__name__}.")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise unknown_name(f"field of {cls.__name__}", str(key), fields)
    try:
        return cls(**{k: _named(k, hints[k], v, cls) for k, v in value.items()})
    except TypeError as error:
        raise InvalidInputError(f"{cls.__name__} could not be built: {error}.") from error


def _named(name: str, hint: Any, value: Any, cls: type) -> Any:
    """Coerce one field; a value of the wrong type is reported with the field's name."""
    try:
        return _coerce(hint, value)
    except InvalidInputError as error:
        raise InvalidInputError(f"{cls.__name__}.{name}: {error}") from error


def _coerce(hint: Any, value: Any) -> Any:
    """Check a JSON value against a type, and give lists back their tuple type and mappings their dataclass."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_json(hint, value)
    if origin in (typing.Union, types.UnionType):
        return _coerce_union([h for h in inner if h is not type(None)], value)
    if origin is typing.Literal:
        if value not in inner:
            raise InvalidInputError(f"Expected one of {', '.join(map(repr, inner))}; got {shown(value)}.")
        return value
    if origin is tuple:
        return _coerce_tuple(inner, value)
    if origin is list:
        return list(_coerce_tuple((*inner, Ellipsis), value))
    if origin is dict:
        return _coerce_dict(inner, value)
    if hint in (int, float, str, bool):
        return _coerce_scalar(hint, value)
    if hint is Path and not isinstance(value, str | Path):
        raise InvalidInputError(f"Expected a path; got {shown(value)}.")
    return Path(value) if hint is Path else value


def _coerce_union(hints: list[Any], value: Any) -> Any:
    """A value of an optional type, or of the first of several that takes it."""
    if value is None:
        return None
    for hint in hints[:-1]:
        with suppress(InvalidInputError):
            return _coerce(hint, value)
    return _coerce(hints[-1], value)


def _coerce_tuple(inner: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """A list as a tuple of the hinted types and length."""
    if not isinstance(value, list | tuple):
        raise InvalidInputError(f"Expected a list; got {shown(value)}.")
    if inner and inner[-1] is Ellipsis:
        return tuple(_coerce(inner[0], v) for v in value)
    if len(inner) != len(value):
        raise InvalidInputError(f"Expected a list of {len(inner)}; got {shown(value)}.")
    return tuple(_coerce(h, v) for h, v in zip(inner, value, strict=True))


def _coerce_dict(inner: tuple[Any, ...], value: Any) -> dict[Any, Any]:
    """A mapping whose keys and values are of the hinted types."""
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"Expected a mapping; got {shown(value)}.")
    return {_coerce(inner[0], k): _coerce(inner[1], v) for k, v in value.items()}


def _coerce_scalar(hint: Any, value: Any) -> Any:
    """A number, text or truth value; integers pass as float, true and false never as numbers."""
    kinds = int | float if hint is float else hint
    if not isinstance(value, kinds) or (hint is not bool and isinstance(value, bool)):
        raise InvalidInputError(f"Expected {hint.__name__}; got {shown(value)}.")
    largest = _MAX_INTEGER if isinstance(value, int) else sys.float_info.max
    if not isinstance(value, str) and not abs(value) <= largest:  # NaN compares false
        raise InvalidInputError(f"Expected a finite number; got {shown(value)}.")
    return float(value) if hint is float else value


def shown(value: object) -> str:
    """A value as messages show it, cut short."""
    return shorten(repr(value), width=80)
