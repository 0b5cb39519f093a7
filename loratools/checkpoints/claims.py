"""What a header may claim: names, shapes and files, checked once for every container format."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from loratools.checkpoints import system
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import again, real
from loratools.errors import LoratoolsError

MAX_DIMENSIONS = 32
"""More axes than any layer has, and no more than every numpy can reshape to."""

MAX_NAME = 1000
"""Characters of a tensor's name at most: some five times the longest that models have, and few enough for the
patterns that names are told apart by."""

MAX_PARTS = 32
"""Parts of a tensor's name, between its dots: twice as many as any model has. What goes over a name's
modules one by one, and holds each, takes their square."""

MAX_BYTES = 2**63 - 1
"""The largest file offset that a system knows."""


def check_name(name: Any, file: Path) -> str:
    """`name` if it can name a tensor: a string of printable characters, not empty and not too long.

    Control characters, lone surrogates and invisible format characters (which could pass one name off as
    another on a terminal) are refused.
    """
    if not isinstance(name, str) or not name:
        raise LoratoolsError("a tensor has no name", file=file, hint="write the file again")
    if len(name) > MAX_NAME:
        raise LoratoolsError(
            f"a tensor's name has {len(name):,} characters, above {MAX_NAME:,}",
            file=file,
            tensor=f"{name[:40]}...",
        )
    if name.count(".") >= MAX_PARTS:
        raise LoratoolsError(
            f"a tensor's name has {name.count('.') + 1} parts, above {MAX_PARTS}",
            file=file,
            tensor=f"{name[:40]}...",
        )
    if not name.isprintable():
        raise LoratoolsError("a tensor's name holds unprintable characters", file=file, tensor=name)
    return name


def check_shape(shape: Any, item_bits: int, *, file: Path, tensor: str) -> tuple[int, ...]:
    """`shape` as a tuple if it is a list of sizes whose bytes, empty axes left out, a file could hold."""
    if not isinstance(shape, (list, tuple)) or len(shape) > MAX_DIMENSIONS:
        raise LoratoolsError(f"no shape of at most {MAX_DIMENSIONS} sizes", file=file, tensor=tensor)
    bits = item_bits
    for size in shape:
        if type(size) is not int or size < 0:
            raise LoratoolsError("a shape holds something that is no size", file=file, tensor=tensor)
        bits *= size or 1
    if bits > 8 * MAX_BYTES:
        raise LoratoolsError("a shape is larger than any file", file=file, tensor=tensor)
    return tuple(shape)


def regular_file(path: Path) -> os.stat_result:
    """The status of `path`, which must be a regular file: a FIFO would block and a device would never end."""
    try:
        status = again(system.calls.stat, path)
    except OSError as error:
        raise LoratoolsError(f"cannot open: {error.strerror}", file=path) from error
    except ValueError as error:  # a NUL in the path
        raise LoratoolsError("is no file name", file=path) from error
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
        raise LoratoolsError(f"a file is needed here, and this is {kind}", file=path)
    return status


def is_inside(path: Path, folder: Path) -> bool:
    """Whether, links followed, `path` stays in `folder` or in the `blobs` of the hub cache around it."""
    place, home = real(path), real(folder)
    if place.is_relative_to(home):
        return True
    snapshot = next((at for at in (home, *home.parents) if at.parent.name == "snapshots"), None)
    cache = None if snapshot is None else snapshot.parent.parent
    return cache is not None and cache.name.startswith("models--") and place.is_relative_to(cache / "blobs")


def inside(path: Path, folder: Path) -> Path:
    """`path` if it `is_inside` the folder.

    Raises:
        LoratoolsError: a link leads out of it.
    """
    with disk_errors(path, "open"):
        if is_inside(path, folder):
            return path
    raise LoratoolsError(
        "a link leads out of the checkpoint's folder",
        file=path,
        hint="name the linked file, or copy it",
    )
