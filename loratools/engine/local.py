"""The local engine: jobs run side by side on worker threads, results come back in the order of the jobs.

Arithmetic inside a job runs on one thread, so that the bytes written never depend on how many workers there
are; torch and numpy free the interpreter's lock in their kernels, so threads are enough.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

from loratools.engine.admission import Admission
from loratools.engine.blas import one_thread
from loratools.engine.device import ON_PROCESSOR, Asked
from loratools.engine.kept import let_go
from loratools.engine.limits import processors
from loratools.engine.place import exact_products
from loratools.engine.placement import Placement, choose
from loratools.engine.plan import Job, memory_of
from loratools.engine.progress import Progress, Silent

Result = TypeVar("Result")

_LOOK_UP_SECONDS = 0.25
"""How long a wait lasts at most: a signal that comes between Python's last look and the wait itself does not
end it (6 of 8,000 did not, tried), and its handler would only run when the job is done."""


@dataclass(frozen=True)
class _UnderWay(Generic[Result]):
    """A job that was handed to a worker; `done` is taken until it is through."""

    job: Job[Result]
    future: Future[Result]
    done: Lock

    @classmethod
    def of(
        cls,
        job: Job[Result],
        pool: ThreadPoolExecutor,
        placement: Placement,
        workspace: Path,
        admission: Admission,
        signals: Sequence[int],
    ) -> _UnderWay[Result]:
        def admitted() -> Result:
            with admission.room(memory_of(job)):
                result = placement.run(job, workspace)
                if admission.scarce:
                    let_go()
                return result

        done = Lock()
        done.acquire()
        with _signals_wait(signals):
            future = pool.submit(admitted)
            future.add_done_callback(lambda _: done.release())
        return cls(job, future, done)

    def result(self) -> Result:
        """Waits on nothing but a plain lock, which an interruption leaves as it is."""
        while not self.done.acquire(timeout=_LOOK_UP_SECONDS):
            pass
        return self.future.result()


class LocalEngine:
    """Runs jobs on `workers` threads of this process (default: one a processor that it may keep busy), some
    of them on devices.

    Args:
        device: what `settle` chooses by.
        placement: instead, what it has chosen already.
    """

    def __init__(
        self,
        workers: int | None = None,
        progress: Progress | None = None,
        *,
        device: Asked = ON_PROCESSOR,
        placement: Placement | None = None,
    ) -> None:
        self.workers = workers or processors()
        self.progress = progress or Silent()
        self._budget: int | None = None
        self._workers_given = workers is not None
        self._device, self._settled = device, placement
        self._placement = Placement.on_processor()

    elsewhere = False

    def allow(self, memory: int | None) -> None:
        """Jobs side by side hold at most so many bytes from now on; one that needs more runs alone."""
        self._budget = memory

    def settle(self, jobs: Sequence[Job[Any]]) -> Placement:
        """Decides where the jobs of a run compute; devices get the threads that they need, unless these were
        counted by the caller."""
        self._placement = self._settled or Placement(choose(self._device, jobs, workers=self.workers))
        if not self._workers_given:
            self.workers = max(self.workers, self._placement.threads)
        return self._placement

    def run(
        self, what: str, jobs: Sequence[Job[Result]], workspace: Path, *, torch: bool = True
    ) -> Iterator[tuple[Job[Result], Result]]:
        """Yields each job with its result, in the order of `jobs`.

        Jobs that do not use torch, which takes 2 s to import, say `torch=False`.

        At most `workers` jobs are under way and at most as many results wait, so memory does not follow the
        number of jobs. The first job that fails ends the run: those not begun are cancelled, and its error is
        raised here.
        """
        self.progress.start(what, len(jobs), sum(job.bytes for job in jobs))
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="loratools")
        waiting: deque[_UnderWay[Result]] = deque()
        pending = iter(jobs)
        admission = Admission.of(map(memory_of, jobs), self.workers, self._budget)
        signals = _that_raise()
        try:
            with _one_thread_a_job(torch or bool(self._placement.places)):
                for job in pending:
                    waiting.append(_UnderWay.of(job, pool, self._placement, workspace, admission, signals))
                    if len(waiting) > 2 * self.workers:
                        yield self._collect(waiting)
                while waiting:
                    yield self._collect(waiting)
        finally:
            admission.close()
            pool.shutdown(wait=True, cancel_futures=True)
            self.progress.finish()

    def _collect(self, waiting: deque[_UnderWay[Result]]) -> tuple[Job[Result], Result]:
        first = waiting.popleft()
        result = first.result()
        self.progress.advance(first.job.name, first.job.bytes)
        return first.job, result


@contextmanager
def _signals_wait(signals: Sequence[int]) -> Iterator[None]:
    """Holds these signals back in this thread and in those that it starts.

    An exception out of a signal's handler, raised while Python's own locks are taken, would leave them taken:
    workers would wait for them for good, and so would whoever waits for the workers.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _that_raise() -> list[int]:
    """The signals whose handlers are Python's, the only ones that can raise: to hold all back takes as long
    as a small job, and to look through them a third of that, so that it is done once a run."""
    return [number for number in _SIGNALS if callable(signal.getsignal(number))]


_SIGNALS = tuple(sorted(signal.valid_signals()))


@contextmanager
def _one_thread_a_job(with_torch: bool) -> Iterator[None]:
    """The libraries' own threads off for the time of a run: torch's, and those of the BLAS under numpy."""
    import numpy as np  # noqa: F401 (brings its BLAS, which is to be found loaded)

    with one_thread():
        if not with_torch:
            yield
            return
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with exact_products():
                yield
        finally:
            torch.set_num_threads(before)
