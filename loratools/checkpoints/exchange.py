"""Renames that the standard library lacks: two names swapped in one step, and no replacing."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from pathlib import Path

from loratools.checkpoints.disk import UNSUPPORTED

_AT_FDCWD = -100
_NOREPLACE = 1
_EXCHANGE = 2


def exchange(one: Path, other: Path) -> bool:
    """Swaps what two names of one file system stand for, files or folders, in one step.

    False, and nothing changed, where the system or the file system cannot. Raises OSError where it failed.
    """
    return _rename(one, other, _EXCHANGE)


def rename_to_new(source: Path, target: Path) -> None:
    """Renames `source` to a name that must be free.

    In one step where the system can; else with a look before, which leaves a moment to a racing process.
    Raises FileExistsError where the name is taken.
    """
    if _rename(source, target, _NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _rename(source: Path, target: Path, flags: int) -> bool:
    if _renameat2 is None:
        return False
    if _renameat2(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def _load_renameat2() -> ctypes._NamedFuncPointer | None:
    """The C library's `renameat2`: Linux with glibc from 2.28 on, or musl."""
    if not sys.platform.startswith("linux"):
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        call.restype = ctypes.c_int
    return call


_renameat2 = _load_renameat2()
