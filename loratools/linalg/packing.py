"""Indices as bits, each in as many as the number of possibilities asks for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_BITS", "pack", "unpack", "widths"]

Int64 = NDArray[np.int64]

MOST_BITS = 24
"""Of an index: where more numbers than that are possible, an element is kept as it is."""


def widths(counts: Int64) -> Int64:
    """Bits that an index below each count takes: ceil(log2 count), none for a count of 0 or 1."""
    return np.frexp(np.maximum(counts - 1, 0).astype(np.float64))[1].astype(np.int64)


def pack(indices: Int64, width: Int64) -> NDArray[np.uint8]:
    """Bits (0 or 1, one a byte) of the indices, each in so many (at most `MOST_BITS`), the highest first."""
    short = width.astype(np.int32)
    ends = np.cumsum(short, dtype=np.int32)
    place = np.repeat(ends, short)
    place -= np.arange(1, len(place) + 1, dtype=np.int32)
    bits = np.repeat(indices.astype(np.int32), short)
    bits >>= place
    bits &= 1
    return bits.astype(np.uint8)


def unpack(bits: NDArray[np.uint8], width: Int64) -> Int64:
    """The indices that `pack` made these bits of."""
    ends = np.cumsum(width)
    total = int(width.sum())
    if len(bits) != total:
        raise ValueError(f"{len(bits)} bits where {total} are needed")
    place = np.repeat(ends, width) - 1 - np.arange(total)
    sums = np.concatenate([[0], np.cumsum(bits.astype(np.int64) << place)])
    found: Int64 = sums[ends] - sums[ends - width]
    return found
