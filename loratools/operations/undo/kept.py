"""What lies in one tensor's part of an undo record, as the job that made it says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Keeping", "Kept"]


class Keeping(str, Enum):
    """What of a base's tensor is kept: which number of several each element was, or all of its bytes."""

    INTERVAL = "interval"
    WHOLE = "whole"


@dataclass(frozen=True)
class Kept:
    """What lies in one tensor's part of the record.

    `bits` counts the bits of indices; `apart` the elements that are kept as they were, by position. For a
    tensor that is kept whole both are 0. `factors` are DoRA's, one array for each such step.
    """

    how: Keeping
    part: str
    bits: int = 0
    apart: int = 0
    factors: tuple[tuple[float, ...], ...] = ()
