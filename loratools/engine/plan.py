"""`Plan` and `Job`: what a verb will do, known before anything heavy is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

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


class Weighed(Protocol):
    """A job whose cost headers tell.

    `memory`: bytes that it holds at most while it runs. `cost`: seconds that it takes a worker of the machine
    that the rates in `operations.rates` were measured on; how another machine differs, runs teach.
    """

    @property
    def memory(self) -> int: ...

    @property
    def cost(self) -> float: ...


READ_RATE = 1e9
"""Bytes a second that a job is taken to read where it does not say what it costs."""


def memory_of(job: Job[Any]) -> int:
    """Bytes that a job says it holds; 0 where it is not `Weighed`."""
    memory: int = getattr(job, "memory", 0)  # to ask for the protocol takes ten times as long
    return memory


def cost_of(job: Job[Any]) -> float:
    """Seconds that a job says it takes; where it is not `Weighed`, those that its bytes do."""
    cost: float | None = getattr(job, "cost", None)
    return job.bytes / READ_RATE if cost is None else cost


class Written(str, Enum):
    """How well headers tell the bytes that a run will write."""

    EXACTLY = "exactly"
    AT_MOST = "at most"
    """Only the data tells which tensors are written, or how many digits a figure takes."""
    ABOUT = "about"
    """Nothing bounds it: what an undo record keeps depends on every element."""


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

    What only the data can tell stands in `coverage` as pending. `read_bytes` is what the run will read,
    `write_bytes` all that it writes, as well as headers tell it, and `weight_bytes` the files of weights in
    that. `kept_bytes` are held beside the jobs from the first to the last. Where no run has taught better,
    `overhead_bytes` is what libraries and the verb itself take beyond what the process held when it planned,
    and `finishing_seconds` what comes after the last job. `loading_seconds` pass before the first: imports
    that the plan itself does without. `likeness` says which runs of the verb cost alike,
    in a few words that name nobody's files.
    """

    command: str
    output: Path | None
    jobs: tuple[JobType, ...]
    coverage: Coverage
    read_bytes: int
    write_bytes: int
    warnings: tuple[str, ...] = ()
    weight_bytes: int = 0
    written: Written = Written.AT_MOST
    weights_written: Written = Written.AT_MOST
    kept_bytes: int = 0
    loading_seconds: float = 0.0
    overhead_bytes: int = 0
    finishing_seconds: float = 0.0
    likeness: str = ""

    @property
    def stages(self) -> tuple[tuple[str, Sequence[JobType]], ...]:
        """Jobs by the name of the phase in which they run side by side, in the order of phases."""
        return ((self.command, self.jobs),)
