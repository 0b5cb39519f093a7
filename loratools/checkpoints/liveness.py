"""Whether the run that a partial folder belongs to is at work, without a lock: those fail on NFS and Lustre.

A run leaves a record of its process in its folder. On the same machine the process table tells; from another
one, a thread's heartbeat does: it touches the record every few seconds, and whoever asks compares its time
with that of a file just touched on the same file system, so that no two clocks have to agree.
"""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from loratools.checkpoints import system
from loratools.checkpoints.files import again, read_bytes, status, write_bytes
from loratools.checkpoints.journal import sealed, unsealed

BEAT_SECONDS = 5.0

SILENT_SECONDS = 120.0
"""A run on another machine that has been silent for so long is dead: NFS may keep old times for a minute."""

_RECORD_BYTES = 10_000
_PROC = Path("/proc")

_at_work: set[str] = set()
"""The folders of this process's own runs: it lives on when one of them failed and could remove nothing."""


@dataclass(frozen=True)
class Process:
    """A process, told from all others: `started` in clock ticks since boot, `space` its name space of pids.

    None where the system does not tell. `ended`: the run is over, though the process may go on.
    """

    host: str
    boot: str | None
    space: str | None
    pid: int
    started: int | None
    ended: bool = False

    @classmethod
    def this(cls, *, ended: bool = False) -> Process:
        return cls(
            os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "here"),
            _told(_PROC / "sys/kernel/random/boot_id"),
            _link(_PROC / "self/ns/pid"),
            os.getpid(),
            _started(os.getpid()),
            ended,
        )

    def __str__(self) -> str:
        return f"host {self.host}, process {self.pid}"

    @property
    def runs(self) -> bool | None:
        """Whether it runs; None for a process that cannot be seen from here."""
        here = Process.this()
        if (self.host, self.boot, self.space) != (here.host, here.boot, here.space):
            return None
        began = _started(self.pid)
        if self.started is not None and began is not None:
            return began == self.started
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except OSError:  # it is somebody else's, and may be another one since
            return None
        return True


@dataclass(frozen=True)
class Liveness:
    """The record in a run's folder."""

    path: Path

    def begin(self) -> None:
        """Raises OSError."""
        _at_work.add(self.path.parent.name)
        self._write(Process.this())

    def end(self) -> None:
        """Says that the run is over, and left its folder on purpose. Raises OSError."""
        self._write(Process.this(ended=True))

    def _write(self, process: Process) -> None:
        """In one step: half of a record would look like a run on another machine."""
        unfinished = self.path.with_name(f"{self.path.name}.new")
        write_bytes(unfinished, sealed({"process": asdict(process)}))
        again(system.calls.rename, unfinished, self.path)

    def beat(self) -> None:
        again(system.calls.touch, self.path)

    def process(self) -> Process | None:
        """Whose it is; None where there is no record that holds."""
        try:
            found = unsealed(read_bytes(self.path, _RECORD_BYTES), self.path)
        except OSError:
            return None
        return None if found is None else _process(found.get("process"))

    def changed(self) -> float | None:
        """When it was last touched, by the clock of its file system; None where it is not there."""
        found = status(self.path, follow=False)
        return None if found is None else found.st_mtime

    def alive(self, now: float) -> bool:
        """Whether the run is still at work; `now` is the present time by the clock of the file system.

        Raises OSError where the disk does not tell.
        """
        process = self.process()
        if process is not None and process.ended:
            return False
        if process == Process.this():
            return self.path.parent.name in _at_work
        runs = None if process is None else process.runs
        if runs is not None:
            return runs
        last = self.changed()
        return last is not None and now - last < SILENT_SECONDS


class Heart:
    """The thread that touches the record while a run is under way. A beat that fails is left out."""

    def __init__(self, liveness: Liveness) -> None:
        self._liveness = liveness
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="loratools-heart", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the beats; the run is no longer at work."""
        self._over.set()
        _at_work.discard(self._liveness.path.parent.name)

    def _beat(self) -> None:
        while not self._over.wait(BEAT_SECONDS):
            with contextlib.suppress(OSError):
                self._liveness.beat()


def _process(found: Any) -> Process | None:
    try:
        process = Process(**found)
    except TypeError:
        return None
    words = [process.host, *(word for word in (process.boot, process.space) if word is not None)]
    numbers = [process.pid, *(number for number in (process.started,) if number is not None)]
    if not all(type(word) is str for word in words) or not all(type(number) is int for number in numbers):
        return None
    return process if process.pid > 0 and type(process.ended) is bool else None


def _started(pid: int) -> int | None:
    """When a process was started, or 0 for one that has ended and that its parent has not asked about yet.

    None where nobody has that number, or the system does not tell.
    """
    told = _told(_PROC / str(pid) / "stat")
    if told is None:
        return None
    fields = told.rpartition(")")[2].split()  # the name before may hold anything
    if len(fields) < 20 or not fields[19].isdigit():
        return None
    return 0 if fields[0] in "ZX" else int(fields[19])


def _told(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _link(path: Path) -> str | None:
    try:
        return str(path.readlink())
    except OSError:
        return None
