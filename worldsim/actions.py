"""What an action is: names, units, limits, rate, rotation form, normaliser and idle value, checked on construction.

Actions travel in physical units everywhere; `normalize` is called once, at a predictor's or policy network's door.
Torch is imported only inside the functions that need tensors' shapes, through the tensor's own methods.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Literal

from worldsim.errors import InvalidInputError

if TYPE_CHECKING:
    from torch import Tensor

Rotation = Literal["none", "euler_xyz", "axis_angle", "quat_wxyz", "rot6d"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActionSpec:
    """Meaning of each of the A action dimensions.

    Attributes:
        names: One per dimension, unique.
        units: One per dimension, for example ``"m/s"``.
        low: Lower limit per dimension, finite.
        high: Upper limit per dimension, finite, above `low`.
        rate_hz: Control rate.
        rotation: How rotations among the dimensions are written, ``"none"`` where there are none.
        idle: The action that does nothing; defaults to zero clipped into the limits.

    Raises:
        InvalidInputError: The fields disagree in length, a limit is not finite, low >= high, or idle is outside.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    rate_hz: float
    rotation: Rotation = "none"
    idle: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("names", "units", "low", "high", "idle"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.names or len(set(self.names)) != len(self.names):
            raise InvalidInputError(f"ActionSpec.names must be unique and not empty; got {self.names}.")
        if not self.idle:
            rest = tuple(min(max(0.0, lo), hi) for lo, hi in zip(self.low, self.high, strict=False))
            object.__setattr__(self, "idle", rest)
        for name in ("units", "low", "high", "idle"):
            if len(getattr(self, name)) != self.dim:
                raise InvalidInputError(
                    f"ActionSpec.{name} has {len(getattr(self, name))} values for {self.dim} names."
                )
        for name, lo, hi, rest_value in zip(self.names, self.low, self.high, self.idle, strict=True):
            if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
                raise InvalidInputError(f"Limits of action {name!r} must be finite with low < high; got [{lo}, {hi}].")
            if not lo <= rest_value <= hi:
                raise InvalidInputError(f"Idle value {rest_value} of action {name!r} is outside [{lo}, {hi}].")
        if not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise InvalidInputError(f"ActionSpec.rate_hz must be positive; got {self.rate_hz}.")

    @property
    def dim(self) -> int:
        """Number of action dimensions A."""
        return len(self.names)

    def check(self, action: "Tensor") -> "Tensor":
        """Validate and clip actions.

        Args:
            action: [..., A], physical units.

        Returns:
            float32 [..., A], clipped into the limits.

        Raises:
            InvalidInputError: Wrong width, or a value that is not finite.
        """
        if action.ndim == 0 or action.shape[-1] != self.dim:
            raise InvalidInputError(
                f"Action of shape {tuple(action.shape)} given, expected [..., {self.dim}] for {', '.join(self.names)}."
            )
        if not bool(action.isfinite().all()):
            raise InvalidInputError(
                "Action holds NaN or infinity; every value must be finite. Check the policy's output."
            )
        return action.float().clamp(action.new_tensor(self.low).float(), action.new_tensor(self.high).float())

    def normalize(self, action: "Tensor") -> "Tensor":
        """Map physical units [low, high] to [-1, 1], per dimension."""
        low, high = action.new_tensor(self.low), action.new_tensor(self.high)
        return (action - low) / (high - low) * 2 - 1

    def denormalize(self, unit: "Tensor") -> "Tensor":
        """Map [-1, 1] back to physical units, the inverse of `normalize`."""
        low, high = unit.new_tensor(self.low), unit.new_tensor(self.high)
        return (unit + 1) / 2 * (high - low) + low
