"""What passes between a worker process and its parent: messages, a board of shared numbers, and what the worker prints.

The worker runs code of the user's, which may write into any of its descriptors and stop in the middle. So the parent
never waits for the rest of a message: it reads what there is, and takes a message for one only where it begins with a
token that was drawn for this worker.
"""

import codecs
import contextlib
import os
import pickle
import struct
import sys
import threading
import time
from multiprocessing import connection
from typing import Any

from worldsim.text import printable

Pipe = connection.Connection
_TOKEN_BYTES = 16
_LENGTH = struct.Struct("!Q")
_HEAD_BYTES = _TOKEN_BYTES + _LENGTH.size
_CHUNK_BYTES = 1 << 16
_SHOWN_CHARACTERS = 1 << 16  # of what one worker prints


class ClosedChannelError(Exception):
    """The worker's end has closed."""


class GarbledChannelError(Exception):
    """What came through the channel is no message."""


def draw_token() -> bytes:
    """A new token for one worker."""
    return os.urandom(_TOKEN_BYTES)


def send_answer(pipe: Pipe, token: bytes, answer: object) -> None:
    """Send an answer from the worker to its parent.

    Raises:
        OSError: The parent is gone.
    """
    data = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
    for part in (token + _LENGTH.pack(len(data)), data):
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(pipe.fileno(), rest) :]


class Inbox:
    """The parent's end: answers of one worker, as far as they have come."""

    def __init__(self, pipe: Pipe, token: bytes) -> None:
        """Read from `pipe` what the worker sends with `send_answer` under the same token."""
        self._pipe, self._token = pipe, token
        self._bytes = bytearray()

    def receive(self) -> Any:
        """Return the next answer, or None while none is complete. Does not wait.

        Raises:
            ClosedChannelError: The worker's end has closed.
            GarbledChannelError: What came does not begin with the token, or is no pickle.
        """
        closed = self._read()
        if not self._token.startswith(bytes(self._bytes[:_TOKEN_BYTES])):
            raise GarbledChannelError
        if len(self._bytes) >= _HEAD_BYTES:
            (size,) = _LENGTH.unpack_from(self._bytes, _TOKEN_BYTES)
            if len(self._bytes) >= _HEAD_BYTES + size:
                data = bytes(self._bytes[_HEAD_BYTES : _HEAD_BYTES + size])
                del self._bytes[: _HEAD_BYTES + size]
                try:
                    return pickle.loads(data)  # noqa: S301 - what bears the token was written by our own code
                except Exception as error:  # unpickling raises almost anything
                    raise GarbledChannelError from error
        if closed:
            raise ClosedChannelError
        return None

    def _read(self) -> bool:
        """Take what there is; returns whether the other end has closed."""
        try:
            while self._pipe.poll():
                chunk = os.read(self._pipe.fileno(), _CHUNK_BYTES)
                self._bytes += chunk
                if len(chunk) < _CHUNK_BYTES:
                    return not chunk
        except (OSError, EOFError):
            return True
        return False


def divert_output(pipe: Pipe) -> None:
    """In the worker: send what it, its libraries and its children print through `pipe` instead of to the terminal."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a stream of the caller's own making
            stream.flush()
            stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    os.dup2(pipe.fileno(), 1)
    os.dup2(pipe.fileno(), 2)
    pipe.close()


def relay_output(pipe: Pipe) -> threading.Thread:
    """In the parent: show what a worker prints on stderr, without control characters and no more than 64 KiB of it.

    Returns:
        The thread that does it, and closes `pipe` at the end of the output.
    """
    thread = threading.Thread(target=_relay, args=(pipe,), daemon=True)
    thread.start()
    return thread


def _relay(pipe: Pipe) -> None:
    decoder, left = codecs.getincrementaldecoder("utf-8")("replace"), _SHOWN_CHARACTERS
    with pipe:
        while True:
            try:
                chunk = os.read(pipe.fileno(), _CHUNK_BYTES)
            except OSError:
                return
            text = printable(decoder.decode(chunk, final=not chunk), lines=True)
            shown, left = text[:left], max(0, left - len(text))
            with contextlib.suppress(OSError, ValueError):  # a closed stderr
                sys.stderr.write(shown)
                if shown and not left:
                    sys.stderr.write("\n(This worker process prints a great deal; the rest is not shown.)\n")
                sys.stderr.flush()
            if not chunk:
                return


class Board:
    """What a worker does, in shared doubles: running policy, since when, world loaded, memory left, any policy has run."""

    SIZE = 5

    def __init__(self, cells: Any) -> None:
        """Wrap the cells; a parent begins them with `clear`."""
        self._cells = cells

    def clear(self) -> None:
        """No policy runs, no world is loaded, and the memory is free."""
        self._cells[:] = [-1.0, 0.0, 0.0, 1.0, 0.0]

    def enter(self, policy: int) -> None:
        """The policy of this index runs now."""
        self._cells[1] = time.monotonic()
        self._cells[4] = 1.0
        self._cells[0] = policy

    def leave(self) -> None:
        """It has come back."""
        self._cells[0] = -1.0

    def set_loaded(self) -> None:
        """The worlds needed so far are loaded."""
        self._cells[2] = 1.0

    def set_memory_left(self, share: float) -> None:
        """So much of the memory was free after the last work, in 0..1."""
        self._cells[3] = share

    @property
    def memory_left(self) -> float:
        """Share of the machine's or the device's memory that was free after the worker's last work, the smaller one."""
        return float(self._cells[3])

    @property
    def loaded(self) -> bool:
        """Whether a world has been loaded."""
        return bool(self._cells[2])

    @property
    def has_run(self) -> bool:
        """Whether any policy has been called."""
        return bool(self._cells[4])

    @property
    def acting(self) -> tuple[int, float] | None:
        """Which policy runs, and for how many seconds; None if none does."""
        policy, since = self._cells[0], self._cells[1]
        return None if policy < 0 else (int(policy), time.monotonic() - since)
