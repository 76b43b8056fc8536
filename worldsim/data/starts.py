"""First observations that a world carries along, so that it can be played without data or simulator.

Shape legend: N starts, B chosen, H W pixels, P proprio, E true state, S simulator state.
"""

import dataclasses
import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from worldsim.core import IMAGE, SIMULATOR, STATE, TRUE_STATE, Observation, WorldSpec
from worldsim.errors import InvalidInputError, StorageError

_KEYS = (IMAGE, STATE, TRUE_STATE, SIMULATOR)
_UNREADABLE = (
    OSError,
    ValueError,
    TypeError,
    EOFError,
    NotImplementedError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


@dataclasses.dataclass(frozen=True)
class Starts:
    """A table of first observations: IMAGE uint8 [N, H, W, 3], STATE [N, P], and TRUE_STATE, SIMULATOR where known."""

    rows: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        lengths = {k: len(v) for k, v in self.rows.items()}
        if IMAGE not in lengths or STATE not in lengths or len(set(lengths.values())) != 1 or not lengths[IMAGE]:
            raise InvalidInputError(f"Starts need IMAGE and STATE of one length >= 1; got {lengths}.")

    def __len__(self) -> int:
        return len(self.rows[IMAGE])

    def select(self, indices: Tensor) -> Observation:
        """The rows at int64 [B] indices, wrapping around at N."""
        chosen = indices.to(torch.int64) % len(self)
        return {k: v[chosen] for k, v in self.rows.items()}

    def to_bytes(self) -> bytes:
        """Compressed, for a world folder."""
        buffer = io.BytesIO()
        arrays = {k.replace(".", "__"): v.numpy() for k, v in self.rows.items()}
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            StorageError: The file is missing or is not such a table.
        """
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                names = {k: k.replace(".", "__") for k in _KEYS}
                rows = {k: torch.from_numpy(arrays[n]) for k, n in names.items() if n in arrays}
            return cls(rows)
        except _UNREADABLE as error:
            raise StorageError(f"{path} is not a readable table of starts ({error}). Restore the folder.") from error


def seen_pixels(observation: Observation, spec: WorldSpec) -> tuple[Tensor, Tensor]:
    """The pixels and the proprioception of an observation, as a world of that spec can read them.

    Returns:
        IMAGE uint8 [B, H, W, 3] and STATE [B, P].

    Raises:
        InvalidInputError: One is missing, or of another shape or type.
    """
    for name in (IMAGE, STATE):
        if name not in observation:
            raise InvalidInputError(f"Starts lack {name!r}; got {sorted(observation)}.")
    image, proprio = observation[IMAGE], observation[STATE]
    expected = (*spec.image_size, 3)
    if image.dtype != torch.uint8 or tuple(image.shape[1:]) != expected:
        raise InvalidInputError(
            f"{IMAGE} must be uint8 [B, {expected[0]}, {expected[1]}, 3]; got {image.dtype} {tuple(image.shape)}. "
            "Resize frames to the size the world was trained with."
        )
    if tuple(proprio.shape) != (image.shape[0], spec.proprio_dim):
        raise InvalidInputError(f"{STATE} must be [{image.shape[0]}, {spec.proprio_dim}]; got {tuple(proprio.shape)}.")
    return image, proprio
