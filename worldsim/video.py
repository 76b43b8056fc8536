"""Frames in every form: videos to look at (PyAV), compressed pictures (Pillow), and the range that models work in.

The only place that knows of codecs and of uint8 <-> [-1, 1]. Codecs are imported when they are used: what plays and
trains worlds runs without them.

Shape legend: T frames, H W pixels, C=3 colour.
"""

import io
import math
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim import storage
from worldsim.arrays import Bytes
from worldsim.errors import InvalidInputError, StorageError

Frames = Bytes
_MOST_PX = 1 << 26
"""A picture of more pixels is refused before it is unpacked."""
_PNG_LEVEL = 6


def to_model(frames: Tensor) -> Tensor:
    """Frames uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in [-1, 1].

    Raises:
        InvalidInputError: Another dtype or shape.
    """
    if frames.dtype != torch.uint8 or frames.ndim < 3 or frames.shape[-1] != 3:
        raise InvalidInputError(f"Frames must be uint8 [..., H, W, 3]; got {frames.dtype} {tuple(frames.shape)}.")
    return frames.movedim(-1, -3).float() / 127.5 - 1


def to_frames(x: Tensor) -> Tensor:
    """Model range [..., 3, H, W], about [-1, 1] -> frames uint8 [..., H, W, 3]; the inverse of `to_model`.

    Raises:
        InvalidInputError: Another shape.
    """
    if x.ndim < 3 or x.shape[-3] != 3:
        raise InvalidInputError(f"Model pictures must be [..., 3, H, W]; got {tuple(x.shape)}.")
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).movedim(-3, -1)


def encode_png(frame: Frames) -> bytes:
    """Compress one frame, uint8 [H, W, 3], without loss."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "png", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def decode_image(data: bytes, *, source: object) -> Frames:
    """Unpack a picture of any common kind to uint8 [H, W, 3], upright; gray becomes three equal colours.

    Args:
        data: The file's content.
        source: What to name in an error.

    Raises:
        StorageError: Not a picture, cut short, unreasonably large, or of more than 8 bits a colour, as depth maps are.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(io.BytesIO(data), formats=("png", "jpeg", "webp", "bmp", "tiff")) as image:
            if image.width * image.height > _MOST_PX:
                raise ValueError(f"{image.width}x{image.height} pixels are too many")
            if image.mode[0] in "IF":
                raise ValueError(
                    f"its pixels are of the kind {image.mode}, which is that of a depth map and has no colours"
                )
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, EOFError) as error:
        raise StorageError(
            f"{source} holds a picture that cannot be read ({error}). Restore or delete the file."
        ) from error


def encode_mp4(frames: Frames, *, rate_hz: float, scale: int = 1, exact: bool = False) -> bytes:
    """Encode an H.264 video that browsers play; the same frames give the same pictures (the encoder's bytes may differ).

    Args:
        frames: uint8 [T, H, W, 3], at least one; odd sides are padded by repeating the edge.
        rate_hz: Frames per second.
        scale: Enlarges every pixel to a square of this side.
        exact: Store for learning instead of for looking: full colour resolution, nearly lossless, every second frame
            a key frame; browsers may refuse it.

    Returns:
        The mp4 file.

    Raises:
        InvalidInputError: Wrong shape or dtype, or a rate or scale that is not positive.
    """
    import av

    frames = _prepare(frames, rate_hz, scale, even=not exact)
    profile = {"crf": "3", "g": "2", "bf": "0"} if exact else {"crf": "18", "profile": "baseline"}
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        rate = Fraction(rate_hz).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", **profile})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p" if exact else "yuv420p"
        stream.codec_context.thread_count = 1
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_mp4(path: Path, frames: Frames, *, rate_hz: float, scale: int = 1) -> None:
    """Write what `encode_mp4` makes, wholly or not at all.

    Raises:
        InvalidInputError: As `encode_mp4`.
        StorageError: The disk is full or the place cannot be written.
    """
    storage.write_bytes(path, encode_mp4(frames, rate_hz=rate_hz, scale=scale))


def side_by_side(videos: Sequence[Frames], *, gap_px: int = 2) -> Frames:
    """Put videos beside each other; a shorter one stands still at its last frame.

    Args:
        videos: uint8 [T, H, W, 3] each, of one height.
        gap_px: White columns between them.

    Raises:
        InvalidInputError: No video, an empty one, or different heights.
    """
    shapes = [v.shape for v in videos]
    if not videos or any(v.ndim != 4 or not len(v) for v in videos) or len({s[1] for s in shapes}) != 1:
        raise InvalidInputError(f"side_by_side needs videos [T, H, W, 3] of one height; got shapes {shapes}.")
    longest = max(len(v) for v in videos)
    gap = np.full((longest, shapes[0][1], gap_px, 3), 255, np.uint8)
    parts: list[Frames] = []
    for video in videos:
        parts += [gap, video[np.minimum(np.arange(longest), len(video) - 1)]]
    return np.concatenate(parts[1:], axis=2)


def _prepare(frames: Frames, rate_hz: float, scale: int, *, even: bool) -> Frames:
    """Validated, enlarged and padded frames."""
    frames = np.asarray(frames)
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not frames.size:
        raise InvalidInputError(f"A video needs frames uint8 [T, H, W, 3]; got {frames.dtype} {frames.shape}.")
    if not rate_hz > 0 or scale < 1:
        raise InvalidInputError(f"rate_hz must be positive and scale at least 1; got {rate_hz} and {scale}.")
    frames = frames.repeat(scale, axis=1).repeat(scale, axis=2)
    odd = [(0, side % 2 if even else 0) for side in frames.shape[1:3]]
    return np.ascontiguousarray(np.pad(frames, [(0, 0), *odd, (0, 0)], mode="edge"))


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of frames uint8 [..., H, W, 3], in decibels."""
    mse = float((a.float() - b.float()).square().mean())
    return 10 * math.log10(255**2 / max(mse, 1e-6))
