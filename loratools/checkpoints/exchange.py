"""Renames that the standard library lacks: two names swapped in one step, and no replacing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from loratools.checkpoints import system
from loratools.checkpoints.disk import UNSUPPORTED
from loratools.checkpoints.files import again, has_name


def exchange(one: Path, other: Path) -> bool:
    """Swaps what two names of one file system stand for, files or folders, in one step.

    False, and nothing changed, where the system or the file system cannot. Raises OSError where it failed.
    """
    return _rename(one, other, system.EXCHANGE)


def rename_to_new(source: Path, target: Path) -> None:
    """Renames `source` to a name that must be free.

    In one step where the system can; else with a look before, which leaves a moment to a racing process.
    Raises FileExistsError where the name is taken.
    """
    if _rename(source, target, system.NO_REPLACE):
        return
    if has_name(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    again(system.calls.rename, source, target)


def _rename(source: Path, target: Path, how: int) -> bool:
    try:
        again(system.calls.rename_as, source, target, how)
    except OSError as error:
        if error.errno in UNSUPPORTED:
            return False
        raise
    return True
