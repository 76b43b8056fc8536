"""Worlds that differ from another one in one respect: borrowed starts, frames seen through a codec, a shorter horizon.

Each is a `Startable` like the one inside.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from worldsim.core import IMAGE, STATE, Observation, Rollout, WorldSpec, WorldState, WorldStep
from worldsim.errors import InvalidInputError
from worldsim.protocols import Startable, World, require_drawable

RoundTrip = Callable[..., Tensor]
"""Encodes and decodes frames: uint8 [B, H, W, 3] -> uint8 [B, H, W, 3]; some read proprioception, proprio=[B, P], too."""
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

    In the simulator it asks one question: what do policies lose by seeing the world model's pictures? A codec that reads
    proprioception gets that of the same moment: latents, from which frames are drawn, then hold it too.
    """

    def __init__(self, world: Startable, *, roundtrip: RoundTrip, reads_proprio: bool = False) -> None:
        """Wrap `world`; frames pass through `roundtrip`, which is given proprioception where it reads that."""
        super().__init__(world)
        self._roundtrip, self._reads_proprio = roundtrip, reads_proprio

    @property
    def spec(self) -> WorldSpec:
        """The same; latents hold proprioception where the codec reads it."""
        spec = self._world.spec
        if not self._reads_proprio:
            return spec
        channels, height, width = spec.latent_shape
        return dataclasses.replace(spec, latent_shape=(channels + spec.proprio_dim, height, width))

    def starts(self, indices: Tensor) -> Observation:
        """First observations [B, ...], their frames passed through the codec; the original stays with them for `reset`."""
        first = dict(self._world.starts(indices))
        if IMAGE in first:
            first[_ORIGINAL] = first[IMAGE]
            first[IMAGE] = self._seen(first[IMAGE], first[STATE])
        return first

    def reset(self, starts: Observation, keys: Tensor) -> WorldState:
        """Begin from the original frames; see `World.reset`."""
        first = {name: value for name, value in starts.items() if name != _ORIGINAL}
        if _ORIGINAL in starts:
            first[IMAGE] = starts[_ORIGINAL]
        return self._world.reset(first, keys)

    def step(self, state: WorldState, action: Tensor) -> tuple[WorldState, WorldStep]:
        """See `World.step`."""
        after, step = self._world.step(state, action)
        return after, dataclasses.replace(step, latent=self._joined(step.latent, step.proprio))

    def rollout(self, state: WorldState, actions: Tensor) -> tuple[WorldState, Rollout]:
        """See `World.rollout`."""
        after, rollout = self._world.rollout(state, actions)
        return after, dataclasses.replace(rollout, latent=self._joined(rollout.latent, rollout.proprio))

    def decode(self, latent: Tensor, camera: str | None = None) -> Tensor:
        """Draw frames and pass them through the codec; see `Drawable.decode`."""
        inner, proprio = latent, None
        if self._reads_proprio:
            inner, body = latent.split([self._world.spec.latent_shape[0], self._world.spec.proprio_dim], -3)
            proprio = body[..., 0, 0].float()
        return self._seen(require_drawable(self._world).decode(inner, camera), proprio)

    def _joined(self, latent: Tensor, proprio: Tensor) -> Tensor:
        """Latents [..., c, h, w], with proprioception [..., P] behind their channels where the codec reads it."""
        if not self._reads_proprio:
            return latent
        body = proprio.to(latent)[..., None, None].expand(*proprio.shape, *latent.shape[-2:])
        return torch.cat([latent, body], -3)

    def _seen(self, frames: Tensor, proprio: Tensor | None) -> Tensor:
        flat = frames.flatten(0, -4)
        if self._reads_proprio and proprio is not None:
            seen = self._roundtrip(flat, proprio=proprio.flatten(0, -2))
        else:
            seen = self._roundtrip(flat)
        if seen.dtype != frames.dtype:
            raise InvalidInputError(f"A round trip must return frames of {frames.dtype}; got {seen.dtype}.")
        return seen.reshape_as(frames)


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
