"""Decodes video files of anybody: in one process of its own, which can neither write nor connect, with limits.

Whatever a file does to its decoder (a crash, endless frames, too much memory) becomes an error that names the file; the next
file gets a new process. All videos are decoded so, also those that worldsim seems to have written.

Shape legend: T frames, F chosen frames, H W pixels.
"""

import atexit
import contextlib
import itertools
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from worldsim.arrays import Bytes
from worldsim.decode_child import HEAD, MOST_BYTES, WINDOW
from worldsim.errors import InvalidInputError, StorageError

TOLERANCE_S = 1e-4
"""How far a frame may be from the time that is asked for: LeRobot's own."""
_MOST_WORDS = 1 << 24
_SILENCE_S, _REQUEST_S = 120.0, 1800.0
"""How long a decoder may take until its next frame, and for one request."""


def read_frames_at(path: Path, times_s: Sequence[float], *, tolerance_s: float = TOLERANCE_S) -> Bytes:
    """Decode the frame nearest to each time.

    Args:
        path: Any container and codec that FFmpeg knows.
        times_s: At least one; they do not fall.
        tolerance_s: How far a frame may be away.

    Returns:
        uint8 [T, H, W, 3], upright where the container says that it is turned.

    Raises:
        InvalidInputError: There is no time, or times fall.
        StorageError: The file is missing, is not a video, has no frame near some time, changes its size, or is
            unreasonably large.
    """
    if not len(times_s) or any(b < a for a, b in itertools.pairwise(times_s)):
        raise InvalidInputError(f"read_frames_at needs times that do not fall; got {list(times_s)[:8]}.")
    request = {"kind": "times", "times_s": list(times_s), "tolerance_s": tolerance_s}
    frames, _ = _decode(path, request, most=len(times_s))
    return frames


def read_video(path: Path, *, start_s: float = 0.0, frames: int | None = None) -> tuple[Bytes, float]:
    """Decode a video file.

    Args:
        path: Any container and codec that FFmpeg knows.
        start_s: Frames before this time are left out.
        frames: How many to return at most; None for all.

    Returns:
        uint8 [T, H, W, 3], upright, and the rate in frames per second.

    Raises:
        StorageError: The file is missing, is not a video, is cut short, or is unreasonably large.
    """
    found, done = _decode(path, {"kind": "range", "start_s": start_s, "frames": frames}, most=frames)
    return found, float(done["rate"])


def sample_video(path: Path, *, frames: int) -> tuple[Bytes, tuple[int, ...]]:
    """Decode frames at even distances, the first and the last among them; no others are kept in memory.

    Args:
        path: Any container and codec that FFmpeg knows.
        frames: How many, at least 1; a single one is taken from the middle.

    Returns:
        uint8 [F, H, W, 3], upright, all frames where the video has no more, and their numbers.

    Raises:
        InvalidInputError: No frame is wanted.
        StorageError: The file is missing, is not a video, holds no frame, or its frames are unreasonably large.
    """
    if frames < 1:
        raise InvalidInputError(f"frames must be at least 1; got {frames}.")
    request = {"kind": "spread", "frames": frames, "count": None}
    found, done = _decode(path, request, most=frames)
    if done["found"] != done["promised"]:  # sample what is there
        found, done = _decode(path, {**request, "count": done["found"]}, most=frames)
    return found, tuple(done["numbers"])


_decoder: "_Decoder | None" = None
_lock = threading.Lock()
_spent_s = 0.0


def decoding_s() -> float:
    """Core-seconds that decoding took in other processes for this one, so far; what takes time here is `time.process_time`'s."""
    return _spent_s


def _decode(path: Path, request: Mapping[str, Any], *, most: int | None) -> tuple[Bytes, dict[str, Any]]:
    """Frames [T, H, W, 3] and the closing words of one request; a decoder that fails it is replaced."""
    global _decoder, _spent_s
    with _lock:
        try:
            with path.open("rb") as file:
                if _decoder is None:
                    _decoder = _Decoder()
                frames, done = _decoder.ask({**request, "name": path.name}, file.fileno(), most)
                _spent_s += done["core_s"]
                return frames, done
        except _Refused as error:
            reason: object = error
        except OSError as error:
            reason = error.strerror or error
            _stop()
        except _Died as error:
            reason = error
            _stop()
        except BaseException:
            _stop()
            raise
    raise StorageError(f"{path} cannot be read as a video ({reason}). Restore or delete the file.")


class _Refused(Exception):  # noqa: N818
    """The decoder's own words on what is wrong with a file."""


class _Died(Exception):  # noqa: N818
    """The decoder crashed, or took too long."""


class _Decoder:
    """The process, and the socket to it."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        program = Path(__file__).with_name("decode_child.py")
        places = json.dumps([p for p in sys.path if os.path.isabs(p)])
        kept = {k: os.environ[k] for k in ("PATH", "LD_LIBRARY_PATH") if k in os.environ}
        with theirs, _shared_memory() as file:
            file.truncate(WINDOW)
            self._window = np.frombuffer(mmap.mmap(file.fileno(), WINDOW), np.uint8)
            shared = [theirs.fileno(), file.fileno()]
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", str(program), *map(str, shared), places],
                pass_fds=shared,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**kept, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is its parent's affair
            )

    def ask(self, request: Mapping[str, Any], file: int, most: int | None) -> tuple[Bytes, dict[str, Any]]:
        """Send a request with an open file, and return the frames [T, H, W, 3] and the decoder's closing words."""
        body = json.dumps(request).encode()
        try:
            self._channel.settimeout(_SILENCE_S)
            socket.send_fds(self._channel, [HEAD.pack(b"q", len(body))], [file])
            self._channel.sendall(body)
            return self._gather(most)
        except TimeoutError as error:
            raise _Died("decoding it takes too long") from error
        except (ValueError, TypeError, KeyError) as error:
            raise _Died(f"its decoder answers what makes no sense: {error}") from error
        except (ConnectionError, EOFError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            raise _Died(f"decoding it ended the decoder, exit code {self._process.returncode}") from error

    def _gather(self, most: int | None) -> tuple[Bytes, dict[str, Any]]:
        """Copy frames out of the window until the decoder says that it is done."""
        frames: Bytes = np.empty((0, 1, 1, 3), np.uint8)
        count = 0
        until_s = time.monotonic() + _REQUEST_S
        while time.monotonic() < until_s:
            kind, length = HEAD.unpack(self._read(HEAD.size))
            if length > _MOST_WORDS:
                raise ValueError(f"a message of {length} bytes")
            value = json.loads(self._read(length))
            if kind == b"e":
                raise _Refused(value)
            if kind == b"d":
                return frames[:count], {**value, "core_s": max(0.0, float(value["core_s"]))}
            new, height, width = map(int, value)
            if (count + new) * height * width * 3 > MOST_BYTES:
                raise _Died(f"it unpacks to more than {MOST_BYTES} bytes")
            if count + new > len(frames):
                frames = _larger(frames, max(most or 2 * len(frames), count + new), (height, width))
            size = height * width * 3
            if new:
                frames[count : count + new] = self._window[: new * size].reshape(new, height, width, 3)
            count += new
            self._channel.sendall(b".")
        raise TimeoutError

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            got = self._channel.recv(size - len(data))
            if not got:
                raise EOFError
            data += got
        return data

    def stop(self) -> None:
        """End the process."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def forget(self) -> None:
        """Let go of it in a forked process, whose parent goes on using it."""
        self._channel.close()
        self._process.returncode = 0


def _shared_memory() -> BinaryIO:
    """Memory as an open file; where the system has none, a file without a name."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("frames"), "w+b", buffering=0)
    return cast(BinaryIO, tempfile.TemporaryFile(buffering=0))


def _larger(frames: Bytes, room: int, size: tuple[int, int]) -> Bytes:
    """The same frames with room for so many."""
    larger = np.empty((room, *size, 3), np.uint8)
    if len(frames):
        larger[: len(frames)] = frames
    return larger


def _stop() -> None:
    """End the decoder, if there is one."""
    global _decoder
    if _decoder is not None:
        _decoder.stop()
        _decoder = None


def _forget() -> None:
    """After a fork: the process and its lock are the parent's."""
    global _decoder, _lock
    _lock = threading.Lock()
    if _decoder is not None:
        _decoder.forget()
        _decoder = None


atexit.register(_stop)
os.register_at_fork(after_in_child=_forget)
