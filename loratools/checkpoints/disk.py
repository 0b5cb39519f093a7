"""What the disk can refuse, said in one line with the file's name: reading, writing, flushing."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator

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
