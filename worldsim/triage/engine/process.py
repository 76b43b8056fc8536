"""A worker process, from both ends: it calls the methods of `Rollouts` that its parent asks for.

It writes into shared memory which policy runs and since when, so that the parent can tell a hung policy from a slow
batch. It ends when its parent does.
"""

import contextlib
import ctypes
import dataclasses
import os
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing import connection, get_all_start_methods, get_context, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, Literal

import torch

from worldsim.errors import InvalidInputError
from worldsim.triage.engine.batches import Batch, Crash
from worldsim.triage.engine.channel import (
    Board,
    ClosedChannelError,
    GarbledChannelError,
    Inbox,
    Pipe,
    divert_output,
    draw_token,
    relay_output,
    send_answer,
)
from worldsim.triage.engine.rollouts import Loaders, Rollouts
from worldsim.triage.request import TriageRequest

_GRACE_S = 5.0
_LAST_WORDS_S = 0.5  # a child that has left the worker's group may keep its output open
_START_TRIES = 5
_TOP_LEVEL = (
    "Policies run in processes of their own, so loaders of worlds, policies and judges must be functions or dataclasses at "
    "the top level of a module that can be imported."
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """A call of one method of `Rollouts`.

    Attributes:
        method: Its name.
        what: What it is called with first: a batch, or the kind of a world.
        more: Further arguments.
        deaths: Workers that this work has cost so far.
    """

    method: Literal["describe", "run", "film", "time"]
    what: Batch | str
    more: tuple[Any, ...] = ()
    deaths: int = 0

    @property
    def policies(self) -> tuple[int, ...]:
        """The policies it calls."""
        return tuple(self.what.live) if isinstance(self.what, Batch) else ()

    def only(self, policies: Sequence[int]) -> "Job":
        """The same work for some of its policies."""
        assert isinstance(self.what, Batch)
        return dataclasses.replace(self, what=self.what.only(policies))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Done:
    """A method's answer."""

    value: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refusal:
    """An error that a worker's method raised: its class, message and traceback."""

    kind: str
    message: str
    trace: str


class Gone:
    """The worker has died."""


class WorkerProcess:
    """The parent's end of a worker process.

    Attributes:
        owner: The policy whose own worker it is; None for one that is shared.
        job: What it is doing.
        board: What it says of that.
    """

    def __init__(self, request: TriageRequest, loaders: Loaders, *, owner: int | None) -> None:
        """Start the process.

        Raises:
            InvalidInputError: A loader cannot be sent to another process, or no process can be started.
        """
        self.owner = owner
        self.job: Job | None = None
        self._process, self._pipe, self._inbox, self._relay, self.board = _start(request, loaders)
        self._orphaned = False

    def send(self, job: Job, lost: dict[int, Crash]) -> None:
        """Hand over work. A worker that is gone is noticed at its answer."""
        self.job = job
        arguments = (job.what,) if job.method == "describe" else (job.what, dict(lost), *job.more)
        with contextlib.suppress(OSError):
            self._pipe.send((job.method, arguments))

    def take_job(self) -> Job:
        """Return what it was doing; it is idle now."""
        assert self.job is not None
        job, self.job = self.job, None
        return job

    def answer(self) -> Done | Refusal | Gone | None:
        """Return what has come back, if anything has."""
        try:
            answer = self._inbox.receive()
        except ClosedChannelError:
            return Gone()
        except GarbledChannelError:  # a policy has written into it
            self._process.kill()
            return Gone()
        if answer is not None:
            return answer if isinstance(answer, Done | Refusal) else Gone()
        if self._process.exitcode is None:
            return None
        self._orphaned = _exists(self._process.pid)  # the fork server has died; the worker itself goes on
        return None if self._orphaned else Gone()

    def is_overdue(self, timeout_s: float) -> bool:
        """Whether a policy has run for longer than this."""
        acting = self.board.acting  # read once: the worker goes on meanwhile
        return acting is not None and acting[1] > timeout_s

    @property
    def events(self) -> list[Any]:
        """What to wait for: an answer, or its end."""
        return [self._pipe] if self._orphaned else [self._pipe, self._process.sentinel]

    def kill(self, *, linger: bool = False) -> int | None:
        """End the process and those it has forked, and return its exit code; `linger` lets it die by itself first."""
        if linger and not self._orphaned:
            self._process.join(_GRACE_S)
        exitcode = self._process.exitcode
        pid = self._process.pid
        assert pid
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        if exitcode is None or self._orphaned:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._process.join(_GRACE_S)
        self._relay.join(_LAST_WORDS_S)
        self._pipe.close()
        return exitcode if exitcode is not None else self._process.exitcode


def _exists(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except OSError:
        return False
    return True


def _start(request: TriageRequest, loaders: Loaders) -> tuple[Any, Pipe, Inbox, threading.Thread, Board]:
    """Start a worker; a fork server that has died is started again."""
    context = _context()
    for attempt in range(_START_TRIES):
        cells = context.RawArray(ctypes.c_double, Board.SIZE)
        board, token = Board(cells), draw_token()
        board.clear()
        (pipe, far), (printed, output) = context.Pipe(), context.Pipe(duplex=False)
        process = context.Process(target=_serve, args=(far, output, token, cells), daemon=True)
        try:
            process.start()
        except (OSError, EOFError) as error:
            pipe.close()
            printed.close()
            if attempt == _START_TRIES - 1:
                raise InvalidInputError(
                    f"A worker process could not be started: {error}. Close other programs, or ask for fewer workers."
                ) from error
            time.sleep(0.1 * 2**attempt)
        else:
            relay = relay_output(printed)
            _hand_over(request, loaders, pipe, process)
            return process, pipe, Inbox(pipe, token), relay, board
        finally:
            far.close()
            output.close()
    raise AssertionError


def _hand_over(request: TriageRequest, loaders: Loaders, pipe: Pipe, process: Any) -> None:
    """Send a new worker what it rolls out with; one that is gone already is noticed at its first answer."""
    try:
        pipe.send((request, loaders))
    except OSError:
        return
    except Exception as error:  # pickling raises almost anything
        process.kill()
        process.join()
        pipe.close()
        raise InvalidInputError(f"The loaders cannot be sent to a worker process: {error}. {_TOP_LEVEL}") from error


def _context() -> ForkServerContext | SpawnContext:
    """Processes that inherit nothing: forked from a clean server with torch loaded, or spawned where there is none."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["worldsim.triage.engine.process"])
    return context


def _serve(pipe: Pipe, output: Pipe, token: bytes, cells: Any) -> None:
    """The worker's end: do what comes through the pipe until it closes."""
    with contextlib.suppress(OSError):
        os.setsid()  # policies that fork are ended with their worker; Ctrl-C is the parent's to hear
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    divert_output(output)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    board, process = Board(cells), os.getpid()
    rollouts = _receive(pipe, board)
    while True:
        try:
            method, arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if isinstance(rollouts, InvalidInputError):
                raise rollouts
            answer: Done | Refusal = Done(value=getattr(rollouts, method)(*arguments))
        except Exception as error:
            answer = Refusal(kind=type(error).__name__, message=str(error), trace=traceback.format_exc())
        if os.getpid() != process:
            os._exit(1)
        board.set_memory_left(_memory_left())
        try:
            send_answer(pipe, token, answer)
        except OSError:
            return


def _receive(pipe: Pipe, board: Board) -> Rollouts | InvalidInputError:
    """What the worker rolls out with, or why it cannot be imported here."""
    try:
        request, loaders = pipe.recv()
    except Exception as error:  # a module of the user's may raise anything
        return InvalidInputError(
            f"The loaders cannot be imported in a worker process: {type(error).__name__}: {error}. {_TOP_LEVEL}"
        )
    return Rollouts(request, loaders=loaders, board=board)


def _memory_left() -> float:
    """Share of the machine's memory that is free, or of the device's where that is less; 1 where nothing is known."""
    shares = [1.0]
    with contextlib.suppress(OSError, LookupError, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        size = {line.split(":")[0]: float(line.split()[1]) for line in lines}
        shares.append(size["MemAvailable"] / size["MemTotal"])
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        free, total = torch.cuda.mem_get_info()
        shares.append(free / total)
    return min(shares)


def _end_with_parent() -> None:
    """Leave with the parent, even in the middle of a policy that hangs."""
    parent = parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        with contextlib.suppress(OSError):
            os.killpg(0, signal.SIGKILL)
        os._exit(1)
