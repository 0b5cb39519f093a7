"""The cluster engine: the same jobs, run by the workers of a Dask scheduler that see the same files."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from queue import Empty
from typing import Any, TypeVar

from loratools.checkpoints import files, system
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.jsonfile import read_json
from loratools.engine.device import ON_PROCESSOR, Asked, Kind
from loratools.engine.dispatch import JOBS_A_THREAD, LOOK_SECONDS, Dispatch, Ended, Order, threads_of
from loratools.engine.errand import Answer, Errand, RemoteTraceError
from loratools.engine.placement import Placement, choose_elsewhere
from loratools.engine.plan import Job, PartedJob
from loratools.engine.progress import Progress, Silent
from loratools.engine.setup import Setup
from loratools.errors import LoratoolsError, UsageError

__all__ = ["ClusterEngine"]

Result = TypeVar("Result")

GPU = "GPU"
"""What Dask's own pages call the resource of a worker that has a CUDA device."""


class ClusterEngine:
    """Runs jobs on the workers of a scheduler.

    Args:
        cluster: its address (`tcp://host:8786`, `host:8786`), or the scheduler file that it wrote.
        workers: jobs that are under way at one time; by default twice as many as the cluster has threads.
        progress: a watcher.
        device: where workers compute. On CUDA devices, a job demands one `GPU` of its worker's resources.

    Raises:
        UsageError: `cluster` is neither an address nor a file; the device is of one machine.
        LoratoolsError: Dask is not installed, or nobody answers.
    """

    def __init__(
        self,
        cluster: str,
        workers: int | None = None,
        progress: Progress | None = None,
        *,
        device: Asked = ON_PROCESSOR,
    ) -> None:
        if find_spec("distributed") is None:
            raise LoratoolsError("--cluster needs Dask", hint="pip install 'loratools[cluster]'")
        self._address = _address(cluster)
        self._most = workers
        if device.kind is Kind.MPS or device.index is not None:
            raise UsageError(
                f"--device {device} is of one machine, and --cluster of several",
                hint="say --device cuda, or leave it out",
            )
        self._device = device
        self._placement = Placement.on_processor()
        self._demand = {GPU: 1.0} if device.kind is Kind.CUDA else {}
        self.progress = progress or Silent()
        self.workers = workers or JOBS_A_THREAD * threads_of(self._address, self._demand)

    elsewhere = True

    def allow(self, memory: int | None) -> None:
        """Does nothing: jobs hold memory of other processes."""

    def settle(self, jobs: Sequence[Job[Any]]) -> Placement:
        """What workers are to compute on; `auto` is their processors."""
        self._placement = Placement(choose_elsewhere(self._device, jobs))
        return self._placement

    def run(
        self, what: str, jobs: Sequence[Job[Result]], workspace: Path, *, torch: bool = True
    ) -> Iterator[tuple[Job[Result], Result]]:
        """Yields each job with its result, in the order of `jobs`.

        What only this process may do of a job is done as soon as its result is there, in whatever order they
        come. The error raised is that of the first job, in the order of `jobs`, that failed.
        """
        self.progress.start(what, len(jobs), sum(job.bytes for job in jobs))
        run = secrets.token_hex(16)
        with _token(workspace, run) as token:
            device = str(self._device) if self._placement.places else None
            errand = Errand(
                run,
                os.getcwd(),  # noqa: PTH109
                workspace,
                token,
                Setup.here(),
                torch=torch or device is not None,
                device=device,
            )
            dispatch = Dispatch(self._address, Order(errand, jobs, self._most, self._demand))
            try:
                dispatch.start()
                yield from self._in_order(dispatch, jobs, workspace)
            finally:
                dispatch.stop()
                self.progress.finish()

    def _in_order(
        self, dispatch: Dispatch, jobs: Sequence[Job[Result]], workspace: Path
    ) -> Iterator[tuple[Job[Result], Result]]:
        held: dict[int, Answer] = {}
        for place, job in enumerate(jobs):
            while place not in held:
                came = _next(dispatch)
                if isinstance(came, Ended):
                    raise came.error or LoratoolsError("the cluster gave up without a word")
                held[came[0]] = self._taken_in(jobs[came[0]], came[1], workspace)
                if came[1].error is not None:
                    dispatch.close_the_door()
            answer = held.pop(place)
            if answer.error is not None:
                raise _as_here(answer) from RemoteTraceError(answer.trace)
            yield job, answer.result

    def _taken_in(self, job: Job[Any], answer: Answer, workspace: Path) -> Answer:
        if answer.error is None:
            self.progress.advance(job.name, job.bytes)
            if answer.gave_up:
                self._placement.give_up(job.name)
            if isinstance(job, PartedJob):
                job.settle(workspace, answer.result)
        return answer


def _next(dispatch: Dispatch) -> tuple[int, Answer] | Ended:
    """What comes next. No wait is longer than a moment, so that an interruption is never missed."""
    while True:
        with contextlib.suppress(Empty):
            return dispatch.answers.get(timeout=LOOK_SECONDS)


def _as_here(answer: Answer) -> BaseException:
    """The error as it is told in this process, which may see a file that the worker does not."""
    assert answer.error is not None
    if answer.unseen is not None and files.has_name(answer.unseen):
        return LoratoolsError(
            f"worker {answer.worker} does not see {answer.unseen}; all workers need the same file system"
        )
    return answer.error


@contextlib.contextmanager
def _token(workspace: Path, run: str) -> Iterator[Path | None]:
    """A file that workers are to see, for the time of the block; none where nothing is written."""
    if workspace == Path():
        yield None
        return
    token = workspace / f"seen-{run}"
    with disk_errors(workspace):
        files.write_bytes(token, run.encode())
    try:
        yield token
    finally:
        with disk_errors(workspace):
            files.again(system.calls.unlink, token)


def _address(cluster: str) -> str:
    if files.is_file(cluster):
        address = read_json(Path(cluster)).get("address")
        if not isinstance(address, str):
            raise LoratoolsError("no scheduler file: it names no address", file=cluster)
        return address
    if "://" in cluster:
        return cluster
    if re.fullmatch(r"[^\s/]+:\d+", cluster):
        return f"tcp://{cluster}"
    raise UsageError(
        f"--cluster {cluster} is neither an address nor a file",
        hint="give tcp://HOST:8786, or the file that `dask scheduler --scheduler-file FILE` wrote",
    )
