"""Lossless PNG for frames inside dataset files. Not for video (`worldsim.video`)."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from worldsim.errors import StorageError

_LEVEL = 6
_MOST_PX = 1 << 26
"""Larger pictures are refused before they are unpacked."""


def png_bytes(frame: NDArray[np.uint8]) -> bytes:
    """Compress one frame, uint8 [H, W, 3]."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png", compress_level=_LEVEL)
    return buffer.getvalue()


def decode_image(data: bytes, *, source: object) -> NDArray[np.uint8]:
    """Unpack a picture of any common kind to uint8 [H, W, 3].

    Args:
        data: The file's content.
        source: What to name in an error.

    Raises:
        StorageError: Not a picture, cut short, or unreasonably large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("png", "jpeg", "webp", "bmp", "tiff")) as image:
            if image.width * image.height > _MOST_PX:
                raise ValueError(f"{image.width}x{image.height} pixels are too many")
            return np.array(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
        raise StorageError(
            f"{source} holds a picture that cannot be read ({error}). Restore or delete the file."
        ) from error
