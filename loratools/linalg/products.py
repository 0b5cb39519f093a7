"""Adding a skinny product to a block of rows, in pieces of rows that stay in the cache.

OpenBLAS multiplies small matrices without first copying them into the layout of its large kernel, as long as
rows x columns x rank is at most a million (`interface/gemm.c`, its `SMALL_MATRIX_OPT`): at rank 16 that takes
0.6 times the processor time, and the product never leaves the cache before it is added.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["add_product"]

_SMALL = 1_000_000
_LEAST_ROWS = 4
"""Of a piece: with fewer, the right factor is read too often (measured), and one row is rounded otherwise."""

_MOST_RANK, _LEAST_COLUMNS = 16, 64
"""Beyond these, what is gained is little, and at the edges sums are made in another order, as everywhere in
float64 (measured)."""

_MOST_ELEMENTS = 2**16


def add_product(block: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> None:
    """`block += left @ right`, with the same bits.

    Args:
        block: (rows, columns) float32 or float64, changed in place.
        left: (rows, r), right: (r, columns), of the block's dtype.
    """
    pieces = _pieces(block, left.shape[1])
    most = max((rows.stop - rows.start for rows in pieces), default=0)
    product = np.empty((most, block.shape[1]), block.dtype)
    multiply = _outer if left.shape[1] == 1 else np.matmul
    for rows in pieces:
        piece = product[: rows.stop - rows.start]
        multiply(left[rows], right, out=piece)
        block[rows] += piece


def _outer(left: NDArray[Any], right: NDArray[Any], *, out: NDArray[Any]) -> None:
    """numpy's product of rank 1, in a tenth of its time. (A sum that begins with 0 is never -0.)"""
    np.multiply(left, right, out=out)
    out += out.dtype.type(0)


def _pieces(block: NDArray[Any], rank: int) -> list[slice]:
    """The rows of a block that are multiplied at a time."""
    rows, columns = block.shape
    step = min(_SMALL // max(1, columns * rank), _MOST_ELEMENTS // max(1, columns))
    step -= step % _LEAST_ROWS
    whole = rank > _MOST_RANK or columns < _LEAST_COLUMNS or block.dtype != np.float32
    if step < _LEAST_ROWS or (whole and rank > 1):
        return [slice(0, rows)]
    starts = list(range(0, rows, step))
    if len(starts) > 1 and rows - starts[-1] < _LEAST_ROWS:
        starts.pop()  # what is left over goes with the piece before it
    return [slice(start, end) for start, end in zip(starts, [*starts[1:], rows], strict=True)]
