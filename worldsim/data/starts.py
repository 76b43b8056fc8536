"""First observations that a world carries along, so that it can be played without data or simulator.

Shape legend: N starts, B chosen, H W pixels, P proprio, L bytes of text, E true state, S simulator state.
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

from worldsim.core import IMAGE, IMAGES, SIMULATOR, STATE, TASK, TRUE_STATE, Observation, WorldSpec, is_image
from worldsim.errors import InvalidInputError, StorageError

_AXES = {STATE: 2, TASK: 2, TRUE_STATE: 2, SIMULATOR: 2}
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
    """A table of first observations.

    Attributes:
        rows: Cameras' frames uint8 [N, H, W, 3] by their keys, STATE [N, P], and where known TASK uint8 [N, L],
            TRUE_STATE [N, E] and SIMULATOR [N, S].

    Raises:
        InvalidInputError: STATE is missing, a key is none of these, or shapes do not fit.
    """

    rows: Mapping[str, Tensor]

    def __post_init__(self) -> None:
        shapes = {k: tuple(v.shape) for k, v in self.rows.items()}
        if STATE not in shapes or len({s[:1] for s in shapes.values()}) != 1 or not shapes[STATE][:1] > (0,):
            raise InvalidInputError(f"Starts need {STATE!r} and all keys of one length >= 1; got {shapes}.")
        for key, value in self.rows.items():
            if is_image(key):
                fits = value.dtype == torch.uint8 and value.ndim == 4 and value.shape[-1] == 3
            else:
                fits = value.ndim == _AXES.get(key)
            if not fits:
                raise InvalidInputError(
                    f"Starts hold cameras ({IMAGE} or {IMAGES}NAME) as uint8 [N, H, W, 3] and {', '.join(_AXES)} as "
                    f"[N, ...]; got {key!r} {value.dtype} {shapes[key]}."
                )

    def __len__(self) -> int:
        return len(self.rows[STATE])

    def select(self, indices: Tensor) -> Observation:
        """The rows at int64 [B] indices, wrapping around at N."""
        chosen = indices.to(torch.int64) % len(self)
        return {k: v[chosen] for k, v in self.rows.items()}

    def to_bytes(self) -> bytes:
        """Compressed, for a world folder."""
        buffer = io.BytesIO()
        arrays = {_entry(k): v.numpy() for k, v in self.rows.items()}
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
                keys = {_entry(k): k for k in (IMAGE, *_AXES)}
                rows = {keys.get(n, n): torch.from_numpy(arrays[n]) for n in arrays}
            return cls(rows)
        except (*_UNREADABLE, InvalidInputError) as error:
            raise StorageError(f"{path} is not a readable table of starts ({error}). Restore the folder.") from error


def _entry(key: str) -> str:
    """Name of a key inside the archive; a named camera's stays as it is, since its name may hold anything."""
    return key if key.startswith(IMAGES) else key.replace(".", "__")


def read_observation(observation: Observation, spec: WorldSpec) -> tuple[dict[str, Tensor], Tensor]:
    """What a world of this spec reads of observations, checked.

    Args:
        observation: The cameras of `spec` and STATE; other keys are ignored.
        spec: The world's.

    Returns:
        Frames uint8 [B, H, W, 3] by camera key, in the spec's order, and proprioception [B, P].

    Raises:
        InvalidInputError: One is missing, or of another shape or type; it is named.
    """
    missing = [k for k in (*(c.key for c in spec.cameras), STATE) if k not in observation]
    if missing:
        raise InvalidInputError(f"The observation lacks {', '.join(map(repr, missing))}; got {sorted(observation)}.")
    proprio = observation[STATE]
    for camera in spec.cameras:
        image = observation[camera.key]
        if image.dtype != torch.uint8 or tuple(image.shape) != (len(proprio), *camera.size, 3):
            raise InvalidInputError(
                f"{camera.key} must be uint8 [{len(proprio)}, {camera.height}, {camera.width}, 3]; got {image.dtype} "
                f"{tuple(image.shape)}. Resize frames to the size the world was trained with."
            )
    if proprio.ndim != 2 or proprio.shape[1] != spec.proprio_dim:
        raise InvalidInputError(f"{STATE} must be [B, {spec.proprio_dim}]; got {tuple(proprio.shape)}.")
    return {c.key: observation[c.key] for c in spec.cameras}, proprio
