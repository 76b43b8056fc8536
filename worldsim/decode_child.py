"""Program of the decoder process of `worldsim.decode`; run as a script, it imports nothing of worldsim.

The files that it decodes may come from anybody, and decoders have faults. Before the first file it gives up what they could
misuse: its memory is limited, it can write nothing but pixels into memory that it shares with its parent, and it is left one
descriptor, which takes the open file that is to be decoded. While a file is decoded none is left: it can open neither a
connection nor another file.
"""

import contextlib
import importlib
import json
import mmap
import os
import pkgutil
import resource
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

CHANNEL = 3
"""Descriptor of the socket to the parent."""
HEAD = struct.Struct("<cQ")
"""Kind of a message (q a request; f frames are in the window; d the end; e what went wrong) and its bytes of JSON."""
WINDOW, CHUNK = 1 << 28, 1 << 24
"""Bytes of the shared memory, and about how many of them are filled before the parent takes them away."""
MOST_MEMORY, MOST_BYTES, MOST_PX = 3 << 30, 1 << 33, 1 << 26
"""Of the process; of the frames that one file may unpack to; and of one frame."""

_DEPTH = ("gray9", "gray1", "grayf")  # gray of more than 8 bits


def main() -> None:
    """Answer requests until the parent closes the channel."""
    sys.path[:] = json.loads(sys.argv[3])
    import av
    import numpy  # noqa: F401

    for module in pkgutil.walk_packages(av.__path__, "av."):  # as NumPy, it would be imported on demand
        if module.name.rpartition(".")[2] not in ("__main__", "datasets"):
            importlib.import_module(module.name)
    channel, window = (os.dup(int(number)) for number in sys.argv[1:3])
    memory = mmap.mmap(window, WINDOW)
    os.dup2(channel, CHANNEL)
    os.closerange(CHANNEL + 1, 4096)
    socket_ = socket.socket(fileno=CHANNEL)
    confine()
    counted_s = 0.0  # the first request pays for the start
    while (received := receive(socket_)) is not None:
        request, descriptor = received
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            try:
                done = decode(request, file, Emitter(socket_, memory))
                spent_s = time.process_time()
                send(socket_, b"d", {**done, "core_s": spent_s - counted_s})
                counted_s = spent_s
            except (av.FFmpegError, OSError, ValueError, LookupError, ArithmeticError, MemoryError) as error:
                send(socket_, b"e", str(error) or type(error).__name__)


def confine() -> None:
    """Give up what decoding does not need."""
    limits = {resource.RLIMIT_AS: MOST_MEMORY, resource.RLIMIT_NOFILE: CHANNEL + 2}
    limits |= {resource.RLIMIT_CORE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NPROC: 0}
    for kind, most in limits.items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError, AttributeError):  # where it is allowed: a network of its own, without devices
        os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)


def receive(channel: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Wait for a request and the descriptor of its file; None when the parent has gone."""
    data, files, _, _ = socket.recv_fds(channel, 1 << 16, 1)
    while data and (len(data) < HEAD.size or len(data) < HEAD.size + HEAD.unpack_from(data)[1]):
        data += channel.recv(1 << 16)
    return (json.loads(data[HEAD.size :]), files[0]) if data else None


def send(channel: socket.socket, kind: bytes, value: Any) -> None:
    """Send one message."""
    body = json.dumps(value).encode()
    channel.sendall(HEAD.pack(kind, len(body)) + body)


class Emitter:
    """Passes frames to the parent, all of one size, upright."""

    def __init__(self, channel: socket.socket, window: mmap.mmap) -> None:
        self._channel, self._window = channel, window
        self._waiting, self._filled, self._bytes = 0, 0, 0
        self._size: tuple[int, int] | None = None

    def __call__(self, frame: Any) -> None:
        """Put a decoded frame into the window."""
        if frame.is_corrupt:
            raise ValueError(f"its frame at {seconds(frame)} s is damaged")
        image = upright(frame)
        size = (image.shape[0], image.shape[1])
        if size != (self._size or size):
            sides = [f"{width} x {height}" for height, width in (self._size or size, size)]
            raise ValueError(f"its frames change size from {sides[0]} to {sides[1]} pixels at {seconds(frame)} s")
        self._size = size
        self._bytes += image.nbytes
        if self._bytes > MOST_BYTES:
            raise ValueError(f"its frames unpack to more than {MOST_BYTES} bytes")
        if self._filled and self._filled + image.nbytes > CHUNK:
            self.flush()
        self._window[self._filled : self._filled + image.nbytes] = memoryview(image).cast("B")
        self._waiting, self._filled = self._waiting + 1, self._filled + image.nbytes

    def flush(self) -> None:
        """Wait until the parent has taken what there is; it learns too that decoding goes on."""
        send(self._channel, b"f", [self._waiting, *(self._size or (1, 1))])
        if not self._channel.recv(1):
            raise SystemExit
        self._waiting = self._filled = 0


class NamedFile:
    """An open file for FFmpeg, which recognises some formats by their names."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name, self.read, self.seek, self.tell = name, file.read, file.seek, file.tell


def decode(request: dict[str, Any], file: BinaryIO, emit: Emitter) -> dict[str, Any]:
    """Decode what is asked for by one of the functions of `worldsim.decode`, and return what there is to say of it."""
    if request["kind"] == "spread":
        done = spread(file, request, emit)
    else:
        with opened(file, request) as (container, stream):
            if request["kind"] == "times":
                done = at_times(container, stream, request["times_s"], request["tolerance_s"], emit)
            else:
                done = in_range(container, stream, request["start_s"], request["frames"], emit)
    emit.flush()
    return done


def upright(frame: Any) -> Any:
    """Pixels [H, W, 3], turned as the container says, in one piece."""
    import numpy as np

    if frame.format.name.startswith(_DEPTH):
        raise ValueError(
            f"its pixels are of the kind {frame.format.name}, which is that of a depth map and has no colours"
        )
    image = frame.to_ndarray(format="rgb24")
    turns = [bytes(s) for s in frame.side_data if s.type.name == "DISPLAYMATRIX"]
    if not turns:
        return image
    a, b, _, c, d = struct.unpack("=9i", turns[0][:36])[:5]
    if (a or d) and (b or c):
        raise ValueError("the container turns it by an angle that is no multiple of 90 degrees")
    if b or c:
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


@contextlib.contextmanager
def opened(file: BinaryIO, request: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """A file and its first stream of pictures, decoded by one thread."""
    import av

    file.seek(0)
    named: Any = NamedFile(file, request["name"])
    with av.open(named, container_options={"protocol_whitelist": "none"}) as container:
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("its codec is not known")
        if stream.width * stream.height > MOST_PX:
            raise ValueError(f"its frames have {stream.width} x {stream.height} pixels")
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(MOST_PX)}
        yield container, stream


def seconds(frame: Any) -> float:
    """When a frame is shown, for messages."""
    return round(float(frame.pts * frame.time_base), 4) if frame.pts is not None else -1.0


def seek(container: Any, stream: Any, start_s: float) -> None:
    """Go to a key frame at or before a time."""
    if start_s > 0 and stream.time_base is not None:
        container.seek(round(start_s / stream.time_base) - 1, stream=stream, backward=True, any_frame=False)


def at_times(container: Any, stream: Any, times_s: list[float], tolerance_s: float, emit: Emitter) -> dict[str, Any]:
    """Send the frame nearest to each time; times do not fall."""
    seek(container, stream, times_s[0])
    row, before = 0, None
    for frame in container.decode(stream):
        if frame.pts is None:
            continue
        while row < len(times_s) and times_s[row] <= float(frame.pts * stream.time_base):
            send_nearest([f for f in (before, frame) if f is not None], times_s[row], row, tolerance_s, emit)
            row += 1
        if row == len(times_s):
            return {}
        before = frame
    if before is None:
        raise ValueError(f"it holds no frame at or after {times_s[0]:g} s")
    for late in range(row, len(times_s)):
        send_nearest([before], times_s[late], late, tolerance_s, emit)
    return {}


def send_nearest(frames: list[Any], time_s: float, row: int, tolerance_s: float, emit: Emitter) -> None:
    """Send the frame nearest to a time, the sooner of two."""
    distance, _, frame = min((abs(float(f.pts * f.time_base) - time_s), i, f) for i, f in enumerate(frames))
    if not distance < tolerance_s:
        raise ValueError(
            f"row {row} is at {time_s:.4f} s, and the nearest frame is {distance:.4f} s away; at most {tolerance_s:g} s "
            "is allowed"
        )
    emit(frame)


def in_range(container: Any, stream: Any, start_s: float, frames: int | None, emit: Emitter) -> dict[str, Any]:
    """Send at most `frames` frames from a time on, and return the rate."""
    rate = float(stream.average_rate or 0)
    if not 0 < rate < 10_000:
        raise ValueError(f"a rate of {rate} frames per second")
    start_s -= 0.5 / rate
    seek(container, stream, start_s)
    found = 0
    for frame in container.decode(stream):
        if frame.time is not None and frame.time < start_s:
            continue
        emit(frame)
        found += 1
        if found == frames:
            return {"rate": rate}
    if not found or frames is not None:
        raise ValueError(f"{found} frames from {start_s + 0.5 / rate:g} s on, expected {frames or 'some'}")
    return {"rate": rate}


def spread(file: BinaryIO, request: dict[str, Any], emit: Emitter) -> dict[str, Any]:
    """Send frames at even distances; return their numbers, and how many the container promised and there were."""
    promised = request["count"]
    if promised is None:
        with opened(file, request) as (container, stream):
            promised = sum(1 for packet in container.demux(stream) if packet.size)
    wanted, taken, found = set(even_indices(promised, request["frames"])), [], 0
    with opened(file, request) as (container, stream):
        for frame in container.decode(stream):
            if found in wanted:
                emit(frame)
                taken.append(found)
            found += 1
            if found % 64 == 0:
                emit.flush()
    if not found:
        raise ValueError("no frame can be decoded")
    return {"numbers": taken, "promised": promised, "found": found}


def even_indices(count: int, most: int) -> list[int]:
    """At most `most` of `count` numbers at even distances, both ends included."""
    if most == 1:
        return [count // 2]
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


if __name__ == "__main__":
    main()
