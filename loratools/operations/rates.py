"""What work costs on the small server that estimates were first measured on: the defaults of every forecast.

How another machine differs, its own runs teach (`engine.calibration`); what these numbers have to get right
is how one job compares with another.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

__all__ = [
    "COPY_RATE",
    "MERGE_RATE",
    "MULTIPLY_RATE",
    "READ_BYTES",
    "READ_RATE",
    "RESTORE_RATE",
    "SUBTRACT_RATE",
    "UNDO_RATE",
    "Loading",
    "finishing",
    "overhead",
    "torch_to_load",
]

READ_RATE = 1e9
"""Bytes of a checkpoint a second that are read and looked at."""

READ_BYTES = 2**23
"""Bytes that looking at two tensors side by side holds: a block of each, and what is made of it."""

MULTIPLY_RATE = 1.5e10
"""Multiplications a second in products of a matrix with a skinny one."""

MERGE_RATE = 4.9e8
"""Bytes a second of base weights that are read, changed, rounded, hashed and written."""

COPY_RATE = 8e8
"""Bytes a second that are copied and hashed."""

SUBTRACT_RATE = 1.25e8
"""Bytes a second of merged weights that an update is taken off from, with what may be off."""

RESTORE_RATE = 1.1e8
"""Bytes a second of merged weights that an undo record makes the base's of again."""

UNDO_RATE = 9.6e7
"""Bytes a second of base weights, of which an undo record keeps what rounding loses."""

_WRITE_RATE = {"extract": 1e8}
"""Bytes a second that are hashed, flushed and published after the last job."""

_ANY_WRITE_RATE = 8e8

_OVERHEAD = {"extract": 30_000_000, "analyze": 110_000_000}
"""Bytes that a verb and the libraries that it loads take beyond what it held when it planned."""

_ANY_OVERHEAD = 6_000_000


class Loading(NamedTuple):
    """What an import takes: bytes that stay, and seconds."""

    bytes: int
    seconds: float


_TORCH = Loading(139_000_000, 1.2)
"""With numpy, and the modules of jobs that compute with it."""


def overhead(command: str) -> int:
    """Bytes that a verb holds beside its jobs, beyond what the process held when it planned."""
    return _OVERHEAD.get(command, _ANY_OVERHEAD)


def torch_to_load() -> Loading:
    """What importing torch will take: nothing where it is there, and so counts as held already.

    A dry run does not import it, and foretells the same as the run, which has it before it plans.
    """
    return Loading(0, 0.0) if "torch" in sys.modules else _TORCH


def finishing(command: str, written: int) -> float:
    """Seconds from the last job to the published output, of which so many bytes were written."""
    return 0.05 + written / _WRITE_RATE.get(command, _ANY_WRITE_RATE)
