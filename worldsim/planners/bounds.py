"""Where actions may lie: a box in the planner's own space, checked once, that every candidate is kept inside.

The planner's space is whatever the cost function reads. For a world that is physical units, straight from its
`ActionSpec`; for a model that reads standardised actions it is `Bounds.scaled`, so that the box is never applied in the
wrong space.

Shape legend: A action width.
"""

import dataclasses
import functools
from typing import Any, Self

import torch
from torch import Tensor

from worldsim.actions import LARGEST, ActionSpec
from worldsim.errors import InvalidInputError


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A box of actions.

    Attributes:
        low: [A], finite.
        high: [A], finite, above `low`.

    Raises:
        InvalidInputError: A limit is not finite or beyond `worldsim.actions.LARGEST`, low is not below high, or the two
            differ in shape.
    """

    low: Tensor
    high: Tensor

    def __post_init__(self) -> None:
        low, high = self.low, self.high
        if low.ndim != 1 or low.shape != high.shape or not low.is_floating_point():
            raise InvalidInputError(
                f"Bounds are two float vectors [A]; got {low.dtype} {tuple(low.shape)} and {tuple(high.shape)}."
            )
        if not bool(((low.abs() <= LARGEST) & (high.abs() <= LARGEST)).all()):
            raise InvalidInputError(
                f"Bounds must be finite, at most {LARGEST:g}; got low={low.tolist()}, high={high.tolist()}. A planner "
                "samples all of the box: give the range that the robot may use."
            )
        if not bool((low < high).all()):
            raise InvalidInputError(f"Bounds are crossed or empty: low={low.tolist()} must be below {high.tolist()}.")

    @classmethod
    def of(cls, value: Any) -> "Bounds":
        """Read bounds from what people have at hand.

        Args:
            value: Bounds; an ActionSpec; a Gymnasium Box [A]; or a pair (low, high) of sequences, arrays or tensors.

        Raises:
            InvalidInputError: None of these, or not a proper box.
        """
        if isinstance(value, Bounds):
            return value
        if isinstance(value, ActionSpec) or (hasattr(value, "low") and hasattr(value, "high")):
            value = (value.low, value.high)
        try:
            low, high = (torch.atleast_1d(_floats(v)) for v in value)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(
                f"Bounds are an ActionSpec, a Box or a pair (low, high); got {value!r}. {error}"
            ) from error
        return cls(low, high)

    @classmethod
    def categorical(cls, choices: int) -> "Bounds":
        """The box of one-hot actions over `choices` options, for the categorical rule."""
        if choices < 2:
            raise InvalidInputError(f"A choice needs at least 2 options; got {choices}.")
        return cls(torch.zeros(choices), torch.ones(choices))

    @property
    def dim(self) -> int:
        """Action width A."""
        return self.low.shape[0]

    @functools.cached_property
    def half(self) -> Tensor:
        """Half the range of each dimension, [A]."""
        return (self.high - self.low) / 2

    @property
    def centre(self) -> Tensor:
        """Middle of each dimension, [A]."""
        return (self.high + self.low) / 2

    def clip(self, action: Tensor) -> Tensor:
        """Nearest actions inside the box, [..., A]."""
        return torch.clamp(action, self.low, self.high)

    def scaled(self, mean: Any, std: Any) -> "Bounds":
        """The same box for a model that reads standardised actions, (action - mean) / std.

        Args:
            mean: [A], the scaler's offset.
            std: [A], the scaler's scale; negative values turn the box around.

        Raises:
            InvalidInputError: A scale of zero, or a width that does not fit.
        """
        offset, scale = _floats(mean).to(self.low), _floats(std).to(self.low)
        if (offset + scale).shape != self.low.shape or not bool((scale != 0).all()):
            raise InvalidInputError(f"A scaler for {self.dim} dimensions has none that is zero; got std={std!r}.")
        one, other = (self.low - offset) / scale, (self.high - offset) / scale
        return Bounds(torch.minimum(one, other), torch.maximum(one, other))

    def block(self, count: int) -> "Bounds":
        """Bounds of `count` distinct actions side by side, [count * A], for models that take a block per step."""
        if count < 1:
            raise InvalidInputError(f"An action block holds at least one action; got {count}.")
        return Bounds(self.low.repeat(count), self.high.repeat(count))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """The same box on another device or in another float type, as `torch.Tensor.to`."""
        return dataclasses.replace(self, low=self.low.to(*args, **kwargs), high=self.high.to(*args, **kwargs))


def _floats(value: Any) -> Tensor:
    """A float tensor; integers become float32."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.float()
