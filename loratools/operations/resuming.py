"""Jobs that leave a line in the run's journal, and need not run again where what a line says still holds.

What holds is found by hashing: the bytes that the job wrote, and the tensors that it read. That costs less
than the job itself, and runs where the job would, side by side with others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from loratools.checkpoints import files
from loratools.checkpoints.codec import Codec
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.hashing import file_root
from loratools.checkpoints.journal import Journal, Line
from loratools.checkpoints.spec import TensorSpec
from loratools.checkpoints.trees import remove_whole
from loratools.engine.device import Kind
from loratools.engine.lease import DeviceJob, Lease
from loratools.engine.payoff import Work
from loratools.engine.plan import Job, cost_of, memory_of
from loratools.errors import LoratoolsError
from loratools.operations.evidence import Evidence
from loratools.operations.rewrite_layout import readable
from loratools.operations.rewrite_record import tensor_root

__all__ = ["JournaledJob", "ResumableJob", "journaled", "keep_only"]

Result = TypeVar("Result")


class ResumableJob(Job[Result], Protocol[Result]):
    """A job that can tell what shows that it was done.

    `leaves` are the files that it may make in the workspace, by their names below it.
    """

    @property
    def leaves(self) -> tuple[str, ...]: ...

    def evidence(self, result: Result) -> Evidence:
        """Raises ValueError for a result that is not this job's."""
        ...


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A job's result, and whether it was taken from an earlier run. `roots`: the hashes of the files that it
    left, where a line is to be written of it."""

    result: Result
    taken: bool
    roots: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Earlier(Generic[Result]):
    """What an earlier run says of a job: its result, what shows that it was done, and hashes of its files."""

    result: Result
    evidence: Evidence
    files: Mapping[str, str]


@dataclass(frozen=True)
class _LikeItsJob(Generic[Result]):
    """What headers tell of `job`, told of what stands for it."""

    job: ResumableJob[Result]

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def bytes(self) -> int:
        return self.job.bytes

    @property
    def memory(self) -> int:
        return memory_of(self.job)

    @property
    def cost(self) -> float:
        return cost_of(self.job)

    def device_work(self, kind: Kind) -> Work | None:
        return self.job.device_work(kind) if isinstance(self.job, DeviceJob) else None


@dataclass(frozen=True)
class UnlessDone(_LikeItsJob[Result]):
    """`job`, unless what an `earlier` run says of it holds. It knows no journal, and so may run anywhere."""

    earlier: Earlier[Result] | None

    def run_on(self, lease: Lease, workspace: Path) -> Done[Result]:
        """As `run`, on a device."""
        assert isinstance(self.job, DeviceJob)
        return self._done(partial(self.job.run_on, lease), workspace)

    def run(self, workspace: Path) -> Done[Result]:
        """
        Raises:
            LoratoolsError: a tensor that the job read has changed since the earlier run; or as the job.
        """
        return self._done(self.job.run, workspace)

    def _done(self, run: Callable[[Path], Result], workspace: Path) -> Done[Result]:
        earlier = self.earlier
        if earlier is not None and _holds(earlier, workspace):
            read = {spec: tensor_root(readable(spec)) for spec, _ in earlier.evidence.read}
            _require_same(earlier.evidence, read)
            return Done(earlier.result, taken=True)
        result = run(workspace)
        try:
            evidence = self.job.evidence(result)
        except ValueError:  # it is beyond what a line is believed for, and no line tells of it
            return Done(result, taken=False)
        if earlier is not None:
            _require_same(earlier.evidence, dict(evidence.read))
        with disk_errors(workspace):
            roots = {file.name: file_root(workspace / file.name) for file in evidence.files}
        return Done(result, taken=False, roots=roots)


@dataclass(frozen=True)
class JournaledJob(_LikeItsJob[Result]):
    """`job`, unless the `line` that an earlier run wrote of it holds; a line is written of it.

    Only the run's own process writes lines: appended to from two machines, a file tears.
    """

    key: str
    codec: Codec[Result]
    journal: Journal
    line: Line | None

    def run_on(self, lease: Lease, workspace: Path) -> Done[Result]:
        """As `run`, on a device."""
        return self.settle(workspace, self.away().run_on(lease, workspace))

    def run(self, workspace: Path) -> Done[Result]:
        """Raises as `UnlessDone` does."""
        return self.settle(workspace, self.away().run(workspace))

    def away(self) -> UnlessDone[Result]:
        """All but the line."""
        return UnlessDone(self.job, self._earlier())

    def settle(self, workspace: Path, result: Done[Result]) -> Done[Result]:
        """Writes the line."""
        if result.roots is not None:
            with disk_errors(workspace):
                self.journal.add(Line(self.key, result.roots, self.codec.encode(result.result)))
        return result

    def _earlier(self) -> Earlier[Result] | None:
        """What the line states, if it states what this job can have found."""
        if self.line is None:
            return None
        try:
            result = self.codec.decode(self.line.result)
            return Earlier(result, self.job.evidence(result), self.line.files)
        except (ValueError, KeyError):
            return None


def journaled(
    jobs: Sequence[ResumableJob[Result]], what: str, codec: Codec[Result], journal: Journal, *, resumed: bool
) -> list[JournaledJob[Result]]:
    """The jobs with what an earlier run says of each. `what` tells jobs of one name apart."""
    lines = journal.jobs() if resumed else {}
    keyed = [(job, f"{what}/{job.name}") for job in jobs]
    return [JournaledJob(job, key, codec, journal, lines.get(key)) for job, key in keyed]


def keep_only(folder: Path, names: Collection[str]) -> None:
    """Removes all that an earlier run left in a folder, but the files of these names below it.

    Raises:
        OSError: something cannot be removed.
    """
    kept = {folder / name for name in names}
    above = {parent for path in kept for parent in path.parents}
    for path in files.listing(folder):
        if path in above and files.is_folder(path):
            keep_only(path, [str(one.relative_to(path)) for one in kept if path in one.parents])
        elif path not in kept:
            remove_whole(path)


def _holds(earlier: Earlier[Result], workspace: Path) -> bool:
    try:
        for file in earlier.evidence.files:
            path = workspace / file.name
            if file.bytes not in (None, files.size(path)) or file_root(path) != earlier.files.get(file.name):
                return False
        places = ((_below(spec, workspace), root) for spec, root in earlier.evidence.written)
        return all(tensor_root(readable(spec)) == root for spec, root in places)
    except (OSError, LoratoolsError):  # what cannot be read is not there
        return False


def _below(spec: TensorSpec, workspace: Path) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, spec.shape, spec.bytes, workspace / spec.file, spec.offset)


def _require_same(earlier: Evidence, now: Mapping[TensorSpec, str]) -> None:
    """Raises LoratoolsError where a tensor that an earlier run read has another hash now."""
    for spec, root in earlier.read:
        if now.get(spec, root) != root:
            raise LoratoolsError(
                "this tensor changed since the interrupted run",
                file=spec.file,
                tensor=spec.name,
                hint="restore it, or run without --resume",
            )
