"""A worker process: its two ends, here and there.

The worker says through shared memory which policy runs and since when, so that the parent can tell a hung policy from a
slow wave. It ends when its parent does. Not for dividing work (`worldsim.triage.engine.workers`).
"""

import ctypes
import os
import signal
import threading
import time
import traceback
from collections.abc import Mapping
from multiprocessing import connection, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import Any

import torch

from worldsim.errors import InvalidInputError
from worldsim.triage.engine.batches import Crash, Wave, WaveResult
from worldsim.triage.engine.bench import Bench, Loaders
from worldsim.triage.engine.plan import Description
from worldsim.triage.request import TriageRequest

Answer = WaveResult | Description | tuple[str, str, str] | EOFError | None
"""A result, an error as (class, message, traceback), the news that the worker is gone, or nothing yet."""
_NOBODY = -1.0
_GRACE_S = 5.0


class Board:
    """Shared memory in which a worker says who runs: policy index and monotonic time."""

    def __init__(self, cells: Any) -> None:
        """Wrap two shared doubles."""
        self._cells = cells
        cells[0] = _NOBODY

    def enter(self, policy: int) -> None:
        """See `Watch.enter`."""
        self._cells[1] = time.monotonic()
        self._cells[0] = policy

    def leave(self) -> None:
        """See `Watch.leave`."""
        self._cells[0] = _NOBODY

    @property
    def acting(self) -> tuple[int, float] | None:
        """Which policy runs, and for how many seconds; None if none does."""
        policy, since = self._cells[0], self._cells[1]
        return None if policy == _NOBODY else (int(policy), time.monotonic() - since)


class Worker:
    """The parent's end."""

    def __init__(self, context: ForkServerContext | SpawnContext, *, request: TriageRequest, loaders: Loaders) -> None:
        """Start the process.

        Raises:
            InvalidInputError: A loader cannot be sent to another process.
        """
        cells = context.RawArray(ctypes.c_double, 2)
        self._board = Board(cells)
        self.wave: Wave | None = None
        self.pipe, far = context.Pipe()
        self._process = context.Process(target=_serve, args=(far, cells, request, loaders), daemon=True)
        try:
            self._process.start()
        except (AttributeError, TypeError, OSError, ValueError, ImportError) as error:
            raise InvalidInputError(
                f"A worker process could not be started: {error}. Loaders of worlds and policies must be functions or "
                "dataclasses at the top level of a module; or use workers=1."
            ) from error
        finally:
            far.close()

    @property
    def acting(self) -> tuple[int, float] | None:
        """Which policy runs, and for how many seconds; None if none does. Frozen once the process is gone."""
        return self._board.acting

    def send(self, work: Wave | str, lost: Mapping[int, Crash]) -> None:
        """Hand over a wave, or the kind of a world to describe. A worker that is gone is noticed at its answer."""
        self.wave = work if isinstance(work, Wave) else None
        try:
            self.pipe.send((work, dict(lost)))
        except (BrokenPipeError, ConnectionResetError):
            return

    def answer(self) -> Answer:
        """Return what has come back, if anything has."""
        try:
            if not self.pipe.poll():
                return None
            answer: Answer = self.pipe.recv()
        except (EOFError, ConnectionResetError):
            return EOFError()
        if isinstance(answer, WaveResult):
            self.wave = None
        return answer

    def kill(self, *, linger: bool = False) -> int | None:
        """End the process, whatever it is doing, and return its exit code; `linger` lets it die by itself first."""
        if linger:
            self._process.join(_GRACE_S)
        self._process.kill()
        self._process.join(_GRACE_S)
        self.pipe.close()
        return self._process.exitcode


def _serve(pipe: "connection.Connection[Any, Any]", cells: Any, request: TriageRequest, loaders: Loaders) -> None:
    """The worker's end: roll out what comes through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and ends its workers
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    bench = Bench(request, loaders=loaders, watch=Board(cells))
    while True:
        try:
            work, lost = pipe.recv()
        except EOFError:
            return
        answer: Answer
        try:
            answer = bench.run(work, lost=lost) if isinstance(work, Wave) else bench.describe(work)
        except Exception as error:
            answer = (type(error).__name__, str(error), traceback.format_exc())
        try:
            pipe.send(answer)
        except (BrokenPipeError, ConnectionResetError):
            return


def _end_with_parent() -> None:
    """Leave with the parent, even in the middle of a policy that hangs."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
