"""Several cameras as one latent: each has a tokenizer of its own, and their latents stand side by side in the channels.

Cameras may have any sizes; grids of different sizes are padded with zeros to the largest.

Shape legend: B batch, C channels, T time, H W pixels or latent cells.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInputError
from worldsim.tokenizers.base import (
    LatentFamily,
    LatentSpace,
    Layered,
    Placed,
    ProprioTokenizer,
    Tokenizer,
    Tracker,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CamerasConfig:
    """What each camera is encoded by.

    Attributes:
        keys: Observation key of each camera, the main camera first.
        names: Registered name of each camera's tokenizer; `configs` their configs as JSON values.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    configs: tuple[dict[str, Any], ...]


class CamerasTokenizer(nn.Module):
    """Tokenizers of several cameras behind one latent."""

    def __init__(self, config: CamerasConfig, parts: Sequence[LatentSpace]) -> None:
        """Join tokenizers, one for each of `config.keys`.

        Raises:
            InvalidInputError: There are not as many as cameras, or they compress time differently.
        """
        super().__init__()
        strides = {part.temporal_stride for part in parts}
        if len(parts) != len(config.keys) or len(strides) != 1:
            raise InvalidInputError(
                f"{len(config.keys)} cameras need as many tokenizers of one temporal stride; got {len(parts)} of {strides}."
            )
        self.config = config
        self.parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))

    @property
    def family(self) -> LatentFamily:
        """That of all cameras where they agree, else a grid."""
        families = {part.family for part in self.tokenizers}
        return families.pop() if len(families) == 1 else "grid"

    @property
    def orders(self) -> tuple[int, ...]:
        """Rotational symmetry of the layers of all cameras."""
        return tuple(order for part in self.tokenizers if isinstance(part, Layered) for order in part.orders)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent frame."""
        return self.tokenizers[0].temporal_stride

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(c, h, w): channels of all cameras, on the largest grid."""
        shapes = [part.latent_shape for part in self.tokenizers]
        return (sum(s[0] for s in shapes), max(s[1] for s in shapes), max(s[2] for s in shapes))

    @property
    def tokenizers(self) -> list[Tokenizer | ProprioTokenizer]:
        """The tokenizer of each camera, in the order of `config.keys`."""
        return [part for part in self.parts if isinstance(part, Tokenizer | ProprioTokenizer)]

    def encode_cameras(self, frames: Mapping[str, Tensor], proprio_BTP: Tensor | None = None) -> Tensor:
        """Frames [B, 3, T, H, W] in [-1, 1] by camera key -> latents [B, c, T', h, w]; errors as `encode_frames`."""
        _, height, width = self.latent_shape
        latents = []
        for key, part in zip(self.config.keys, self.tokenizers, strict=True):
            z_BCTHW = encode_frame(part, frames[key], proprio_BTP)
            latents.append(F.pad(z_BCTHW, (0, width - z_BCTHW.shape[-1], 0, height - z_BCTHW.shape[-2])))
        return torch.cat(latents, dim=1)

    def decode_camera(self, z_BCTHW: Tensor, key: str) -> Tensor:
        """Latents [B, c, T', h, w] -> frames of one camera [B, 3, T, H, W], about [-1, 1]."""
        first = 0
        for name, part in zip(self.config.keys, self.tokenizers, strict=True):
            channels, height, width = part.latent_shape
            if name == key:
                return part.decode(z_BCTHW[:, first : first + channels, :, :height, :width])
            first += channels
        raise InvalidInputError(f"There is no camera {key!r} among {', '.join(self.config.keys)}.")


def encode_frames(tokenizer: LatentSpace, frames: Mapping[str, Tensor], proprio_BTP: Tensor | None = None) -> Tensor:
    """Frames [B, 3, T, H, W] in [-1, 1] by camera key -> latents [B, c, T', h, w], by one tokenizer or several.

    Args:
        tokenizer: Of one camera or several.
        frames: By camera.
        proprio_BTP: Proprioception of the same frames, physical units; only some tokenizers need it.

    Raises:
        InvalidInputError: The tokenizer needs proprioception, and none is given.
    """
    if isinstance(tokenizer, CamerasTokenizer):
        return tokenizer.encode_cameras(frames, proprio_BTP)
    (only,) = frames.values()
    return encode_frame(tokenizer, only, proprio_BTP)


def encode_frame(tokenizer: LatentSpace, x_BCTHW: Tensor, proprio_BTP: Tensor | None = None) -> Tensor:
    """Frames [B, 3, T, H, W] of one camera in [-1, 1] -> latents [B, c, T', h, w]; errors as `encode_frames`."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.encode(x_BCTHW)
    if not isinstance(tokenizer, ProprioTokenizer):
        raise InvalidInputError(f"A {type(tokenizer).__name__} does not encode frames.")
    if proprio_BTP is None:
        raise InvalidInputError(
            f"A {type(tokenizer).__name__} encodes a frame with the robot's proprioception. Pass the observation with observation.state."
        )
    return tokenizer.encode_with(x_BCTHW, proprio_BTP)


def track_clip(tokenizer: LatentSpace, z_BCTHW: Tensor) -> Tensor:
    """Latents [B, c, T, h, w] of frames that were encoded alone, as those of clips: things are the same along each."""
    if not isinstance(tokenizer, CamerasTokenizer):
        return tokenizer.track(z_BCTHW) if isinstance(tokenizer, Tracker) else z_BCTHW
    if not any(isinstance(part, Tracker) for part in tokenizer.tokenizers):
        return z_BCTHW
    parts = z_BCTHW.split([part.latent_shape[0] for part in tokenizer.tokenizers], 1)
    tracked = [track_clip(part, z) for part, z in zip(tokenizer.tokenizers, parts, strict=True)]
    return torch.cat(tracked, 1)


def decode_frames(tokenizer: LatentSpace, z_BCTHW: Tensor, key: str) -> Tensor:
    """Latents [B, c, T', h, w] -> frames of one camera [B, 3, T, H, W], about [-1, 1], by one tokenizer or several."""
    if isinstance(tokenizer, CamerasTokenizer):
        return tokenizer.decode_camera(z_BCTHW, key)
    return camera_tokenizer(tokenizer, key).decode(z_BCTHW)


def held_proprio(tokenizer: LatentSpace, z_BCHW: Tensor) -> Tensor | None:
    """The proprioception [B, P] that latents [B, c, h, w] hold, physical units; None where they hold none."""
    part = tokenizer.tokenizers[0] if isinstance(tokenizer, CamerasTokenizer) else tokenizer
    return part.proprio(z_BCHW[:, : part.latent_shape[0]]) if isinstance(part, ProprioTokenizer) else None


def held_places(tokenizer: LatentSpace, z_BCHW: Tensor) -> tuple[Tensor, Tensor] | None:
    """Where things are by latents [B, c, h, w], those of each camera in its own picture; None where latents do not say.

    Returns:
        Places [B, K, 2] in pixels from the centre, and whether in view, bool [B, K].
    """
    if not isinstance(tokenizer, CamerasTokenizer):
        return tokenizer.places(z_BCHW) if isinstance(tokenizer, Placed) else None
    parts = tokenizer.tokenizers
    latents = z_BCHW.split([part.latent_shape[0] for part in parts], dim=1)
    found = [part.places(z) for part, z in zip(parts, latents, strict=True) if isinstance(part, Placed)]
    if not found:
        return None
    return torch.cat([places for places, _ in found], dim=1), torch.cat([seen for _, seen in found], dim=1)


def camera_tokenizer(tokenizer: LatentSpace, key: str) -> Tokenizer | ProprioTokenizer:
    """The tokenizer of one camera.

    Raises:
        InvalidInputError: There is no such camera.
    """
    if isinstance(tokenizer, CamerasTokenizer):
        if key not in tokenizer.config.keys:
            raise InvalidInputError(f"There is no camera {key!r} among {', '.join(tokenizer.config.keys)}.")
        tokenizer = tokenizer.tokenizers[tokenizer.config.keys.index(key)]
    if not isinstance(tokenizer, Tokenizer | ProprioTokenizer):
        raise InvalidInputError(f"A {type(tokenizer).__name__} neither encodes nor decodes frames.")
    return tokenizer
