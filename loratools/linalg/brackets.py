"""Which numbers may have become a given one, told in the merge's own arithmetic wherever that can tell.

`Predecessors` finds the ends of an interval in float64, rounds them to the base's dtype, and asks what the
doubt could change. Here the ends are floating-point numbers of the dtype that the merge computed in, and what
lies between them is counted by shifting their bits: magnitudes are ordered like their bits, and a narrower
format keeps the upper ones. Where the bounds on what such ends may be off hold no number of the base's, every
other computation finds the same numbers; everywhere else somebody has to look closer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .predecessors import Doubt

__all__ = ["Bracket", "bracketed", "lone"]


@dataclass(frozen=True)
class Bracket:
    """For each element `count` numbers from the key `first` on, (k,) integers, where it is `clear`."""

    first: NDArray[Any]
    count: NDArray[Any]
    clear: NDArray[np.bool_]


class _Grid(NamedTuple):
    """How the numbers of a format lie among those of a wider one.

    `cut` bits fewer, the exponent's origin `rebased` keys away; between `least` and `largest` in magnitude
    this, and the bound on errors, holds. And masks of the format's sign and fraction, and the bits of its
    least normal number and of infinity.
    """

    cut: int
    rebased: int
    least: float
    largest: float
    sign: int
    fraction: int
    least_normal: int
    infinite: int


_GRIDS = {
    ("float32", "bfloat16"): _Grid(16, 0, 2.0**-96, 3.3895313892515355e38, 0x8000, 0x007F, 0x0080, 0x7F80),
    ("float32", "float16"): _Grid(13, 112 << 10, 2.0**-14, 65504.0, 0x8000, 0x03FF, 0x0400, 0x7C00),
    ("float64", "float32"): _Grid(
        29, 896 << 23, 2.0**-126, 3.4028234663852886e38, 0x80000000, 0x007FFFFF, 0x00800000, 0x7F800000
    ),
}


def lone(
    before: NDArray[Any],
    y: NDArray[Any],
    distance: NDArray[Any],
    size: NDArray[Any] | float,
    doubt: Doubt,
    dtype: str,
) -> NDArray[np.bool_]:
    """Where only `before` can have become y = round(w + G), by a wide margin.

    No sum that became y is farther from the middle of these than half of y's gap. Where the gaps beside w are
    no smaller than that gap, no other number is as near as w, but for two at about half a gap each.

    Args:
        before, y: as stored, of one shape. Zeros and, beside the least normal number, subnormal ones are
            left to a closer look.
        distance: of `before` to the middle less G; float32 or float64.
        size: no less than the absolute values that G is a sum of; may be broadcast.
        doubt: of the sums.
    """
    grid = _GRIDS[str(distance.dtype), dtype]
    integer = np.dtype(f"uint{8 * distance.itemsize}").type
    narrow = f"uint{8 * y.itemsize}"
    exponents = y.view(narrow) & grid.infinite
    bits = exponents.astype(integer)
    bits <<= integer(grid.cut)
    if grid.rebased:
        bits += integer(grid.rebased << grid.cut)
    room = bits.view(distance.dtype)  # the powers of two p <= |y| < 2 p, whose half gap is p / 2**digits
    room *= 0.5 / (grid.fraction + 1) - 2.0 * doubt.of_y
    room -= np.asarray(doubt.of_size * size, dtype=distance.dtype)
    found: NDArray[np.bool_] = distance < room
    found &= (before.view(narrow) & (grid.sign - 1)) > exponents
    return found


def bracketed(
    y: NDArray[Any],
    middle: NDArray[Any],
    half: NDArray[Any],
    error: NDArray[Any],
    dtype: str,
    *,
    inwards: NDArray[Any],
    flipped: NDArray[np.bool_] | bool,
) -> Bracket:
    """The numbers of `dtype` within `half` of `middle`, half of one side less where y is a power of two.

    Args:
        y: (k,), what they became, as stored. Zeros, subnormal numbers and what is not finite are never clear.
        middle: (k,), of the sums that become y if the gaps on both sides of it are equal, less G, over F;
            float32 or float64.
        half: (k,), half of the larger gap beside y, over |F|.
        error: (k,), no less than what middle and half together may be off.
        inwards: share of the gap towards zero in which sums become y; (k,) or one for all, ().
        flipped: whether F is negative.
    """
    grid = _GRIDS[str(middle.dtype), dtype]
    bits = y.view(f"uint{8 * y.dtype.itemsize}") & (grid.sign - 1)
    power = np.flatnonzero((bits & grid.fraction) == 0)
    if power.size:
        middle, half = middle.copy(), half.copy()
        # The gap towards zero is half as wide there: so much of the interval is missing at that end.
        missing = half[power] * np.broadcast_to(inwards, y.shape)[power]
        half[power] -= 0.5 * missing
        towards = np.where(y.view(bits.dtype)[power] > grid.sign, -0.5, 0.5)
        towards[np.broadcast_to(flipped, y.shape)[power]] *= -1.0
        middle[power] += towards * missing
    size = np.abs(middle)
    outer = half + error
    inner = half - error
    low, high = size - outer, size + outer
    clear = (low >= grid.least) & (high <= grid.largest)
    clear &= (bits > grid.least_normal) & (bits < grid.infinite)
    integer = np.dtype(f"int{8 * middle.itemsize}").type
    first = _upper(low, grid, integer)
    last = _lower(high, grid, integer)
    clear &= first == _upper(size - inner, grid, integer)
    clear &= last == _lower(size + inner, grid, integer)
    count = last - first
    count += 1
    clear &= count > 0
    return Bracket(np.where(middle < 0, -last, first), count, clear)


def _upper(values: NDArray[Any], grid: _Grid, integer: Any) -> NDArray[Any]:
    """The key of the least number that is not below a positive value."""
    bits: NDArray[Any] = values.view(integer) + integer((1 << grid.cut) - 1)
    bits >>= integer(grid.cut)
    bits -= integer(grid.rebased)
    return bits


def _lower(values: NDArray[Any], grid: _Grid, integer: Any) -> NDArray[Any]:
    """The key of the largest number that is not above a positive value."""
    bits: NDArray[Any] = values.view(integer) >> integer(grid.cut)
    bits -= integer(grid.rebased)
    return bits
