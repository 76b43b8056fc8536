"""Worker processes that roll out batches, watched from the process that started them.

Policies run in workers only, with one worker too. A worker that dies or hangs is replaced, and its work is done again:
the policy that ran at that moment alone, the others without it. A policy that takes down a worker of its own as well is
reported and not called again. Isolated policies share no worker with others; their
workers stay while they wait for the next batch, as many as the memory allows.
"""

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from types import TracebackType
from typing import Any, Literal, Self

from worldsim import errors
from worldsim.errors import InvalidInputError, WorldsimError
from worldsim.text import printable, shorten
from worldsim.triage.engine.batches import Batch, BatchResult, Crash, hang
from worldsim.triage.engine.measures import FilmedRow
from worldsim.triage.engine.plan import Description
from worldsim.triage.engine.process import Done, Job, Refusal, WorkerProcess
from worldsim.triage.engine.rollouts import Loaders
from worldsim.triage.request import TriageRequest

_POLL_S = 0.5
_KEPT = 16  # processes, busy or idle, where more are not asked for
_MEMORY_LEFT = 0.25  # share of the memory; with less, no idle worker is kept beyond the number asked for
_MAX_DEATHS = 3  # of workers in which no policy ran at that moment, before the work itself is to blame


class Workers:
    """Worker processes; started when there is work, ended with the context.

    Loaders must be picklable, and a script that calls this needs the usual ``if __name__ == "__main__":`` guard.
    """

    def __init__(self, request: TriageRequest, *, loaders: Loaders) -> None:
        """Set up; no process is started yet."""
        self._request = request
        self._loaders = loaders
        self._workers: list[WorkerProcess] = []
        self._waiting: deque[Job] = deque()
        self._lost: dict[int, Crash] = {}
        self._suspects: set[int] = set()
        self._refusals: list[tuple[str, str]] = []
        self._came_through = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(list(self._workers))

    def describe(self, kind: str) -> Description:
        """Say what a plan must know of a world; a worker loads it.

        Raises:
            WorldsimError: As its loader.
            InvalidInputError: Workers keep dying while they load it.
        """
        (found,) = self._do([Job(method="describe", what=kind)])
        assert isinstance(found, Description)
        return found

    def run(self, batches: Sequence[Batch]) -> Iterator[BatchResult]:
        """Roll out batches and give results as they come; a batch may come in several parts.

        Raises:
            WorldsimError: The world or the judge cannot be loaded or fails.
            InvalidInputError: Workers keep dying while they load the world.
        """
        self._lost = {}
        for result in self._do([Job(method="run", what=batch) for batch in batches]):
            assert isinstance(result, BatchResult)
            yield result

    def film(self, batch: Batch) -> list[FilmedRow]:
        """Roll out a batch and draw it; rows of policies that fail are left out. Raises as `Rollouts.film`."""
        self._lost = {}
        return [row for part in self._do([Job(method="film", what=batch)]) for row in part]

    def time(self, batch: Batch, *, steps: Sequence[int]) -> list[float]:
        """Seconds that a batch takes when its episodes end after so many steps, as `Rollouts.time`."""
        self._lost = {}
        parts = list(self._do([Job(method="time", what=batch, more=(tuple(steps),))]))
        return [sum(part[i] for part in parts) for i in range(len(steps))]

    def _do(self, jobs: Sequence[Job]) -> Iterator[Any]:
        """Give out work, watch it, and give its answers."""
        self._end(self._busy)  # what an earlier caller did not wait for
        self._waiting = deque(jobs)
        while self._waiting or self._busy:
            self._assign(len(jobs))
            _wait(self._busy)
            for worker in self._busy:
                answer = worker.answer()
                if answer is None and not worker.is_overdue(self._request.timeout_s):
                    continue
                job = worker.take_job()
                if isinstance(answer, Done):
                    self._came_through |= bool(job.policies)
                    yield answer.value
                elif isinstance(answer, Refusal):
                    yield from self._refuse(worker, job, answer)
                else:
                    yield from self._reap(worker, job, hung=answer is None)

    @property
    def _busy(self) -> list[WorkerProcess]:
        return [worker for worker in self._workers if worker.job is not None]

    def _assign(self, jobs: int) -> None:
        """Give waiting work to idle workers."""
        size = min(self._request.workers, max(jobs, 1))
        self._waiting = deque(part for job in self._waiting for part in self._split(job))
        while self._waiting and len(self._busy) < size:
            job = self._waiting.popleft()
            self._find_worker(self._owner(job)).send(job, self._lost)

    def _find_worker(self, owner: int | None) -> WorkerProcess:
        """Return an idle worker of this owner, or a new one.

        Idle workers of other policies are kept for their next batch, so that they need not load their world again; the
        least recently used make room.
        """
        idle = [worker for worker in self._workers if worker.job is None]
        fitting = [worker for worker in idle if worker.owner == owner]
        if fitting:
            self._workers.remove(fitting[-1])
            self._workers.append(fitting[-1])  # the list is in the order of use
            return fitting[-1]
        kept = _KEPT if all(worker.board.memory_left >= _MEMORY_LEFT for worker in self._workers) else 0
        self._end(idle[: max(0, len(self._workers) + 1 - max(self._request.workers, kept))])
        self._workers.append(WorkerProcess(self._request, self._loaders, owner=owner))
        return self._workers[-1]

    def _end(self, workers: Sequence[WorkerProcess]) -> None:
        for worker in workers:
            self._workers.remove(worker)
            worker.kill()

    def _split(self, job: Job) -> list[Job]:
        """Take policies that have taken down a worker out of work that others share."""
        apart = [p for p in job.policies if p in self._suspects and p not in self._lost]
        rest = [p for p in job.policies if p not in apart]
        if not apart or len(job.policies) == 1:
            return [job]
        return [*([job.only(rest)] if rest else []), *(job.only([p]) for p in apart)]

    def _owner(self, job: Job) -> int | None:
        """The policy that a worker of its own is needed for; None for work that shares one."""
        if len(job.policies) != 1 or job.policies[0] in self._lost:
            return None
        (policy,) = job.policies
        return policy if policy in self._suspects or self._request.policies[policy].isolated else None

    def _reap(self, worker: WorkerProcess, job: Job, *, hung: bool) -> Iterator[BatchResult]:
        """Remove a worker that hangs or has died, and put what it was doing back to work, or report who is to blame."""
        self._workers.remove(worker)
        acting, loaded = worker.board.acting, worker.board.loaded
        exitcode = worker.kill(linger=not hung)
        if not loaded:  # memory may be short
            self._end([other for other in self._workers if other.job is None])
        if acting is not None and acting[0] in job.policies:
            yield from self._blame(acting[0], job, hung=hung, exitcode=exitcode)
            return
        if job.deaths + 1 < _MAX_DEATHS:
            self._waiting.appendleft(dataclasses.replace(job, deaths=job.deaths + 1))
        elif loaded and len(job.policies) > 1:
            self._suspects.update(job.policies)
            self._waiting.extendleft(dataclasses.replace(job.only([p]), deaths=0) for p in job.policies)
        elif loaded and job.policies:
            yield from self._report(job.policies[0], job, f"its process died (exit code {exitcode}) in its episodes")
        else:
            raise InvalidInputError(
                f"{_MAX_DEATHS} worker processes died, one after the other (the last with exit code {exitcode}), while "
                f"they loaded {_loading(job)} and before any policy ran. The usual cause is too little memory for {self._request.workers} "
                "workers; ask for fewer."
            )

    def _refuse(self, worker: WorkerProcess, job: Job, refusal: Refusal) -> Iterator[BatchResult]:
        """Raise a worker's error, unless a policy that ran in that process may have broken what others need.

        The work is then done again, each policy in a new process of its own, and a policy that meets the error there
        is reported; where nothing has come through and several meet the same error, it is the world's or the judge's.
        """
        if not worker.board.has_run:
            raise _error_from(refusal)
        self._workers.remove(worker)
        worker.kill()
        if worker.owner is None:
            if job.deaths + 1 == _MAX_DEATHS:
                raise _error_from(refusal)
            self._end([other for other in self._workers if other.job is None and other.board.has_run])
            self._suspects.update(job.policies)
            self._waiting.appendleft(dataclasses.replace(job, deaths=job.deaths + 1))
            return
        self._refusals.append((refusal.kind, refusal.message))
        same = self._refusals.count(self._refusals[-1])
        if not self._came_through and same >= min(_MAX_DEATHS, len(self._request.policies)) > 1:
            raise _error_from(refusal)
        what = f"{refusal.kind}: {printable(shorten(refusal.message, width=200))}"
        yield from self._report(worker.owner, job, f"the world failed in its process after it had run ({what})")

    def _blame(self, policy: int, job: Job, *, hung: bool, exitcode: int | None) -> Iterator[BatchResult]:
        """Run a policy that took a worker down alone, and the others without it; report it if it was alone already."""
        self._suspects.add(policy)
        rest = [other for other in job.policies if other != policy]
        if rest:
            alone, others = job.only([policy]), job.only(rest)
            self._waiting.extendleft([dataclasses.replace(alone, deaths=1), dataclasses.replace(others, deaths=0)])
        elif hung:
            yield from self._report(policy, job, hang(policy, self._request.timeout_s).reason, stage="hang")
        elif job.deaths == 0:
            self._waiting.appendleft(dataclasses.replace(job, deaths=1))
        else:
            yield from self._report(policy, job, f"its process died (exit code {exitcode}) while it ran")

    def _report(
        self, policy: int, job: Job, reason: str, *, stage: Literal["hang", "death"] = "death"
    ) -> Iterator[BatchResult]:
        """Report a policy as failed; it is not called again."""
        self._lost[policy] = Crash(policy=policy, stage=stage, step=-1, reason=reason)
        if job.method == "run":
            assert isinstance(job.what, Batch)
            yield BatchResult(batch=job.what, rollouts=(), crashes=(self._lost[policy],))


def _wait(workers: Sequence[WorkerProcess]) -> None:
    """Wait until a worker has an answer or has ended, or for a moment, to look for those that hang."""
    events = [event for worker in workers for event in worker.events]
    if events:
        connection.wait(events, timeout=_POLL_S)


def _loading(job: Job) -> str:
    return f"the {job.what.kind if isinstance(job.what, Batch) else job.what} world"


def _error_from(refusal: Refusal) -> Exception:
    """Build the error for a worker that could not do its work."""
    kind = getattr(errors, refusal.kind, None)
    if isinstance(kind, type) and issubclass(kind, WorldsimError):
        return kind(refusal.message)
    return RuntimeError(f"A worker process failed: {refusal.kind}: {refusal.message}\n{refusal.trace}")
