"""What makes bytes and names last: room reserved before the work, and everything flushed after it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from loratools.checkpoints import system
from loratools.checkpoints.disk import UNSUPPORTED
from loratools.checkpoints.files import again, close_handle, named, open_handle


def flush_file(path: Path) -> None:
    """Waits until the file's bytes are on the disk; a file system without fsync is taken as it is."""
    _flush(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def flush_folder(path: Path) -> None:
    """Waits until the folder's entries are on the disk, where folders can be flushed (not on Windows)."""
    if os.name != "nt":
        _flush(path, os.O_RDONLY)


def begin_flush(handle: int, offset: int, size: int) -> None:
    """Lets the disk take these bytes while others are still made, so that `flush_file` finds little to do.

    What cannot be begun is no error: it is `flush_file` that waits, and that tells what failed.
    """
    with contextlib.suppress(OSError):
        again(system.calls.write_back, handle, offset, size)


def _flush(path: Path, flags: int) -> None:
    handle = open_handle(path, flags)
    try:
        with named(path), _where_supported():
            again(system.calls.fsync, handle)
    finally:
        close_handle(handle)


def allocate(handle: int, size: int) -> None:
    """Makes the open file `size` bytes long and reserves them, so that a full disk is known before the work.

    Where the file system cannot reserve, the file is only made that long: glibc's emulation, which writes
    into every block, would double the work.
    """
    again(system.calls.truncate, handle, size)
    if size:
        with _where_supported():
            again(system.calls.reserve, handle, size)


@contextlib.contextmanager
def _where_supported() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
