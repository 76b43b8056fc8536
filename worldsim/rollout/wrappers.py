"""Worlds that differ from another one in one respect: borrowed starts, frames seen through a codec, a shorter horizon.

Each is a `Startable` like the one inside.
"""

import dataclasses
from collections.abc import Callable

from torch import Tensor

from worldsim.core import IMAGE, Observation, Rollout, WorldSpec, WorldState, WorldStep
from worldsim.errors import InvalidInputError
from worldsim.protocols import Startable, World, require_drawable

RoundTrip = Callable[[Tensor], Tensor]
"""Encodes and decodes frames: uint8 [B, H, W, 3] -> uint8 [B, H, W, 3]."""
_ORIGINAL = "roundtrip.original_image"


class WrappedWorld:
    """A world that passes everything on."""

    def __init__(self, world: Startable) -> None:
        """Wrap `world`."""
        self._world = world

    @property
    def spec(self) -> WorldSpec:
        """See `World.spec`."""
        return self._world.spec

    @property
    def num_starts(self) -> int:
        """See `Startable.num_starts`."""
        return self._world.num_starts

    def starts(self, indices: Tensor) -> Observation:
        """See `Startable.starts`."""
        return self._world.starts(indices)

    def reset(self, starts: Observation, keys: Tensor) -> WorldState:
        """See `World.reset`."""
        return self._world.reset(starts, keys)

    def step(self, state: WorldState, action: Tensor) -> tuple[WorldState, WorldStep]:
        """See `World.step`."""
        return self._world.step(state, action)

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[WorldState, Rollout]:
        """See `World.rollout`."""
        return self._world.rollout(state, actions)

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """See `Drawable.decode`."""
        return require_drawable(self._world).decode(latent, camera)


class BorrowedStarts(WrappedWorld):
    """A world that begins where another one begins, so that the two can be paired episode by episode."""

    def __init__(self, world: World, *, lender: Startable) -> None:
        """Wrap `world`; its starts come from `lender`."""
        super().__init__(world)  # type: ignore[arg-type]  # its own starts, if it has any, are never asked for
        self._lender = lender

    @property
    def num_starts(self) -> int:
        """Starts of the lender."""
        return self._lender.num_starts

    def starts(self, indices: Tensor) -> Observation:
        """First observations of the lender; see `Startable.starts`."""
        return self._lender.starts(indices)


class RoundTripWorld(WrappedWorld):
    """A world whose frames go through a codec before policies see them; what happens in it stays the same.

    In the simulator it asks one question: what do policies lose by seeing the world model's pictures?
    """

    def __init__(self, world: Startable, *, roundtrip: RoundTrip) -> None:
        """Wrap `world`; frames pass through `roundtrip`."""
        super().__init__(world)
        self._roundtrip = roundtrip

    def starts(self, indices: Tensor) -> Observation:
        """First observations [B, ...], their frames passed through the codec; the original stays with them for `reset`."""
        first = dict(self._world.starts(indices))
        if IMAGE in first:
            first[_ORIGINAL] = first[IMAGE]
            first[IMAGE] = self._seen(first[IMAGE])
        return first

    def reset(self, starts: Observation, keys: Tensor) -> WorldState:
        """Begin from the original frames; see `World.reset`."""
        first = {name: value for name, value in starts.items() if name != _ORIGINAL}
        if _ORIGINAL in starts:
            first[IMAGE] = starts[_ORIGINAL]
        return self._world.reset(first, keys)

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """Draw frames and pass them through the codec; see `Drawable.decode`."""
        return self._seen(require_drawable(self._world).decode(latent, camera))

    def _seen(self, frames: Tensor) -> Tensor:
        seen = self._roundtrip(frames.flatten(0, -4)).reshape_as(frames)
        if seen.dtype != frames.dtype:
            raise InvalidInputError(f"A round trip must return frames of {frames.dtype}; got {seen.dtype}.")
        return seen


class ShortWorld(WrappedWorld):
    """The first few steps of a world."""

    def __init__(self, world: Startable, *, horizon: int) -> None:
        """Wrap `world`; episodes end after `horizon` steps."""
        super().__init__(world)
        self._horizon = horizon

    @property
    def spec(self) -> WorldSpec:
        """The same, with the shorter horizon."""
        return dataclasses.replace(self._world.spec, horizon=self._horizon)
