"""Decoding files of anybody: upright frames by time, and every fault of a file named, whatever it does to the decoder."""

import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_video import moving
from worldsim import decode
from worldsim.decode import decoding_s, read_frames_at, read_video, sample_video
from worldsim.errors import InvalidInputError, StorageError
from worldsim.video import encode_mp4, write_mp4


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


def test_a_sample_of_what_is_there_where_a_file_promises_more(tmp_path: Path) -> None:
    """Frames before the time 0 are in the file and are never shown."""
    with av.open(
        str(tmp_path / "v.mp4"), "w", options={"avoid_negative_ts": "disabled", "use_editlist": "1"}
    ) as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "0", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number, image in enumerate(moving(23)):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number - 3, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "v.mp4")) as container:
        promised = sum(1 for packet in container.demux(video=0) if packet.size)
    assert promised == 23
    frames, taken = sample_video(tmp_path / "v.mp4", frames=3)
    assert taken == (0, 10, 19) and len(frames) == 3


def test_what_cannot_be_sampled_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"):
        sample_video(tmp_path / "missing.mp4", frames=2)
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(StorageError, match="text"):
        sample_video(tmp_path / "text.mp4", frames=2)
    (tmp_path / "v.mp4").write_bytes(encode_mp4(moving(), rate_hz=10))
    with pytest.raises(InvalidInputError, match="at least 1"):
        sample_video(tmp_path / "v.mp4", frames=0)


def turned(path: Path, degrees: int) -> Path:
    """The same file with a turn in the display matrix of its track."""
    data = bytearray(path.read_bytes())
    place = data.find(b"tkhd") + 4 + 4 + 5 * 4 + 8 + 8
    one = 1 << 16
    matrix = {90: (0, one, -one, 0), 180: (-one, 0, 0, -one), 270: (0, -one, one, 0), 45: (one, one, -one, one)}[
        degrees
    ]
    for offset, value in zip((0, 4, 12, 16), matrix, strict=True):
        data[place + offset : place + offset + 4] = value.to_bytes(4, "big", signed=True)
    found = path.with_name(f"turned{degrees}.mp4")
    found.write_bytes(data)
    return found


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_frames_stand_upright(tmp_path: Path, degrees: int) -> None:
    write_mp4(tmp_path / "v.mp4", moving(4), rate_hz=10)
    plain, _ = read_video(tmp_path / "v.mp4")
    frames, _ = read_video(turned(tmp_path / "v.mp4", degrees))
    assert np.array_equal(frames, np.rot90(plain, -degrees // 90, axes=(1, 2)))
    with pytest.raises(StorageError, match="multiple of 90"):
        read_video(turned(tmp_path / "v.mp4", 45))


def test_a_frame_is_found_by_its_time(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v.mp4", moving(12), rate_hz=30)
    frames, _ = read_video(tmp_path / "v.mp4")
    assert np.array_equal(read_frames_at(tmp_path / "v.mp4", [0.0, 0.1, 0.1, 0.3]), frames[[0, 3, 3, 9]])
    assert np.array_equal(read_frames_at(tmp_path / "v.mp4", [0.2]), frames[[6]])
    assert np.array_equal(read_frames_at(tmp_path / "v.mp4", [0.11, 0.12], tolerance_s=0.02), frames[[3, 4]])
    with pytest.raises(StorageError, match=r"row 1 is at 0\.1100 s, and the nearest frame is 0\.0100 s away"):
        read_frames_at(tmp_path / "v.mp4", [0.1, 0.11])
    with pytest.raises(StorageError, match=r"row 1 is at 2\.0000 s"):
        read_frames_at(tmp_path / "v.mp4", [0.1, 2.0])
    for bad in ([], [0.2, 0.1]):
        with pytest.raises(InvalidInputError):
            read_frames_at(tmp_path / "v.mp4", bad)


def test_what_decoding_takes_is_counted(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v.mp4", moving(12), rate_hz=30)
    spent_s = [decoding_s()]
    for _ in range(3):
        read_video(tmp_path / "v.mp4")
        spent_s.append(decoding_s())
    assert spent_s == sorted(set(spent_s)) and spent_s[-1] - spent_s[1] < 1  # the start of the decoder counts once


def test_more_frames_than_the_window_holds(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 8, 8, 3), np.uint8).repeat(128, 1).repeat(96, 2)
    write_mp4(tmp_path / "v.mp4", noise, rate_hz=10)
    frames, _ = read_video(tmp_path / "v.mp4")
    assert frames.shape == noise.shape and np.abs(frames.astype(int) - noise).mean() < 20


def test_frames_that_change_their_size_are_refused(tmp_path: Path) -> None:
    parts = []
    for side in (32, 64):
        with av.open(str(tmp_path / "part.h264"), "w") as container:
            stream = container.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 48, side, "yuv420p"
            for image in moving(4, side):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            container.mux(stream.encode())
        parts.append((tmp_path / "part.h264").read_bytes())
    (tmp_path / "both.h264").write_bytes(b"".join(parts))
    with pytest.raises(StorageError, match="change size from 48 x 32 to 48 x 64"):
        read_video(tmp_path / "both.h264")


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    write_mp4(tmp_path / "secret.mp4", moving(4), rate_hz=10)
    for name, text in {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{tmp_path}/secret.mp4\n#EXT-X-ENDLIST\n",
        "list.mp4": f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(StorageError, match=name):
            read_video(tmp_path / name)


def test_the_decoder_can_neither_connect_nor_open_nor_write(tmp_path: Path) -> None:
    program = (
        "import os, socket; from worldsim.decode_child import CHANNEL, confine; os.closerange(3, 4096); "
        "held = [os.open('/dev/null', os.O_WRONLY) for _ in range(2)]; confine()\n"
        "for attempt in (socket.socket, lambda: open('/etc/passwd'), lambda: os.pipe()):\n"
        "    try: attempt()\n"
        "    except OSError: continue\n"
        "    raise SystemExit('possible')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_decoder_that_dies_costs_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_mp4(tmp_path / "v.mp4", moving(4), rate_hz=10)
    frames, _ = read_video(tmp_path / "v.mp4")
    assert decode._decoder is not None
    os.kill(decode._decoder._process.pid, signal.SIGKILL)
    with pytest.raises(StorageError, match=r"v\.mp4.*ended the decoder, exit code -9"):
        read_video(tmp_path / "v.mp4")
    assert np.array_equal(read_video(tmp_path / "v.mp4")[0], frames)
    os.kill(decode._decoder._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(decode, "_SILENCE_S", 0.2)
    with pytest.raises(StorageError, match="takes too long"):
        read_video(tmp_path / "v.mp4")
    monkeypatch.undo()
    assert np.array_equal(read_video(tmp_path / "v.mp4")[0], frames)


def test_a_forked_process_gets_a_decoder_of_its_own(tmp_path: Path) -> None:
    write_mp4(tmp_path / "v.mp4", moving(4), rate_hz=10)
    program = (
        "import os, sys; from pathlib import Path; from worldsim import decode; file = Path(sys.argv[1])\n"
        "decode.read_video(file); mine = decode._decoder._process.pid; child = os.fork()\n"
        "if not child:\n"
        "    decode.read_video(file); other = decode._decoder._process.pid; decode._stop(); os._exit(other == mine)\n"
        "done = os.waitpid(child, 0)[1]; decode.read_video(file)\n"
        "sys.exit(bool(done) or decode._decoder._process.pid != mine)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, tmp_path / "v.mp4"], capture_output=True, text=True
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_a_depth_map_as_video_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "v.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "gray16le"
        depth = np.arange(32 * 48, dtype=np.uint16).reshape(32, 48)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(depth, format="gray16le")))
        container.mux(stream.encode())
    with pytest.raises(StorageError, match="gray16le, which is that of a depth map"):
        read_video(tmp_path / "v.mkv")
