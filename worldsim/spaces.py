"""Gymnasium's action spaces as an ActionSpec, and actions from one form to the other, exactly.

`action_spec` reads a space, `action_space` gives it back, and `to_env` and `from_env` translate single actions:
Box of any shape and number type, Discrete, MultiDiscrete, MultiBinary, and Dict and Tuple of these, nested at will.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from worldsim.actions import LARGEST, ActionPart, ActionSpec, Kind
from worldsim.arrays import Float32s, Float64s
from worldsim.errors import InvalidInputError

Path = tuple[str | int, ...]
EnvAction = Any
"""An action in the environment's own form: what `env.action_space.sample()` gives."""
_RATE_HZ = 10.0
"""Assumed where an environment does not give its `render_fps`."""
_KINDS: dict[type[spaces.Space[Any]], Kind] = {
    spaces.Box: "box",
    spaces.Discrete: "discrete",
    spaces.MultiDiscrete: "multi_discrete",
    spaces.MultiBinary: "multi_binary",
}
_REFUSED: dict[type[spaces.Space[Any]], str] = {
    spaces.Text: "text has no fixed number of numbers",
    spaces.Graph: "a graph has no fixed number of nodes",
    spaces.Sequence: "a sequence has no fixed length",
    spaces.OneOf: "which of several spaces an action is from cannot be said in one flat vector",
}


def action_spec(
    space: spaces.Space[Any],
    *,
    rate_hz: float,
    low: float | Sequence[float] | None = None,
    high: float | Sequence[float] | None = None,
) -> ActionSpec:
    """Read an action space.

    Args:
        space: Box, Discrete, MultiDiscrete, MultiBinary, or Dict or Tuple of these.
        rate_hz: Control rate.
        low: Lower limit, one or A of them, where the space has none that is usable (infinity, 3.4e38); limits that the
            space has are only narrowed.
        high: Upper limit, likewise.

    Raises:
        InvalidInputError: A space that no vector of numbers can hold, or limits that are none.
    """
    leaves = list(_leaves(space, ()))
    parts = _parts(leaves)
    limits = [_limits(leaf) for _, leaf in leaves]
    lowest, highest = (np.concatenate([pair[i] for pair in limits]) for i in (0, 1))
    names = _names(parts)
    if low is not None:
        lowest = np.maximum(lowest, _spread(low, len(names), "low"))
    if high is not None:
        highest = np.minimum(highest, _spread(high, len(names), "high"))
    wide = [i for i in range(len(names)) if not max(abs(lowest[i]), abs(highest[i])) <= LARGEST]
    if wide:
        raise InvalidInputError(
            f"Action {names[wide[0]]!r} has limits [{lowest[wide[0]]:g}, {highest[wide[0]]:g}], which are no limits "
            f"({len(wide)} of {len(names)} numbers are so). Give the range that the robot really uses: low= and high= of "
            "worldsim.spaces.action_spec make an ActionSpec, which goes in as action= or as the environment's action_spec."
        )
    return ActionSpec(
        names=names,
        units=("unknown",) * len(names),
        low=tuple(lowest.tolist()),
        high=tuple(highest.tolist()),
        rate_hz=rate_hz,
        parts=parts,
    )


def action_spec_of(env: gymnasium.Env[Any, Any]) -> ActionSpec:
    """The environment's own `action_spec`, or one made from its action space and `render_fps`.

    Its own is used only while no wrapper changes what an action means.

    Raises:
        InvalidInputError: As `action_spec` and `fit_spec`.
    """
    inner = env.unwrapped
    own = getattr(inner, "action_spec", None)
    changed = any(isinstance(w, gymnasium.ActionWrapper) for w in wrappers_of(env))
    if isinstance(own, ActionSpec) and not changed and env.action_space == inner.action_space:
        return fit_spec(own, env.action_space)
    return action_spec(env.action_space, rate_hz=float((inner.metadata or {}).get("render_fps") or _RATE_HZ))


def wrappers_of(env: gymnasium.Env[Any, Any]) -> list[gymnasium.Wrapper[Any, Any, Any, Any]]:
    """The wrappers around an environment, outermost first."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(env)
        env = env.env
    return found


def action_space(spec: ActionSpec) -> spaces.Space[Any]:
    """The space that a spec describes; the original one where the spec was read from a space."""
    leaves, at = [], 0
    for path, parts, size, shape in _boxes(spec):
        leaves.append((path, _leaf(parts[0], shape, spec.low[at : at + size], spec.high[at : at + size])))
        at += size
    return _nest(leaves, as_dict=spaces.Dict, as_tuple=spaces.Tuple)  # type: ignore[no-any-return]


def fit_spec(spec: ActionSpec, space: spaces.Space[Any]) -> ActionSpec:
    """The spec with the structure and number types of a space that it describes.

    Args:
        spec: Names, units and limits of the numbers; if it is of one plain part [A], it may describe any space of A
            numbers. Limits of continuous numbers may differ from the space's.
        space: What the environment takes.

    Raises:
        InvalidInputError: They differ in structure, kind, shape or choices.
    """
    leaves = list(_leaves(space, ()))
    given = tuple(_part(leaf, path) for path, leaf in leaves)
    own = [(path, parts[0].kind, shape) for path, parts, _, shape in _boxes(spec)]
    if own == [(p.path, p.kind, p.shape) for p in given]:
        like = {p.path: p for p in given}
        parts = tuple(dataclasses.replace(p, dtype=like[p.path].dtype, start=like[p.path].start) for p in spec.parts)
    elif own == [((), "box", (sum(p.size for p in given),))] and len(spec.parts) == 1:
        parts = _parts(leaves)
    else:
        raise InvalidInputError(f"The environment takes actions of {space}; the ActionSpec is of {action_space(spec)}.")
    high = np.concatenate([_limits(leaf)[1] for _, leaf in leaves])
    wrong = [
        i for i, n in enumerate(p.is_discrete for p in parts for _ in range(p.size)) if n and high[i] != spec.high[i]
    ]
    if wrong:
        raise InvalidInputError(
            f"The environment has {int(high[wrong[0]]) + 1} choices of action {spec.names[wrong[0]]!r}; the ActionSpec's "
            f"limits are [{spec.low[wrong[0]]:g}, {spec.high[wrong[0]]:g}], expected [0, {high[wrong[0]]:g}]."
        )
    return spec if parts == spec.parts else dataclasses.replace(spec, parts=parts)


def to_env(spec: ActionSpec, action_A: Tensor | Float32s) -> EnvAction:
    """One action in the environment's form.

    Args:
        spec: What the numbers mean.
        action_A: Finite, within the limits; as `ActionSpec.check` returns it.

    Returns:
        Arrays and numbers of the space's own types, in Dicts and Tuples where the space is structured.
    """
    flat = np.asarray(action_A, np.float32)
    low, high = np.asarray(spec.low), np.asarray(spec.high)
    leaves, at = [], 0
    for path, parts, size, shape in _boxes(spec):
        own = slice(at, at + size)
        leaves.append((path, _env_value(parts[0], shape, flat[own], low[own], high[own])))
        at += size
    return _nest(leaves)


def from_env(spec: ActionSpec, action: EnvAction, lead: tuple[int, ...] = ()) -> Float32s:
    """An action in the environment's form as float32 [*lead, A].

    Args:
        spec: What the numbers mean.
        action: Arrays and numbers with leading axes `lead`, structured as the space is. Continuous values beyond the
            limits are kept, for `ActionSpec.check` to clip.
        lead: Leading axes, of several environments or several steps.

    Raises:
        InvalidInputError: A part is missing or of the wrong shape, or a choice is none of those there are.
    """
    pieces, at = [], 0
    for path, parts, size, shape in _boxes(spec):
        value = _at(action, path)
        name = parts[0].name
        read = _index if parts[0].is_discrete else _number
        array = read(parts[0], value)
        if array.shape != (*lead, *shape):
            raise InvalidInputError(f"Action {name!r} has shape {array.shape}; expected {(*lead, *shape)}.")
        array = array.reshape(*lead, size)
        if parts[0].is_discrete and not ((array >= 0) & (array <= np.asarray(spec.high[at : at + size]))).all():
            raise InvalidInputError(f"Action {name!r} is {value}; it is none of the choices of {action_space(spec)}.")
        pieces.append(array.astype(np.float32, copy=False))
        at += size
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-1)


def _boxes(spec: ActionSpec) -> Iterator[tuple[Path, list[ActionPart], int, tuple[int, ...]]]:
    """Path, parts, size and shape of every simple space that the parts of a spec are in."""
    for path, group in groupby(spec.parts, key=lambda p: p.path):
        parts = list(group)
        size = sum(p.size for p in parts)
        yield path, parts, size, parts[0].shape if len(parts) == 1 else (size,)


def _leaves(space: spaces.Space[Any], path: Path) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    """The simple spaces within a space, in order, and where they are."""
    if isinstance(space, spaces.Dict | spaces.Tuple):
        entries: list[tuple[Any, spaces.Space[Any]]] = list(
            space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
        )
        if not entries or (isinstance(space, spaces.Dict) and not all(isinstance(k, str) for k, _ in entries)):
            raise InvalidInputError(f"Actions in a Dict are named by texts, and there is at least one; got {space}.")
        for key, inner in entries:
            yield from _leaves(inner, (*path, key))
        return
    _kind(space)
    yield path, space


def _kind(space: spaces.Space[Any]) -> Kind:
    """What a simple space is, or why it cannot be served."""
    for known, kind in _KINDS.items():
        if isinstance(space, known):
            return kind
    reason = next((why for cls, why in _REFUSED.items() if isinstance(space, cls)), "it is of a class of its own")
    raise InvalidInputError(
        f"Actions of {space} cannot be served: {reason}. Served are Box, Discrete, MultiDiscrete, MultiBinary, and Dict "
        "and Tuple of them; wrap the environment in a gymnasium.ActionWrapper that takes one of these."
    )


def _parts(leaves: Sequence[tuple[Path, spaces.Space[Any]]]) -> tuple[ActionPart, ...]:
    """The parts that simple spaces are, with different names."""
    parts = [_part(leaf, path) for path, leaf in leaves]
    names = _different(p.name for p in parts)
    return tuple(dataclasses.replace(p, name=name) for p, name in zip(parts, names, strict=True))


def _part(space: spaces.Space[Any], path: Path) -> ActionPart:
    """The part that a simple space is."""
    start: NDArray[Any] = np.zeros(0, np.int64)
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        start = np.asarray(space.start).ravel()
    return ActionPart(
        name="/".join(map(str, path)) or "action",
        shape=space.shape or (),
        kind=_kind(space),
        dtype=str(np.dtype(space.dtype)),
        start=tuple(start.tolist()) if start.any() else (),
        path=path,
    )


def _limits(space: spaces.Space[Any]) -> tuple[Float64s, Float64s]:
    """Lowest and highest number of each dimension, [A] each."""
    if isinstance(space, spaces.Box):
        return space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    if isinstance(space, spaces.Discrete):
        high = np.array([space.n - 1], np.float64)
    elif isinstance(space, spaces.MultiDiscrete):
        high = space.nvec.ravel().astype(np.float64) - 1
    else:
        high = np.ones(math.prod(space.shape or ()))
    return np.zeros_like(high), high


def _leaf(part: ActionPart, shape: tuple[int, ...], low: Sequence[float], high: Sequence[float]) -> spaces.Space[Any]:
    """The simple space that a part came from."""
    kind: Any = np.dtype(part.dtype).type
    if part.kind == "box":
        return spaces.Box(np.array(low, kind).reshape(shape), np.array(high, kind).reshape(shape), shape, kind)
    start = np.array(part.start or np.zeros(part.size), np.int64).reshape(shape)
    count = np.array(high, np.int64).reshape(shape) + 1
    if part.kind == "discrete":
        return spaces.Discrete(int(count), start=int(start), **({} if kind is np.int64 else {"dtype": kind}))
    if part.kind == "multi_discrete":
        return spaces.MultiDiscrete(count, dtype=kind, start=start)
    return spaces.MultiBinary(shape if len(shape) != 1 else shape[0])


def _nest(
    leaves: list[tuple[Path, Any]], as_dict: Callable[[Any], Any] = dict, as_tuple: Callable[[Any], Any] = tuple
) -> Any:
    """Values at paths as one structure."""
    if len(leaves) == 1 and not leaves[0][0]:
        return leaves[0][1]
    entries = [
        (key, _nest([(path[1:], value) for path, value in group], as_dict, as_tuple))
        for key, group in groupby(leaves, key=lambda leaf: leaf[0][0])
    ]
    return as_dict(entries) if isinstance(entries[0][0], str) else as_tuple([value for _, value in entries])


def _at(action: EnvAction, path: Path) -> Any:
    """What a structured action holds at a path."""
    for key in path:
        inside = key in action if isinstance(action, Mapping) else isinstance(key, int) and key < len(action)
        if isinstance(action, Mapping) != isinstance(key, str) or not inside:
            raise InvalidInputError(f"The action lacks {'/'.join(map(str, path))!r}; got {action!r}.")
        action = action[key]
    return action


def _number(part: ActionPart, value: Any) -> NDArray[Any]:
    """Numbers of a box as float32."""
    try:
        return np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"Action {part.name!r} must be numbers; got {value!r}.") from error


def _index(part: ActionPart, value: Any) -> NDArray[Any]:
    """Choices as indices from 0, int64."""
    array = np.asarray(value)
    if array.dtype.kind not in "iub":
        raise InvalidInputError(f"Action {part.name!r} must be whole numbers; got {value!r}.")
    start = np.array(part.start, np.int64).reshape(part.shape) if part.start else 0
    return array.astype(np.int64) - start


def _env_value(part: ActionPart, shape: tuple[int, ...], space_A: Float32s, low: Float64s, high: Float64s) -> Any:
    """Numbers of one simple space in its own type; rounding to that type does not leave its limits."""
    kind = np.dtype(part.dtype)
    if part.kind == "box":
        number = np.rint(space_A) if part.is_integer else space_A
        return np.clip(number.astype(kind), low.astype(kind), high.astype(kind)).reshape(shape)
    index = np.rint(space_A).astype(np.int64)
    value = (index + np.array(part.start, np.int64) if part.start else index).astype(kind).reshape(shape)
    return value[()] if part.kind == "discrete" else value


def _names(parts: Sequence[ActionPart]) -> tuple[str, ...]:
    """One name per dimension, made different where they are not."""
    return _different(p.name if not p.shape else f"{p.name}_{i}" for p in parts for i in range(p.size))


def _different(names: Iterable[str]) -> tuple[str, ...]:
    """The names, with a mark added to those that came before."""
    found: dict[str, None] = {}
    for name in names:
        while name in found:
            name += "'"
        found[name] = None
    return tuple(found)


def _spread(value: float | Sequence[float], size: int, name: str) -> Float64s:
    """One limit, or one per dimension, as [A]."""
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (size,)) or not np.isfinite(array).all():
        raise InvalidInputError(f"{name} must be one finite number or {size} of them; got {value}.")
    return np.broadcast_to(array, (size,))
