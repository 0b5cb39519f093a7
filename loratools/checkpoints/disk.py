"""What the disk can refuse, said in one line with the file's name: writing, flushing, reserving space."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from loratools.errors import LoratoolsError

UNSUPPORTED = frozenset(
    getattr(errno, name)
    for name in ("ENOSYS", "EINVAL", "ENOTSUP", "EOPNOTSUPP", "ENOTTY")
    if hasattr(errno, name)
)
"""How a file system says that it does not know a call, as opposed to failing at it."""

FULL = frozenset(
    getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG", "EROFS") if hasattr(errno, name)
)
"""Errors that only writing can cause, so that they are the output's even where no file is named."""

_HINTS = {
    errno.ENOSPC: "free some space or write to another disk",
    getattr(errno, "EDQUOT", -1): "free some space within your quota or write to another disk",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), write to another disk or use smaller shards",
    errno.EACCES: "check the permissions or write elsewhere",
    errno.EPERM: "check the permissions or write elsewhere",
    errno.EROFS: "write to a disk that is not read-only",
    errno.EIO: "check the disk",
}


def disk_error(error: OSError, file: str | os.PathLike[str], doing: str = "write") -> LoratoolsError:
    """The error as the user reads it: `cannot write: No space left on device (file); free some space …`."""
    reason = error.strerror or type(error).__name__
    return LoratoolsError(f"cannot {doing}: {reason}", file=file, hint=_HINTS.get(error.errno or 0))


@contextlib.contextmanager
def disk_errors(file: str | os.PathLike[str], doing: str = "write") -> Iterator[None]:
    """Turns an OSError inside of the `with` into a LoratoolsError that names `file`."""
    try:
        yield
    except OSError as error:
        raise disk_error(error, file, doing) from error


def flush_file(path: Path) -> None:
    """Waits until the file's bytes are on the disk; a file system without fsync is taken as it is."""
    _flush(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def flush_folder(path: Path) -> None:
    """Waits until the folder's entries are on the disk, where folders can be flushed (not on Windows)."""
    if os.name != "nt":
        _flush(path, os.O_RDONLY)


def _flush(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def allocate(handle: int, size: int) -> None:
    """Makes the open file `size` bytes long and reserves them, so that a full disk is known before the work.

    Where the file system cannot reserve, the file is only made that long: glibc's emulation, which writes
    into every block, would double the work.
    """
    os.ftruncate(handle, size)
    if size and _fallocate is not None and _fallocate(handle, 0, 0, size) != 0:
        code = ctypes.get_errno()
        if code not in UNSUPPORTED:
            raise OSError(code, os.strerror(code))


def _load_fallocate() -> ctypes._NamedFuncPointer | None:
    """The C library's `fallocate` with 64-bit sizes, on Linux."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None, use_errno=True)
    call = getattr(library, "fallocate64", None) or getattr(library, "fallocate", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
        call.restype = ctypes.c_int
    return call


_fallocate = _load_fallocate()
