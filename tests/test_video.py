"""Video: what comes back, what browsers need, the range of pixels, and files that are not videos."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldsim import video
from worldsim.errors import InvalidInputError, StorageError
from worldsim.video import (
    decode_image,
    encode_mp4,
    encode_png,
    read_video,
    sample_video,
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


def test_files_that_are_not_videos(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        read_video(tmp_path / "missing.mp4")
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(StorageError, match="text"):
        read_video(tmp_path / "text.mp4")
    (tmp_path / "short.mp4").write_bytes(encode_mp4(moving(4), rate_hz=10))
    with pytest.raises(StorageError, match="4 frames"):
        read_video(tmp_path / "short.mp4", frames=5)
    with pytest.raises(StorageError, match="Could not write"):
        write_mp4(tmp_path / "text.mp4" / "v.mp4", moving(2), rate_hz=10)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), value=st.integers(0, 255), cut=st.booleans())
def test_damage_never_escapes_the_typed_error(tmp_path: Path, place: int, value: int, cut: bool) -> None:
    data = bytearray(encode_mp4(moving(4), rate_hz=10))
    place %= len(data)
    if cut:
        data = data[:place]
    else:
        data[place] = value
    (tmp_path / "v.mp4").write_bytes(data)
    try:
        frames, _ = read_video(tmp_path / "v.mp4")
        assert frames.dtype == np.uint8 and frames.shape[-1] == 3
        few, numbers = sample_video(tmp_path / "v.mp4", frames=3)
        assert np.array_equal(few, frames[list(numbers)])
    except StorageError as error:
        assert "v.mp4" in str(error)


@pytest.mark.parametrize(
    ("frames", "numbers"), [(1, (6,)), (2, (0, 11)), (4, (0, 4, 7, 11)), (12, tuple(range(12))), (50, tuple(range(12)))]
)
def test_a_sample_spans_the_video(tmp_path: Path, frames: int, numbers: tuple[int, ...]) -> None:
    (tmp_path / "v.mp4").write_bytes(encode_mp4(moving(), rate_hz=10))
    found, taken = sample_video(tmp_path / "v.mp4", frames=frames)
    assert taken == numbers
    assert np.array_equal(found, read_video(tmp_path / "v.mp4")[0][list(numbers)])


def test_a_sample_of_what_is_there_where_a_file_promises_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v.mp4").write_bytes(encode_mp4(moving(), rate_hz=10))
    seen: list[int] = []

    def spread(count: int, most: int) -> list[int]:
        seen.append(count)
        return [0, count - 1]

    monkeypatch.setattr(video, "_even_indices", spread)
    pick = video._pick
    monkeypatch.setattr(
        video, "_pick", lambda c, s, wanted: ({n: f for n, f in pick(c, s, wanted)[0].items() if n < 9}, 9)
    )
    frames, taken = sample_video(tmp_path / "v.mp4", frames=2)
    assert seen == [12, 9] and taken == (0, 8) and len(frames) == 2


def test_what_cannot_be_sampled_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StorageError, match="missing"):
        sample_video(tmp_path / "missing.mp4", frames=2)
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(StorageError, match="text"):
        sample_video(tmp_path / "text.mp4", frames=2)
    (tmp_path / "v.mp4").write_bytes(encode_mp4(moving(), rate_hz=10))
    with pytest.raises(InvalidInputError, match="at least 1"):
        sample_video(tmp_path / "v.mp4", frames=0)
    monkeypatch.setattr(video, "_MOST_BYTES", 3 * 32 * 48 * 5)
    assert len(sample_video(tmp_path / "v.mp4", frames=5)[0]) == 5
    with pytest.raises(StorageError, match="6 frames of 48 x 32"):
        sample_video(tmp_path / "v.mp4", frames=6)


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
