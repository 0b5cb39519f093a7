"""Whole reads and writes over the seam: what falls short goes on, what is interrupted is begun again.

An OSError that leaves here names its file.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from loratools.checkpoints import system
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.system import Place

Result = TypeVar("Result")

_PIECE = 1 << 20
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EBADF, errno.ELOOP, errno.ENAMETOOLONG})
"""How a system says that nothing has that name, or nothing can have it, as opposed to not telling."""


def again(call: Callable[..., Result], *words: Any, **options: Any) -> Result:
    """The call's result; one that a signal interrupted is made again, once the signal's handler has run."""
    while True:
        try:
            return call(*words, **options)
        except InterruptedError:
            continue


def open_handle(path: Place, flags: int, mode: int = 0o666) -> int:
    with named(path):
        return again(system.calls.open, path, flags, mode)


def open_regular(path: Place) -> int:
    """A handle for reading. What became a FIFO since it was looked at does not block, and is refused.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    handle = open_handle(path, os.O_RDONLY | system.NO_WAIT)
    with named(path):
        if stat.S_ISREG(again(system.calls.fstat, handle).st_mode):
            return handle
    close_handle(handle)
    raise OSError(errno.EINVAL, "not a regular file", os.fspath(path))


def close_handle(handle: int) -> None:
    """Closes it; an interrupted close has closed (on Linux), and a second might hit another's handle."""
    with contextlib.suppress(InterruptedError):
        system.calls.close(handle)


@contextlib.contextmanager
def named(path: Place) -> Iterator[None]:
    """Errors of calls that know only a handle get the file's name."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = os.fspath(path)
        raise


def read_into(handle: int, buffer: memoryview, offset: int) -> int:
    """Fills `buffer` from `offset` on. Returns its size, or less where the file ends before."""
    done = 0
    while done < len(buffer):
        got = again(system.calls.read_at, handle, buffer[done:], offset + done)
        if not got:
            break
        done += got
    return done


def write_all(handle: int, data: memoryview, offset: int) -> None:
    """Writes all of `data`, a view of bytes, at `offset`."""
    done = 0
    while done < len(data):
        got = again(system.calls.write_at, handle, data[done:], offset + done)
        if got <= 0:  # no system does that to a regular file; going on would never end
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        done += got


class _Reading(io.RawIOBase):
    """A file to be read from the start on, for those who want one that seeks."""

    def __init__(self, path: Place) -> None:
        self.name = os.fspath(path)
        self._at = 0
        self._handle = open_regular(path)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with named(self.name):
            got = again(system.calls.read_at, self._handle, memoryview(buffer).cast("B"), self._at)
        self._at += got
        return got

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self._at
        elif whence == os.SEEK_END:
            with named(self.name):
                offset += again(system.calls.fstat, self._handle).st_size
        if offset < 0:
            raise ValueError(f"no place in a file: {offset}")
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            super().close()
            with contextlib.suppress(OSError):  # nothing was written that could be lost
                close_handle(self._handle)


def reading(path: Place) -> BinaryIO:
    """The file, open for reading from its start, with a buffer; closed by the caller."""
    return io.BufferedReader(_Reading(path))


def read_bytes(path: Place, most: int = -1) -> bytes:
    """The file's bytes, at most so many of them."""
    with reading(path) as file:
        return file.read(most)


def pieces(path: Place) -> Iterator[bytes]:
    """The file's bytes in pieces of 1 MiB."""
    with reading(path) as file:
        while piece := file.read(_PIECE):
            yield piece


def write_pieces(path: Place, given: Iterable[bytes | bytearray | memoryview]) -> None:
    """Writes a file of these pieces in place of the one, but never of the link, that may have the name."""
    handle = open_handle(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | system.NO_LINK)
    try:
        done = 0
        for piece in given:
            view = memoryview(piece)
            if view.nbytes:  # an empty view cannot always be cast
                with named(path):
                    write_all(handle, view.cast("B"), done)
            done += view.nbytes
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            close_handle(handle)
        raise
    with named(path):
        close_handle(handle)


def write_bytes(path: Place, data: bytes | bytearray | memoryview) -> None:
    write_pieces(path, (data,))


def write_in_one_step(path: Path, given: Iterable[bytes | bytearray | memoryview]) -> None:
    """The same, under its name only when it is whole: so it stays if two write it at once."""
    unfinished = path.with_name(f"{path.name}.{os.urandom(4).hex()}")
    try:
        write_pieces(unfinished, given)
        again(system.calls.rename, unfinished, path)
    except BaseException:
        with contextlib.suppress(OSError):
            again(system.calls.unlink, unfinished)
        raise


def write_text(path: Place, text: str) -> None:
    """UTF-8, line ends as they are."""
    write_bytes(path, text.encode())


def copy(source: Path, target: Path) -> None:
    """Copies the bytes (no times, no modes).

    Raises:
        LoratoolsError: one of the two was refused; names which.
    """
    with disk_errors(target):
        write_pieces(target, _read(source))


def _read(source: Path) -> Iterator[bytes]:
    with disk_errors(source, "read"):
        yield from pieces(source)


def status(path: Place, *, follow: bool = True) -> os.stat_result | None:
    """What the system says of a path, or of the link that it is; None where nothing has that name.

    Raises:
        OSError: the system does not say (it is forbidden, or the disk fails).
    """
    call = system.calls.stat if follow else system.calls.lstat
    try:
        return again(call, path)
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    except ValueError:  # a NUL in the name
        return None


def exists(path: Place) -> bool:
    """Whether the path, its links followed, leads to something."""
    return status(path) is not None


def has_name(path: Place) -> bool:
    """Whether something has that name, be it a broken link."""
    return status(path, follow=False) is not None


def is_file(path: Place) -> bool:
    found = status(path)
    return found is not None and stat.S_ISREG(found.st_mode)


def is_folder(path: Place) -> bool:
    found = status(path)
    return found is not None and stat.S_ISDIR(found.st_mode)


def is_link(path: Place) -> bool:
    found = status(path, follow=False)
    return found is not None and stat.S_ISLNK(found.st_mode)


def size(path: Place) -> int:
    return again(system.calls.stat, path).st_size


def identity(path: Place) -> list[int] | None:
    """Device and inode of a file or a link, by which it is known under any name; None where there is none.

    A list, as it comes back from JSON.
    """
    found = status(path, follow=False)
    return None if found is None else [found.st_dev, found.st_ino]


def real(path: Place) -> Path:
    """The absolute path with all links resolved, as far as it exists."""
    return Path(again(system.calls.real, path))


def listing(folder: Path) -> list[Path]:
    """What lies in the folder, sorted by name."""
    return sorted(folder / name for name in again(system.calls.list, folder))


def make_folder(folder: Path) -> None:
    """Makes the folder and those above it that are missing, within one of ours; one that is there is right,
    and a link to one is not: somebody put it there."""
    if not is_folder(folder):
        if folder.parent != folder:
            make_folder(folder.parent)
        with contextlib.suppress(FileExistsError):
            again(system.calls.mkdir, folder)
    if is_link(folder):
        raise OSError(errno.ELOOP, "a link where a folder was to be made", os.fspath(folder))


def require_own_path(path: Path) -> None:
    """Raises OSError where a folder above a path without links has become one since it was looked at."""
    if real(path) != path:
        raise OSError(errno.ELOOP, "a folder above became a link while it was written to", os.fspath(path))
