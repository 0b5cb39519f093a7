"""The one seam through which a verb's inputs and outputs are reached: each method is one call to the system.

Nothing else in the package opens, reads, writes, lists, renames or removes a file (a test holds it to that),
so that whoever replaces `calls` sees every one of them, and can let the n-th fail or fall short. How it goes
on after a short read or an interruption is told above, in `files`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
import threading
from typing import TypeAlias

Place: TypeAlias = "str | os.PathLike[str]"

BINARY = getattr(os, "O_BINARY", 0)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
FOLDER = getattr(os, "O_DIRECTORY", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)

NO_REPLACE, EXCHANGE = 1, 2
"""What `rename_as` may be told: to take no name that stands for something, to swap two names."""

_POSITIONED = hasattr(os, "preadv") and hasattr(os, "pwrite")
_SEEKING = threading.Lock()
_AT_FDCWD = -100


class System:
    """The calls as the system has them. Errors are OSError; `within` is the handle of a folder."""

    def open(self, path: Place, flags: int, mode: int = 0o666, *, within: int | None = None) -> int:
        return os.open(path, flags | BINARY, mode, dir_fd=within)

    def close(self, handle: int) -> None:
        os.close(handle)

    def read_at(self, handle: int, buffer: memoryview, offset: int) -> int:
        """Bytes read into `buffer`, perhaps fewer than it holds; 0 at the end of the file."""
        if _POSITIONED:
            return os.preadv(handle, [buffer], offset)
        with _SEEKING:  # two steps, so one thread at a time
            os.lseek(handle, offset, os.SEEK_SET)
            data = os.read(handle, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def write_at(self, handle: int, data: memoryview, offset: int) -> int:
        """Bytes written, perhaps fewer than there are."""
        if _POSITIONED:
            return os.pwrite(handle, data, offset)
        with _SEEKING:
            os.lseek(handle, offset, os.SEEK_SET)
            return os.write(handle, data)

    def truncate(self, handle: int, size: int) -> None:
        os.ftruncate(handle, size)

    def reserve(self, handle: int, size: int) -> None:
        """Reserves the file's first `size` bytes on the disk. ENOSYS where the system cannot."""
        if _fallocate is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if _fallocate(handle, 0, 0, size) != 0:
            _raise_last_error()

    def write_back(self, handle: int, offset: int, size: int) -> None:
        """Has the system begin to write these bytes to the disk; waits for none. ENOSYS where it cannot."""
        if _sync_file_range is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if _sync_file_range(handle, offset, size, _BEGIN_WRITING) != 0:
            _raise_last_error()

    def fsync(self, handle: int) -> None:
        os.fsync(handle)

    def touch(self, path: Place) -> None:
        """Gives a file the present time of the file system that it lies on."""
        os.utime(path)

    def fstat(self, handle: int) -> os.stat_result:
        return os.fstat(handle)

    def stat(self, path: Place) -> os.stat_result:
        return os.stat(path)

    def lstat(self, path: Place, *, within: int | None = None) -> os.stat_result:
        return os.lstat(path, dir_fd=within)

    def list(self, folder: Place | int) -> list[str]:
        return os.listdir(folder)

    def real(self, path: Place) -> str:
        """The absolute path with all links resolved, as far as it exists."""
        return os.path.realpath(path)

    def mkdir(self, folder: Place) -> None:
        os.mkdir(folder)

    def rename(self, source: Place, target: Place) -> None:
        os.rename(source, target)

    def rename_as(self, source: Place, target: Place, how: int) -> None:
        """`rename` with one of the flags of Linux's `renameat2`. ENOSYS where the system has no such call."""
        if _renameat2 is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), how) != 0:
            _raise_last_error(source, target)

    def unlink(self, path: Place, *, within: int | None = None) -> None:
        os.unlink(path, dir_fd=within)

    def rmdir(self, folder: Place, *, within: int | None = None) -> None:
        os.rmdir(folder, dir_fd=within)


calls = System()
"""Looked up at every call, so that it can be replaced."""

CAN_STAY_WITHIN = {os.open, os.unlink, os.rmdir} <= os.supports_dir_fd and os.listdir in os.supports_fd
"""Whether the system takes names relative to an open folder (not on Windows)."""


def _raise_last_error(source: Place | None = None, target: Place | None = None) -> None:
    code = ctypes.get_errno()
    if source is None or target is None:
        raise OSError(code, os.strerror(code))
    raise OSError(code, os.strerror(code), os.fspath(source), None, os.fspath(target))


def _of_the_c_library(name: str, arguments: tuple[type, ...]) -> ctypes._NamedFuncPointer | None:
    """A function that Python lacks, on Linux; None where the C library lacks it, too."""
    if not sys.platform.startswith("linux"):
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if call is not None:
        call.argtypes = arguments
        call.restype = ctypes.c_int
    return call


_SPAN = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate = _of_the_c_library("fallocate64", _SPAN) or _of_the_c_library("fallocate", _SPAN)
"""With 64-bit sizes, which musl's plain one has."""

_BEGIN_WRITING = 2
_RANGE = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
_sync_file_range = _of_the_c_library("sync_file_range", _RANGE)

_NAMES = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
_renameat2 = _of_the_c_library("renameat2", _NAMES)
"""From glibc 2.28 on, or musl."""
