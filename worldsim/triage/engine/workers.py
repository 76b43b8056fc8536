"""Where waves are rolled out: in this process, or in a pool of worker processes with a watchdog.

Both give the same results; a pool is faster and survives policies that hang in native code or kill their process.
Results come as they finish, in any order. Not for deciding what to roll out (`worldsim.triage.run`).
"""

import signal
import threading
from collections.abc import Iterator, Sequence
from multiprocessing import connection, get_all_start_methods, get_context
from multiprocessing.context import ForkServerContext, SpawnContext
from types import FrameType, TracebackType
from typing import Protocol, Self

from worldsim import errors
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.triage.engine.batches import Crash, Wave, WaveResult
from worldsim.triage.engine.bench import Bench, Loaders
from worldsim.triage.engine.group import PolicyHang, hang
from worldsim.triage.engine.plan import Description
from worldsim.triage.engine.worker import Answer, Worker
from worldsim.triage.request import TriageRequest

_POLL_S = 0.5
_LIVES = 2  # a wave may take this many workers down before something is blamed


class Executor(Protocol):
    """Rolls out waves."""

    def __enter__(self) -> Self:
        """Get ready; nothing is loaded before it is needed."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything, rollouts under way included."""

    def describe(self, kind: str) -> Description:
        """Say what a plan must know of a world."""

    def run(self, waves: Sequence[Wave]) -> Iterator[WaveResult]:
        """Roll out waves and give each result as it is there; a policy that hangs once is not called again."""


def make_executor(request: TriageRequest, *, loaders: Loaders) -> "InProcess | Pool":
    """Choose by the number of workers asked for."""
    return InProcess(request, loaders=loaders) if request.workers == 1 else Pool(request, loaders=loaders)


class InProcess:
    """Rolls out in the calling process, which starts at once and loads everything once."""

    def __init__(self, request: TriageRequest, *, loaders: Loaders) -> None:
        """Set up; see `Bench`."""
        self._alarm = _Alarm(request.timeout_s)
        self._bench = Bench(request, loaders=loaders, watch=self._alarm)

    def __enter__(self) -> Self:
        self._alarm.install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._alarm.remove()

    def describe(self, kind: str) -> Description:
        """See `Executor.describe`."""
        return self._bench.describe(kind)

    def run(self, waves: Sequence[Wave]) -> Iterator[WaveResult]:
        """See `Executor.run`."""
        lost: dict[int, Crash] = {}
        for wave in waves:
            result = self._bench.run(wave, lost=lost)
            lost |= {crash.policy: crash for crash in result.crashes if crash.stage == "hang"}
            yield result


class Pool:
    """Rolls out in worker processes, one wave each at a time.

    Processes are started when the first wave is there. Loaders must be picklable, and a script that calls this needs
    the usual ``if __name__ == "__main__":`` guard.
    """

    def __init__(self, request: TriageRequest, *, loaders: Loaders) -> None:
        """Set up; no process is started yet."""
        self._request = request
        self._loaders = loaders
        self._workers: list[Worker] = []
        self._lost: dict[int, Crash] = {}
        self._deaths: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def describe(self, kind: str) -> Description:
        """See `Executor.describe`."""
        worker = self._grown(1)[0]
        worker.send(kind, {})
        while True:
            connection.wait([worker.pipe], timeout=_POLL_S)
            answer = worker.answer()
            if isinstance(answer, Description):
                return answer
            if answer is not None:
                raise _told(answer, f"the {kind} world")

    def run(self, waves: Sequence[Wave]) -> Iterator[WaveResult]:
        """See `Executor.run`."""
        self._lost, self._deaths = {}, {}
        waiting = list(reversed(waves))
        while waiting or any(w.wave for w in self._workers):
            for worker in self._grown(min(self._request.workers, len(waves))):
                if waiting and worker.wave is None:
                    worker.send(waiting.pop(), self._lost)
            connection.wait([w.pipe for w in self._workers if w.wave], timeout=_POLL_S)
            for worker in [w for w in self._workers if w.wave]:
                answer = worker.answer()
                if isinstance(answer, WaveResult):
                    yield answer
                elif answer is not None or (worker.acting or (0, 0.0))[1] > self._request.timeout_s:
                    waiting.append(self._bury(worker, answer))

    def _grown(self, size: int) -> list[Worker]:
        """Start workers until there are `size`."""
        while len(self._workers) < size:
            self._workers.append(Worker(_context(), request=self._request, loaders=self._loaders))
        return self._workers

    def _bury(self, worker: Worker, answer: Answer) -> Wave:
        """Remove a worker that hangs or has died, find who is to blame, and return its wave to be rolled out again.

        Raises:
            WorldsimError: No policy is to blame.
        """
        wave = worker.wave
        self._workers.remove(worker)
        exitcode = worker.kill(linger=isinstance(answer, EOFError))
        policy, seconds = worker.acting or (None, 0.0)
        if wave is None or isinstance(answer, tuple):
            raise _told(answer, "rolling out")
        if answer is None:
            if policy is not None and seconds > self._request.timeout_s:
                self._lost[policy] = hang(policy, self._request.timeout_s)
            return wave
        self._deaths[wave.id] = self._deaths.get(wave.id, 0) + 1
        if self._deaths[wave.id] >= _LIVES:
            if policy is None:
                raise _told(answer, "rolling out")
            reason = f"its process died (exit code {exitcode}) while it ran"
            self._lost[policy] = Crash(policy=policy, stage="death", step=-1, reason=reason)
        return wave


def _told(answer: Answer, what: str) -> Exception:
    """Build the error for a worker that could not do its work."""
    if isinstance(answer, tuple):
        name, message, trace = answer
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, WorldsimError):
            return kind(message)
        return RuntimeError(f"A worker process failed at {what}: {name}: {message}\n{trace}")
    return InvalidInputError(
        f"A worker process died at {what} before any policy ran. Common causes: too little memory for the number of "
        "workers, or loaders that cannot be imported in another process. Try workers=1 to see the error itself."
    )


def _context() -> ForkServerContext | SpawnContext:
    """Processes that inherit nothing: forked from a clean server with torch loaded, or spawned where there is none."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(["worldsim.triage.engine.worker"])
    return context


class _Alarm:
    """Interrupts a policy that takes too long, as soon as it is back in Python code.

    Works in the main thread only, and only if nobody else uses the alarm signal; elsewhere it does nothing.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._installed = False

    def install(self) -> None:
        """Take the alarm signal, if it is free."""
        free = signal.getsignal(signal.SIGALRM) in (signal.SIG_DFL, signal.SIG_IGN)
        self._installed = free and threading.current_thread() is threading.main_thread()
        if self._installed:
            signal.signal(signal.SIGALRM, self._ring)

    def remove(self) -> None:
        """Give it back."""
        if self._installed:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._installed = False

    def enter(self, policy: int) -> None:
        """See `Watch.enter`."""
        if self._installed:
            signal.setitimer(signal.ITIMER_REAL, self._timeout_s)

    def leave(self) -> None:
        """See `Watch.leave`."""
        if self._installed:
            signal.setitimer(signal.ITIMER_REAL, 0)

    @staticmethod
    def _ring(number: int, frame: FrameType | None) -> None:
        raise PolicyHang
