"""The thread that talks to a Dask scheduler: it sends jobs out, some at a time, and brings answers back.

A thread of its own, because an interruption reaches the main thread only, where it may come at any line: here
none of Dask's locks is ever left taken by one.
"""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from blake3 import blake3

from loratools.engine.crew import Crew, assemble, inspected
from loratools.engine.errand import Answer, Errand, perform, under_way
from loratools.engine.plan import Job, PartedJob
from loratools.engine.scheduler import CONNECT_SECONDS, connected, in_one_line
from loratools.errors import LoratoolsError

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["JOBS_A_THREAD", "LOOK_SECONDS", "Dispatch", "Ended", "Order", "threads_of"]

LOOK_SECONDS = 0.25
"""How long any wait lasts before it is looked whether the run was stopped."""

CREW_SECONDS = 5.0
"""Time between two looks at how many workers there are."""

ALONE_SECONDS = 120.0
"""How long a run waits when its last worker has gone: batch systems start others in place of those whose time
is up."""

PATIENCE_SECONDS = 60.0
"""How long a run that is over waits for jobs that cannot be stopped, lest they write into what is removed."""

JOBS_A_THREAD = 2
"""Jobs that are under way for each thread of the cluster: one at work, one at hand."""


@dataclass(frozen=True)
class Order:
    """What is to be done: jobs, on which errand, how many at a time (None: as the threads suggest), and what
    each demands of its worker's resources."""

    errand: Errand
    jobs: Sequence[Job[Any]]
    most: int | None
    demand: Mapping[str, float]


@dataclass(frozen=True)
class Ended:
    """The thread's last word: no answer comes any more. `error` says why, if that is not that all is done."""

    error: BaseException | None = None


class Dispatch:
    """Sends an order out, and puts (place in the order, answer) into `answers` as they come.

    The last entry is `Ended`. `full`: nothing more is sent out; `over`: what is under way is called off.
    """

    def __init__(self, address: str, order: Order) -> None:
        self.answers: SimpleQueue[tuple[int, Answer] | Ended] = SimpleQueue()
        self._address = address
        self.order = order
        self.full = self.over = False
        self._thread = threading.Thread(target=self._serve, name="loratools-cluster", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close_the_door(self) -> None:
        """Nothing more is sent out; what is under way is waited for."""
        self.full = True

    def stop(self) -> None:
        """Calls off what is under way, and waits until that is at rest, or patience ends."""
        self.full = self.over = True
        until = time.monotonic() + PATIENCE_SECONDS + CONNECT_SECONDS
        while self._thread.is_alive() and time.monotonic() < until:
            self._thread.join(LOOK_SECONDS)

    def _serve(self) -> None:
        try:
            with connected(self._address) as client:
                crew = assemble(client, self.order.demand, stopped=lambda: self.over)
                errand = inspected(client, crew, self.order.errand)
                try:
                    _Traffic(self, client, errand, crew).run()
                finally:
                    _call_off(client, errand.run)
        except BaseException as error:
            self.answers.put(Ended(in_one_line(error, self._address)))
        else:
            self.answers.put(Ended())


class _Traffic:
    """Jobs going out and answers coming in, as long as the order lasts."""

    def __init__(self, dispatch: Dispatch, client: Client, errand: Errand, crew: Crew) -> None:
        self._dispatch, self._client, self._errand, self._crew = dispatch, client, errand, crew
        self._order = dispatch.order
        self._landed: SimpleQueue[Future] = SimpleQueue()
        self._out: dict[Future, int] = {}
        self._seen = time.monotonic()
        self._manned = self._seen

    def run(self) -> None:
        waiting = iter(enumerate(self._order.jobs))
        try:
            while not self._dispatch.over:
                self._fill(waiting)
                if not self._out:
                    return
                self._deliver(self._collect())
                self._count_heads()
        finally:
            if self._client.status == "running":  # else it would wait for a scheduler that is gone
                self._client.cancel(list(self._out))

    def _fill(self, waiting: Iterator[tuple[int, Job[Any]]]) -> None:
        most = self._order.most or JOBS_A_THREAD * max(1, self._crew.all_threads)
        while len(self._out) < most and not self._dispatch.full:
            place, job = next(waiting, (-1, None))
            if job is None:
                return
            future = self._client.submit(
                perform,
                pickle.dumps((self._errand, job.away() if isinstance(job, PartedJob) else job)),
                key=_key(self._errand, place),
                resources=dict(self._order.demand) or None,
                pure=False,
            )
            self._out[future] = place
            future.add_done_callback(self._landed.put)

    def _collect(self) -> list[Future]:
        """Those that have come in; none where nothing did for a moment."""
        try:
            came = [self._landed.get(timeout=LOOK_SECONDS)]
        except Empty:
            return []
        with contextlib.suppress(Empty):
            while True:
                came.append(self._landed.get_nowait())
        return came

    def _deliver(self, came: Sequence[Future]) -> None:
        for future, data in zip(came, self._data_of(came), strict=True):
            self._dispatch.answers.put((self._out.pop(future), pickle.loads(data)))

    def _data_of(self, came: Sequence[Future]) -> Sequence[bytes]:
        """All in one request; one by one where that fails, for the error of the one that is wrong."""
        if all(future.status == "finished" for future in came):
            found: Sequence[bytes] = self._client.gather(list(came))
            return found
        return [future.result() for future in came]

    def _count_heads(self) -> None:
        now = time.monotonic()
        if now - self._seen < CREW_SECONDS:
            return
        self._seen, self._crew = now, Crew.of(self._client, self._order.demand)
        if self._crew.able:
            self._manned = now
        elif now - self._manned > ALONE_SECONDS:
            raise LoratoolsError(
                f"the cluster has had no workers for {ALONE_SECONDS:.0f} s",
                hint="start some and run it again, with --resume where that was given",
            )


def threads_of(address: str, demand: Mapping[str, float]) -> int:
    """How many threads the workers have that offer what is demanded.

    Raises:
        LoratoolsError: nobody answers, or there are none.
    """
    told: SimpleQueue[int | BaseException] = SimpleQueue()

    def ask() -> None:
        try:
            with connected(address) as client:
                told.put(assemble(client, demand, stopped=lambda: False).all_threads)
        except BaseException as error:
            told.put(in_one_line(error, address))

    threading.Thread(target=ask, name="loratools-cluster", daemon=True).start()
    while True:
        with contextlib.suppress(Empty):
            answer = told.get(timeout=LOOK_SECONDS)
            if isinstance(answer, BaseException):
                raise answer
            return answer


def _call_off(client: Client, run: str) -> None:
    """No worker begins another of the run's jobs; those at work are waited for, as long as workers answer."""
    until = time.monotonic() + PATIENCE_SECONDS
    with contextlib.suppress(Exception):
        while client.status == "running" and time.monotonic() < until:
            counts = client.run(under_way, run, on_error="ignore")
            if not any(counts.values()):
                return
            time.sleep(LOOK_SECONDS)


def _key(errand: Errand, place: int) -> str:
    return f"loratools-{blake3(f'{errand.run}/{place}'.encode()).hexdigest(length=12)}"
