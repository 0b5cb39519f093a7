"""The progress bar: bytes and pieces done, rate and time left, on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


class Bar:
    """A `loratools.engine.progress.Progress` that rich draws, a line a phase, gone once the run ends."""

    def __init__(self, console: Console | None = None) -> None:
        self._rich = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[done]}/{task.fields[jobs]}"),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console or Console(stderr=True),
            transient=True,
        )
        self._task: TaskID | None = None
        self._done = 0

    def start(self, what: str, jobs: int, bytes: int) -> None:
        self._done = 0
        self._rich.start()
        self._task = self._rich.add_task(what, total=bytes or None, done=0, jobs=jobs)

    def advance(self, job: str, bytes: int) -> None:
        if self._task is not None:
            self._done += 1
            self._rich.update(self._task, advance=bytes, done=self._done)

    def finish(self) -> None:
        if self._task is not None:
            self._rich.stop_task(self._task)
            self._task = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._rich.stop()
