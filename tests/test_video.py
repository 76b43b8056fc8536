"""Video: what comes back, what browsers need, the range of pixels, and files that are not videos."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from worldsim.decode import read_video
from worldsim.errors import InvalidInputError, StorageError
from worldsim.video import (
    decode_image,
    encode_mp4,
    encode_png,
    side_by_side,
    to_frames,
    to_model,
    write_mp4,
)


def moving(frames: int = 12, height: int = 32, width: int = 48) -> np.ndarray:
    video = np.full((frames, height, width, 3), (60, 80, 100), np.uint8)
    for t in range(frames):
        video[t, 8:24, 2 * t : 2 * t + 16] = (220, 60, 60)
    return video


@pytest.mark.parametrize(("exact", "limit"), [(False, 3.0), (True, 1.0)])
def test_round_trip(tmp_path: Path, exact: bool, limit: float) -> None:
    (tmp_path / "v.mp4").write_bytes(encode_mp4(moving(), rate_hz=10, exact=exact))
    frames, rate = read_video(tmp_path / "v.mp4")
    assert rate == 10 and frames.shape == moving().shape
    assert np.abs(frames.astype(int) - moving()).mean() < limit
    part, _ = read_video(tmp_path / "v.mp4", start_s=0.5, frames=3)
    assert np.array_equal(part, frames[5:8])


def test_the_same_frames_give_the_same_pictures(tmp_path: Path) -> None:
    seen = []
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(encode_mp4(moving(), rate_hz=10))
        seen.append(read_video(tmp_path / name)[0])
    assert np.array_equal(*seen)


def test_it_is_what_browsers_play(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v.mp4", moving(5, 15, 17), rate_hz=12.5, scale=3)
    with av.open(str(tmp_path / "v.mp4")) as container:
        stream = container.streams.video[0]
        context = stream.codec_context
        assert (context.name, context.pix_fmt, context.profile) == ("h264", "yuv420p", "Constrained Baseline")
        assert (stream.width, stream.height, stream.frames) == (52, 46, 5)  # enlarged, then padded to even sides
        assert stream.average_rate == Fraction(25, 2)


def test_enlarging_repeats_pixels(tmp_path: Path) -> None:
    small = moving(3, 16, 16)
    write_mp4(tmp_path / "v.mp4", small, rate_hz=10, scale=4)
    frames, _ = read_video(tmp_path / "v.mp4")
    assert np.abs(frames.astype(int) - small.repeat(4, 1).repeat(4, 2)).mean() < 3


@pytest.mark.parametrize(
    ("frames", "rate_hz", "scale"),
    [
        (np.zeros((3, 8, 8, 3), np.float32), 10, 1),
        (np.zeros((8, 8, 3), np.uint8), 10, 1),
        (np.zeros((0, 8, 8, 3), np.uint8), 10, 1),
        (np.zeros((3, 8, 8, 3), np.uint8), 0, 1),
        (np.zeros((3, 8, 8, 3), np.uint8), 10, 0),
    ],
)
def test_nonsense_is_refused(frames: np.ndarray, rate_hz: float, scale: int) -> None:
    with pytest.raises(InvalidInputError):
        encode_mp4(frames, rate_hz=rate_hz, scale=scale)


def test_side_by_side() -> None:
    both = side_by_side([moving(3, 8, 8), moving(5, 8, 10)], gap_px=2)
    assert both.shape == (5, 8, 20, 3)
    assert (both[:, :, 8:10] == 255).all()
    assert np.array_equal(both[4, :, :8], moving(3, 8, 8)[2])
    for bad in ([], [moving(2, 8, 8), moving(2, 9, 8)]):
        with pytest.raises(InvalidInputError):
            side_by_side(bad)


@pytest.mark.parametrize("lead", [(), (2,), (2, 4)])
def test_pixels_survive_the_model_range(lead: tuple[int, ...]) -> None:
    frames = torch.arange(256, dtype=torch.uint8).reshape(16, 16, 1).expand(*lead, 16, 16, 3)
    x = to_model(frames)
    assert x.shape == (*lead, 3, 16, 16) and float(x.min()) == -1 and float(x.max()) == 1
    assert torch.equal(to_frames(x), frames)
    assert int(to_frames(torch.full((*lead, 3, 1, 1), 7.0)).max()) == 255
    for bad in (frames.float(), frames[..., 0], frames.movedim(-1, -3)):
        with pytest.raises(InvalidInputError):
            to_model(bad)
    with pytest.raises(InvalidInputError):
        to_frames(x.movedim(-3, -1))


def test_pictures_come_back_without_loss_or_are_named() -> None:
    frame = moving()[3]
    assert np.array_equal(decode_image(encode_png(frame), source="a.png"), frame)
    for bad in (encode_png(frame)[:80], b"hello", b""):
        with pytest.raises(StorageError, match=r"a\.png"):
            decode_image(bad, source="a.png")
