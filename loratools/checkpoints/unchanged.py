"""Whether a file that is read in the course of a run is still the one whose header was read at its start."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from loratools.checkpoints.claims import regular_file
from loratools.errors import LoratoolsError

__all__ = ["FileMark", "changed", "require_unchanged"]


@dataclass(frozen=True)
class FileMark:
    """A file as it was before its header was read: which one, how long, and when it was last written."""

    path: Path
    device: int
    inode: int
    size: int
    written: int

    @classmethod
    def of(cls, path: Path, status: os.stat_result) -> FileMark:
        return cls(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def require_unchanged(marks: Iterable[FileMark]) -> None:
    """Holds files against what they were.

    What is written in place, in the same tick of the file system's clock as the last change before the mark
    was made and to the same size, is not seen.

    Raises:
        LoratoolsError: one has been written, replaced or removed since.
    """
    for mark in marks:
        if FileMark.of(mark.path, regular_file(mark.path)) != mark:
            raise changed(mark.path)


def changed(path: Path, tensor: str | None = None) -> LoratoolsError:
    """What is said of a file that was written while it was read."""
    return LoratoolsError(
        "changed while it was read",
        file=path,
        tensor=tensor,
        hint="run it again when nothing writes to it",
    )
