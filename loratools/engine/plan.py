"""`Plan` and `Job`: what a verb will do, known before anything heavy is done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

from loratools.engine.coverage import Coverage

Result = TypeVar("Result", covariant=True)
Same = TypeVar("Same")
JobType = TypeVar("JobType", covariant=True)


class Job(Protocol[Result]):
    """A small, picklable, idempotent piece of work: it carries paths and figures, never tensors.

    `name` is what progress shows; `bytes` is what it reads, the measure of progress.
    """

    @property
    def name(self) -> str: ...

    @property
    def bytes(self) -> int: ...

    def run(self, workspace: Path) -> Result:
        """Does the work, writes its part into `workspace` if it has one, and returns figures."""
        ...


@runtime_checkable
class PartedJob(Protocol[Same]):
    """A job with a part that is for the process which began the run alone; its `run` does both."""

    def away(self) -> Job[Same]:
        """What may be done anywhere."""
        ...

    def settle(self, workspace: Path, result: Same) -> Same:
        """What is left to do, once the result is there."""
        ...


@dataclass(frozen=True)
class Plan(Generic[JobType]):
    """The jobs of a run and the fate of every tensor of every input, from headers alone.

    What only the data can tell stands in `coverage` as pending. `read_bytes` and `write_bytes` are what the
    run will read and at most write; `memory_bytes` is what it will at most hold beyond the interpreter;
    `seconds` is an estimate from rates stated where it is made.
    """

    command: str
    output: Path | None
    jobs: tuple[JobType, ...]
    coverage: Coverage
    read_bytes: int
    write_bytes: int
    memory_bytes: int
    seconds: float
    warnings: tuple[str, ...] = ()
