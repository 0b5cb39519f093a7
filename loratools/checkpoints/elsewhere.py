"""The seam of a worker on another machine: paths as the coordinator has them, and writes that outlive it.

What a worker writes must be seen by other machines and outlive its own crash before it may answer, so every
file that it writes is opened for synchronous writes. That also keeps a tensor's neighbours whole: Linux's NFS
client extends a write to the whole page where it believes to know that, and would put old bytes over those
that another machine has just written beside; for synchronous writes it never does (`nfs_can_extend_write` in
fs/nfs/write.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from loratools.checkpoints import system
from loratools.checkpoints.system import Place, System

_DURABLE = getattr(os, "O_DSYNC", 0) or getattr(os, "O_SYNC", 0)
_WRITING = os.O_WRONLY | os.O_RDWR


class Elsewhere(System):
    """Relative paths start at the coordinator's working folder; no folder is made but below the workspace.

    The latter because a worker that was believed dead may go on when the run is over and its folder gone.
    `calls` are those of the process, which stay beneath.
    """

    def __init__(self, calls: System) -> None:
        self.calls = calls
        self.told = threading.local()

    def open(self, path: Place, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
        durable = _DURABLE if flags & _WRITING else 0
        place = path if within is not None else self._at(path)
        return self.calls.open(place, flags | durable, mode, within=within)

    def touch(self, path: Place) -> None:
        self.calls.touch(self._at(path))

    def stat(self, path: Place) -> os.stat_result:
        return self.calls.stat(self._at(path))

    def lstat(self, path: Place, *, within: int | None = None) -> os.stat_result:
        return self.calls.lstat(path if within is not None else self._at(path), within=within)

    def list(self, folder: Place | int) -> list[str]:
        return self.calls.list(folder if isinstance(folder, int) else self._at(folder))

    def real(self, path: Place) -> str:
        return self.calls.real(self._at(path))

    def mkdir(self, folder: Place) -> None:
        workspace: Path | None = getattr(self.told, "workspace", None)
        if workspace is not None and workspace not in Path(self._at(folder)).parents:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(folder))
        self.calls.mkdir(self._at(folder))

    def rename(self, source: Place, target: Place) -> None:
        self.calls.rename(self._at(source), self._at(target))

    def rename_as(self, source: Place, target: Place, how: int) -> None:
        self.calls.rename_as(self._at(source), self._at(target), how)

    def unlink(self, path: Place, *, within: int | None = None) -> None:
        self.calls.unlink(path if within is not None else self._at(path), within=within)

    def rmdir(self, folder: Place, *, within: int | None = None) -> None:
        self.calls.rmdir(folder if within is not None else self._at(folder), within=within)

    def _at(self, path: Place) -> Place:
        """Joined to the coordinator's working folder; a thread that was told nothing has its own."""
        start = getattr(self.told, "folder", None)
        return path if start is None else os.path.join(start, path)  # noqa: PTH118 (a string stays one)


_INSTALLING = threading.Lock()
_here: list[Elsewhere] = []
_guests = 0


@contextlib.contextmanager
def elsewhere(folder: str, workspace: Path) -> Iterator[None]:
    """For the time of the block, this thread reaches files as a worker does.

    Args:
        folder: the coordinator's working folder.
        workspace: where the run writes.
    """
    seam = _arrive()
    seam.told.folder, seam.told.workspace = folder, workspace
    try:
        yield
    finally:
        del seam.told.folder, seam.told.workspace
        _leave()


def _arrive() -> Elsewhere:
    """Replaces the process's seam when the first thread comes."""
    global _guests
    with _INSTALLING:
        if not _here:
            _here.append(Elsewhere(system.calls))
            system.calls = _here[0]
        _guests += 1
        return _here[0]


def _leave() -> None:
    global _guests
    with _INSTALLING:
        _guests -= 1
        if not _guests:
            system.calls = _here.pop().calls
