"""`Engine`: whatever runs the jobs of a plan and gives their results back in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from loratools.engine.plan import Job
from loratools.engine.progress import Progress

Result = TypeVar("Result")


class Engine(Protocol):
    """Runs jobs side by side. Where they run, and on how many workers, never changes what they write."""

    @property
    def workers(self) -> int:
        """Jobs that are under way at one time."""
        ...

    @property
    def progress(self) -> Progress: ...

    def allow(self, memory: int | None) -> None:
        """Jobs that run side by side in one process hold at most so many bytes; None is no limit."""
        ...

    def run(
        self, what: str, jobs: Sequence[Job[Result]], workspace: Path, *, torch: bool = True
    ) -> Iterator[tuple[Job[Result], Result]]:
        """Yields each job with its result, in the order of `jobs`.

        Args:
            what: the phase's name, for progress.
            jobs: what to run; each writes its part, if it has one, below `workspace`.
            workspace: a folder that every worker sees.
            torch: whether the jobs use torch, which takes a second or two to import.

        Raises:
            LoratoolsError: that of the first job that failed; those not begun are cancelled.
        """
        ...
