"""What runs on a worker of a cluster: one job, in the way of the process that sent it."""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loratools.checkpoints import files
from loratools.checkpoints.elsewhere import elsewhere
from loratools.engine.blas import loaded
from loratools.engine.device import Asked
from loratools.engine.kept import let_go_everywhere
from loratools.engine.placement import ASKED_FOR, Choice, Placement
from loratools.engine.plan import Job
from loratools.engine.setup import Setup
from loratools.errors import LoratoolsError

__all__ = [
    "SAME_VERSIONS",
    "Answer",
    "Errand",
    "RemoteTraceError",
    "perform",
    "under_way",
    "unfit",
    "why_not",
]


@dataclass(frozen=True)
class Errand:
    """What goes with each job of a run, or of a phase of it.

    Attributes:
        run: known to nobody else; a run that was called off is known by it.
        folder: the working folder that relative paths start at.
        workspace: where jobs write.
        token: a file that a worker has to see, with `run` in it; None where nothing is written.
        setup: what every worker has to be.
        torch: whether jobs use torch.
        device: what `--device` said, where jobs are to compute on devices of their worker.
    """

    run: str
    folder: str
    workspace: Path
    token: Path | None
    setup: Setup
    torch: bool
    device: str | None = None


@dataclass(frozen=True)
class Answer:
    """A job's result, or its error with the traceback that it had. `unseen`: a file that the error is about
    and that the worker, whose address is `worker`, does not see. `gave_up`: the worker's device was too small
    for the job, which ran on its processor."""

    worker: str
    result: Any = None
    error: BaseException | None = None
    trace: str = ""
    unseen: str | None = None
    gave_up: bool = False


class RemoteTraceError(Exception):
    """The traceback that an error had on its worker: the cause of the one that is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def perform(payload: bytes) -> bytes:
    """Runs a pickled (errand, job) and gives its pickled answer. Only a worker that dies gives none."""
    worker = _address()
    try:
        errand, job = pickle.loads(payload)
    except Exception as error:
        told = LoratoolsError(f"worker {worker} cannot read the jobs: {error}", hint=SAME_VERSIONS)
        return pickle.dumps(Answer(worker, error=told, trace=traceback.format_exc()))
    try:
        result, gave_up = _done(errand, job, worker)
        answer = Answer(worker, result=result, gave_up=gave_up)
        return pickle.dumps(answer)
    except Exception as error:
        return pickle.dumps(_failed(worker, error, errand))


SAME_VERSIONS = "install the same versions on all machines"


def why_not(errand: Errand, dask_worker: Any) -> LoratoolsError | None:
    """`unfit`, as Dask asks it of each worker."""
    return unfit(errand, dask_worker.address)


def unfit(errand: Errand, worker: str) -> LoratoolsError | None:
    """Why the process cannot work for a run; None if it can."""
    here = Setup.here()
    told = next(errand.setup.differences(here), None)
    if told is not None:
        return LoratoolsError(f"worker {worker} has {told}; bytes would differ", hint=SAME_VERSIONS)
    if here.processor != errand.setup.processor:
        return LoratoolsError(
            f"worker {worker} has a processor of another kind ({here.processor}) than others "
            f"({errand.setup.processor}); bytes would differ",
            hint=f"take workers of one kind, or start all with OPENBLAS_CORETYPE={_COMMON}",
        )
    if errand.token is not None and not _sees(errand):
        return LoratoolsError(
            f"worker {worker} does not see {errand.workspace}; all workers need the same file system"
        )
    return None


_COMMON = "Haswell"
"""Kernels that every x86 processor of the last ten years can run."""


def under_way(run: str) -> int:
    """How many of a run's jobs are at work in this process. From now on none of them is begun here.

    Where no run has any, nothing is kept for the next: the threads of a worker outlive all runs.
    """
    with _COUNTING:
        _called_off.add(run)
        _placements.pop(run, None)
        count = _at_work[run]
        idle = not any(_at_work.values())
    if idle:
        let_go_everywhere()
    return count


_COUNTING = threading.Lock()
_at_work: Counter[str] = Counter()
_called_off: set[str] = set()
_placements: dict[str, Placement] = {}
_fit: set[tuple[str, Path]] = set()
"""Runs and their workspaces that this process was found fit for."""


def _done(errand: Errand, job: Job[Any], worker: str) -> tuple[Any, bool]:
    """(its result, whether its device gave it up)."""
    with _counted(errand.run):
        if (errand.run, errand.workspace) not in _fit:
            why = unfit(errand, worker)
            if why is not None:
                raise why
            _fit.add((errand.run, errand.workspace))
        _one_thread(errand.torch)
        with elsewhere(errand.folder, errand.workspace):
            if errand.device is None:
                return job.run(errand.workspace), False
            placement = placement_of(errand)
            return placement.run(job, errand.workspace), placement.gave_up(job.name)


def placement_of(errand: Errand) -> Placement:
    """The devices of this worker, for all jobs of a run.

    Raises:
        LoratoolsError: it has none of those that were asked for.
    """
    assert errand.device is not None
    with _COUNTING:
        if errand.run not in _placements:
            devices = Asked.parse(errand.device).devices()
            _placements[errand.run] = Placement(Choice(errand.device, devices, ASKED_FOR))
        return _placements[errand.run]


@contextlib.contextmanager
def _counted(run: str) -> Iterator[None]:
    with _COUNTING:
        if run in _called_off:
            raise LoratoolsError("the run is over")
        _at_work[run] += 1
    try:
        yield
    finally:
        with _COUNTING:
            _at_work[run] -= 1
            if not _at_work[run]:
                del _at_work[run]


def _one_thread(torch: bool) -> None:
    """One thread for each job's arithmetic, and no TF32, whatever the worker was started with, and for good.

    Set for each job: a library may have been loaded since, and torch counts for each of its threads.
    """
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # for those that are loaded later
    for library in loaded():
        library.threads = 1
    if torch:
        from torch import set_float32_matmul_precision, set_num_threads

        set_num_threads(1)
        set_float32_matmul_precision("highest")


def _sees(errand: Errand) -> bool:
    assert errand.token is not None
    try:
        return files.read_bytes(errand.token, 100) == errand.run.encode()
    except OSError:
        return False


def _failed(worker: str, error: Exception, errand: Errand) -> Answer:
    trace = traceback.format_exc()
    unseen = None
    if isinstance(error, LoratoolsError) and error.file is not None:
        with contextlib.suppress(OSError), elsewhere(errand.folder, errand.workspace):
            unseen = None if files.has_name(error.file) else error.file
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of some library that cannot travel
        error = RuntimeError(f"{type(error).__name__}: {error}")
    return Answer(worker, error=error, trace=trace, unseen=unseen)


def _address() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # no worker's thread: a test
        return f"process {os.getpid()}"
