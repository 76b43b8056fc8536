"""What an action is: names, units, limits, rate, named parts, normalisation and the idle action.

An action is always one flat float32 vector [..., A] inside worldsim, in physical units, whatever the environment takes:
a continuous dimension holds its value, a discrete one the index of the choice. Two maps leave that form. `normalize`
makes what a network reads, [..., E] with E = `encoded_dim` (one-hot for discrete dimensions), once, at the network's
input; `to_unit` makes numbers in [-1, 1], one per dimension, for what draws or perturbs actions. `worldsim.spaces`
translates to and from Gymnasium's spaces.

Shape legend: A action dimensions, E encoded dimensions, ... any leading axes.
"""

import dataclasses
import math
from functools import lru_cache
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from worldsim.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor, device, dtype

Rotation = Literal["none", "euler_xyz", "axis_angle", "quat_wxyz", "rot6d"]
Kind = Literal["box", "discrete", "multi_discrete", "multi_binary"]

LARGEST = 1e9
"""Limits beyond this stand for "no limit" (3.4e38, 1e39) and are refused: nothing can be drawn or scaled within them."""
LARGEST_INTEGER = 2**24
"""float32 holds every whole number up to here."""
_IDENTITY: dict[str, tuple[float, ...]] = {
    "euler_xyz": (0.0, 0.0, 0.0),
    "axis_angle": (0.0, 0.0, 0.0),
    "quat_wxyz": (1.0, 0.0, 0.0, 0.0),
    "rot6d": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionPart:
    """One named part of an action: consecutive dimensions of the vector that belong together.

    Attributes:
        name: Unique within the spec.
        shape: Its shape in the environment; () for a single number.
        kind: ``"box"`` for numbers, else the Gymnasium space of its choices.
        dtype: Its NumPy type in the environment; a box of an integer type takes whole numbers.
        start: The environment's number for index 0 of each discrete dimension; () means zero.
        rotation: The form of the rotation that the part holds; ``"none"`` where it holds none.
        role: ``"gripper"`` where the part opens and closes a gripper.
        path: Where it is in a structured action: a text per Dict and a number per Tuple; () where the action is not
            structured. Neighbouring parts of one path share one one-dimensional box.

    Raises:
        InvalidInputError: The fields contradict each other.
    """

    name: str
    shape: tuple[int, ...] = ()
    kind: Kind = "box"
    dtype: str = "float32"
    start: tuple[int, ...] = ()
    rotation: Rotation = "none"
    role: Literal["none", "gripper"] = "none"
    path: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("shape", "start", "path"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in ("box", "discrete", "multi_discrete", "multi_binary"):
            raise InvalidInputError(f"Action part {self.name!r} is of kind {self.kind!r}; expected box, discrete, ...")
        if not self.name or any(n < 1 for n in self.shape) or (self.kind == "discrete" and self.shape):
            raise InvalidInputError(f"Action part {self.name!r} of kind {self.kind} cannot have shape {self.shape}.")
        try:
            kinds = "fiub" if self.kind == "box" else "iu"
            fits = np.dtype(self.dtype).kind in kinds
        except TypeError:
            fits = False
        if not fits:
            raise InvalidInputError(f"Action part {self.name!r} of kind {self.kind} cannot be of type {self.dtype!r}.")
        if self.start and (len(self.start) != self.size or self.kind not in ("discrete", "multi_discrete")):
            raise InvalidInputError(f"Action part {self.name!r} has {len(self.start)} starts for {self.size} choices.")
        if self.rotation != "none":
            if self.rotation not in _IDENTITY:
                raise InvalidInputError(f"Unknown rotation form {self.rotation!r}; known: {', '.join(_IDENTITY)}.")
            if self.kind != "box" or self.size != len(_IDENTITY[self.rotation]):
                raise InvalidInputError(
                    f"Action part {self.name!r} has {self.size} numbers; rotation {self.rotation!r} takes "
                    f"{len(_IDENTITY[self.rotation])} numbers of a box."
                )

    @property
    def size(self) -> int:
        """How many dimensions of the vector it takes."""
        return math.prod(self.shape)

    @property
    def is_discrete(self) -> bool:
        """Whether its dimensions hold indices of choices."""
        return self.kind != "box"

    @property
    def is_integer(self) -> bool:
        """Whether its dimensions take whole numbers only: choices, and boxes of an integer type."""
        return self.is_discrete or np.dtype(self.dtype).kind in "iub"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """Meaning of each of the A action dimensions.

    Attributes:
        names: One per dimension, unique.
        units: One per dimension, for example ``"m/s"``.
        low: Lower limit per dimension, finite; 0 for a discrete one.
        high: Upper limit per dimension, finite, above `low`; n - 1 for a discrete one with n choices.
        rate_hz: Control rate.
        parts: What the dimensions are grouped into, in order; by default one part named ``"action"``.
        idle: The action that does nothing; by default the identity for rotations, else zero clipped into the limits.

    Raises:
        InvalidInputError: The fields disagree in length, a limit is not finite or beyond `LARGEST`, low >= high, idle is
            outside, or parts contradict each other.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rate_hz: float
    parts: tuple[ActionPart, ...] = ()
    idle: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("names", "units", "low", "high", "parts", "idle"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.names or len(set(self.names)) != len(self.names):
            raise InvalidInputError(f"ActionSpec.names must be unique and not empty; got {self.names}.")
        if not self.parts:
            object.__setattr__(self, "parts", (ActionPart(name="action", shape=(self.dim,)),))
        if sum(p.size for p in self.parts) != self.dim:
            raise InvalidInputError(f"ActionSpec.parts take {sum(p.size for p in self.parts)} of {self.dim} names.")
        if not self.idle:
            object.__setattr__(self, "idle", self._default_idle())
        for name in ("units", "low", "high", "idle"):
            if len(getattr(self, name)) != self.dim:
                raise InvalidInputError(
                    f"ActionSpec.{name} has {len(getattr(self, name))} values for {self.dim} names."
                )
        _check_limits(self)
        _check_parts(self.parts)
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise InvalidInputError(f"ActionSpec.rate_hz must be positive; got {self.rate_hz}.")

    @property
    def dim(self) -> int:
        """Number of action dimensions A."""
        return len(self.names)

    @property
    def encoded_dim(self) -> int:
        """Width E of what `normalize` makes and networks read; A where nothing is discrete.

        Predictors, heads and policy networks are built with this, not with `dim`.
        """
        return sum(max(1, n) for n in self.choices)

    @property
    def choices(self) -> tuple[int, ...]:
        """Number of choices of each discrete dimension; 0 for a continuous one."""
        return tuple(int(hi) + 1 if p.is_discrete else 0 for p, hi in zip(self._part_of, self.high, strict=True))

    @property
    def grippers(self) -> tuple[bool, ...]:
        """Which dimensions open and close a gripper."""
        return tuple(part.role == "gripper" for part in self._part_of)

    @property
    def _part_of(self) -> tuple[ActionPart, ...]:
        """The part of each dimension."""
        return tuple(part for part in self.parts for _ in range(part.size))

    def _default_idle(self) -> tuple[float, ...]:
        rest = [x for p in self.parts for x in _IDENTITY.get(p.rotation, (0.0,) * p.size)]
        return tuple(min(max(x, lo), hi) for x, lo, hi in zip(rest, self.low, self.high, strict=False))

    def check(self, action: "Tensor") -> "Tensor":
        """Validate actions, round those that take whole numbers, and clip.

        On an accelerator the values are not looked at, since that would wait for the device at every step: NaN and
        infinity are refused where actions enter (`check_finite`), and a NaN that is on the device all the same stays
        NaN.

        Args:
            action: [..., A], physical units.

        Returns:
            float32 [..., A], clipped into the limits.

        Raises:
            InvalidInputError: Wrong width, or, on the CPU, a value that is not finite.
        """
        if action.ndim == 0 or action.shape[-1] != self.dim:
            raise InvalidInputError(
                f"Action of shape {tuple(action.shape)} given, expected [..., {self.dim}] for {', '.join(self.names)}."
            )
        if action.device.type == "cpu":
            self.check_finite(action)
        action = action.float()
        tables = _tables(self, action.device, action.dtype)
        if tables.integer is not None:
            action = action.round().where(tables.integer, action)
        return action.clamp(tables.low, tables.high)

    def check_finite(self, action: "Tensor") -> None:
        """Refuse NaN and infinity in actions [..., A] on any device; waits for the device.

        Raises:
            InvalidInputError: A value is not finite.
        """
        if not bool(action.isfinite().all()):
            raise InvalidInputError(
                "Action holds NaN or infinity; every value must be finite. Check the policy's output."
            )

    def normalize(self, action: "Tensor") -> "Tensor":
        """Encode actions for a network: [..., A] -> [..., E].

        Physical units [low, high] become [-1, 1]; the index of a discrete dimension becomes a one-hot vector in its
        place.
        """
        tables = _tables(self, action.device, action.dtype)
        unit = (action - tables.low) / tables.span * 2 - 1
        if tables.source is None or tables.choice is None:
            return unit
        chosen = (action.round()[..., tables.source] == tables.choice).to(unit.dtype)
        return chosen.where(~tables.choice.isnan(), unit[..., tables.source])

    def denormalize(self, encoded: "Tensor") -> "Tensor":
        """Decode a network's output: [..., E] -> [..., A], the inverse of `normalize`; the greatest entry is chosen."""
        tables = _tables(self, encoded.device, encoded.dtype)
        if tables.source is None:
            return (encoded + 1) / 2 * tables.span + tables.low
        import torch

        pieces = zip(encoded.split([max(1, n) for n in self.choices], dim=-1), self.choices, strict=True)
        value = torch.cat([p.argmax(dim=-1, keepdim=True).to(p.dtype) if n else p for p, n in pieces], dim=-1)
        return value.where(tables.discrete, (value + 1) / 2 * tables.span + tables.low)

    def to_unit(self, action: "Tensor") -> "Tensor":
        """Scale actions to [-1, 1] per dimension, [..., A] -> [..., A]; a whole number becomes the centre of its share."""
        tables = _tables(self, action.device, action.dtype)
        unit = (action - tables.low) / tables.span * 2 - 1
        if tables.integer is None:
            return unit
        return ((action.round() - tables.low + 0.5) / (tables.high - tables.low + 1) * 2 - 1).where(
            tables.integer, unit
        )

    def from_unit(self, unit: "Tensor") -> "Tensor":
        """Scale [-1, 1] per dimension to actions, [..., A] -> [..., A], the inverse of `to_unit`.

        Values uniform in [-1, 1] become actions uniform within the limits, and every whole number or choice equally
        likely.
        """
        tables = _tables(self, unit.device, unit.dtype)
        action = (unit + 1) / 2 * tables.span + tables.low
        if tables.integer is None:
            return action
        number = ((unit + 1) / 2 * (tables.high - tables.low + 1)).floor() + tables.low
        return number.clamp(tables.low, tables.high).where(tables.integer, action)


def _check_limits(spec: ActionSpec) -> None:
    """Every dimension has usable limits, and its idle value lies within them."""
    for part, name, low, high, idle in zip(spec._part_of, spec.names, spec.low, spec.high, spec.idle, strict=True):
        _check_limit(part, name, low, high)
        if not low <= idle <= high:
            raise InvalidInputError(f"Idle value {idle} of action {name!r} is outside [{low}, {high}].")


def _check_limit(part: ActionPart, name: str, low: float, high: float) -> None:
    """Refuse limits within which nothing can be drawn or represented."""
    if part.is_discrete:
        if (
            low != 0
            or high != int(high)
            or not 0 <= high < LARGEST_INTEGER
            or (part.kind == "multi_binary" and high != 1)
        ):
            raise InvalidInputError(f"Discrete action {name!r} has indices 0 to n - 1; got limits [{low}, {high}].")
        return
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InvalidInputError(f"Limits of action {name!r} must be finite with low < high; got [{low}, {high}].")
    if max(abs(low), abs(high)) > LARGEST or not np.float32(low) < np.float32(high):
        raise InvalidInputError(
            f"Limits [{low}, {high}] of action {name!r} are no limits that float32 actions can be drawn and scaled "
            f"within (largest {LARGEST:g}). Give the range that the robot really uses as low= and high=."
        )
    if part.is_integer and (low != int(low) or high != int(high) or max(abs(low), abs(high)) > LARGEST_INTEGER):
        raise InvalidInputError(
            f"Action {name!r} takes whole numbers of type {part.dtype}; limits must be integers within "
            f"+-{LARGEST_INTEGER}, which float32 holds exactly; got [{low}, {high}]. Give narrower limits."
        )


def _check_parts(parts: tuple[ActionPart, ...]) -> None:
    """Names differ; a path is one space; containers are either of texts or numbered from 0."""
    if len({p.name for p in parts}) != len(parts):
        raise InvalidInputError(f"ActionSpec.parts must have different names; got {[p.name for p in parts]}.")
    _check_paths([p.path for p in parts])
    for one, other in pairwise(parts):
        if one.path == other.path and not all(p.kind == "box" and len(p.shape) < 2 for p in (one, other)):
            raise InvalidInputError(f"Parts {one.name!r} and {other.name!r} share a path but are not of one flat box.")
        if one.path == other.path and one.dtype != other.dtype:
            raise InvalidInputError(f"Parts {one.name!r} and {other.name!r} share a box but not its type.")


def _check_paths(paths: list[tuple[str | int, ...]]) -> None:
    """Paths lead through containers whose entries are neighbours: texts of a Dict, or 0, 1, ... of a Tuple."""
    if all(path == () for path in paths):
        return
    heads = [key for key, _ in groupby(path[:1] for path in paths)]
    named = all(key and isinstance(key[0], str) for key in heads) and len(set(heads)) == len(heads)
    if not named and heads != [(i,) for i in range(len(heads))]:
        raise InvalidInputError(
            f"Paths of action parts must name the entries of a Dict, or number those of a Tuple from 0, each once and "
            f"with all its parts side by side; got {paths}."
        )
    for head in heads:
        _check_paths([path[1:] for path in paths if path[:1] == head])


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Tables:
    """A spec's constants on one device."""

    low: "Tensor"  # [A]
    high: "Tensor"  # [A]
    span: "Tensor"  # [A], high - low; 1 for a single choice
    integer: "Tensor | None"  # bool [A], which dimensions are rounded; None where none is
    discrete: "Tensor"  # bool [A]
    source: "Tensor | None"  # int64 [E], the dimension that an encoded one comes from; None where nothing is discrete
    choice: "Tensor | None"  # [E], the index that it stands for; NaN for a continuous one


def _tables(spec: ActionSpec, place: "device", kind: "dtype") -> _Tables:
    """A spec's constants; made once per device and type, so that no step copies them to a device."""
    import torch

    return _make_tables(spec, place, kind) if torch.compiler.is_compiling() else _kept_tables(spec, place, kind)


@lru_cache(maxsize=256)
def _kept_tables(spec: ActionSpec, place: "device", kind: "dtype") -> _Tables:
    import torch

    with torch.inference_mode(False), torch.no_grad():  # what is kept must serve with and without gradients
        return _make_tables(spec, place, kind)


def _make_tables(spec: ActionSpec, place: "device", kind: "dtype") -> _Tables:
    import torch

    low, high = (torch.tensor(x, device=place, dtype=kind) for x in (spec.low, spec.high))
    span = high - low
    integer = [p.is_integer for p in spec._part_of]
    pairs = [(i, c) for i, n in enumerate(spec.choices) for c in (range(n) if n else (math.nan,))]
    discrete = any(spec.choices)
    return _Tables(
        low=low,
        high=high,
        span=torch.where(span == 0, 1, span),
        integer=torch.tensor(integer, device=place) if any(integer) else None,
        discrete=torch.tensor([n > 0 for n in spec.choices], device=place),
        source=torch.tensor([i for i, _ in pairs], device=place) if discrete else None,
        choice=torch.tensor([c for _, c in pairs], device=place, dtype=kind) if discrete else None,
    )
