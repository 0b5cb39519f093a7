"""The progress bar: bytes and pieces done, rate and time left, on stderr."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.text import Text

_STEP = 0.3
"""How far what is shown moves towards what is newly expected: a slow job is no reason to leap."""


class Countdown:
    """Seconds that are left, counted down between what a forecast says, and towards that in small steps."""

    def __init__(self) -> None:
        self._shown: float | None = None
        self._at = 0.0

    def expect(self, seconds: float) -> None:
        now = self.seconds()
        self._shown = seconds if now is None else now + _STEP * (seconds - now)
        self._at = time.monotonic()

    def seconds(self) -> float | None:
        """None where nothing was foretold."""
        if self._shown is None:
            return None
        return max(0.0, self._shown - (time.monotonic() - self._at))


class LeftColumn(ProgressColumn):
    """Time left of the whole run, not of its phase: `0:01:23 left`."""

    def __init__(self, countdown: Countdown) -> None:
        super().__init__()
        self._countdown = countdown

    def render(self, task: Task) -> Text:
        seconds = self._countdown.seconds()
        if seconds is None:
            return Text("")
        minutes, rest = divmod(int(seconds + 0.5), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02d}:{rest:02d} left", style="progress.remaining")


class Bar:
    """A `loratools.engine.progress.Progress` that rich draws, a line a phase, gone once the run ends."""

    def __init__(self, console: Console | None = None) -> None:
        self._countdown = Countdown()
        self._rich = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[done]}/{task.fields[jobs]}"),
            TransferSpeedColumn(),
            LeftColumn(self._countdown),
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

    def left(self, seconds: float) -> None:
        """What the run's forecast, and its pace so far, say now."""
        self._countdown.expect(seconds)

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
