"""Which numbers of a dtype may have become a given one by `round(F w + G)`, and which of them it was.

A merge computes y = round(F w + G), with G what was added and F = 1, or DoRA's factor of the row. Whoever
knows y, F and G knows that w lies between

    (y - h - G) / F  and  (y + h' - G) / F,

h and h' half the distances of y to its neighbours (where the merge rounded by chance, the shares of them that
the draw tells). Of the base's dtype, N numbers lie there, in most places
one: the nearest to (y - G) / F. Where there are more, the place of w among them takes log2 N bits, and that
is all that has to be kept to have w back. (Nothing can do with less than the entropy of w given y, which is
about that: the N numbers are about equally likely.)

The interval is widened by what the merge's own arithmetic may have been off. And whoever computes G again, by
another library on another machine, has it a little different: elements for which a difference of `doubt`
would change the interval's ends are told, so that they can be kept apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .rounding import bfloat16_to_float32, float64_to_bfloat16, float64_to_float16
from .stochastic import DRAWN

__all__ = [
    "Doubt",
    "Maps",
    "Predecessors",
    "bits_of",
    "keys_of",
    "settled",
    "values_of",
]

Bits = NDArray[Any]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_ITEM_BITS = {"bfloat16": 16, "float16": 16, "float32": 32}
_DIGITS = {"bfloat16": 8, "float16": 11, "float32": 24}
_UNIT = {"float32": 2.0**-24, "float64": 2.0**-53}
_SLACK = 10
_DOUBT = 2.0**-50  # what sums in float64 may be off by on another machine, relative


@dataclass(frozen=True)
class Maps:
    """y = round(scale · w + shift), element by element; all (k,), float64.

    `size` bounds the sum of the absolute values that `shift` is a sum of, `terms` how many these are.
    """

    scale: Float64
    shift: Float64
    size: Float64
    terms: int


@dataclass(frozen=True)
class Predecessors:
    """For each element the numbers that it may have been: `count` of them from the key `first` on.

    Where there are none, `first` is the key of the number nearest to (y - G) / F.

    `doubtful` marks those whose ends another computation of the map may see elsewhere. Keys are integers in
    the order of the numbers.
    """

    first: Int64
    count: Int64
    doubtful: NDArray[np.bool_]

    @classmethod
    def of(
        cls, y: Bits, maps: Maps, dtype: str, arithmetic: str, draws: NDArray[np.uint32] | None = None
    ) -> Predecessors:
        """
        Args:
            y: (k,), as stored: uint16 for bfloat16.
            maps: those that made them.
            dtype: of y and of what is looked for: "bfloat16", "float16" or "float32".
            arithmetic: "float32" or "float64", in which the merge was computed.
            draws: (k,), where the merge rounded by chance (`stochastic`).
        """
        keys = keys_of(y, dtype)
        with np.errstate(all="ignore"):
            value = values_of(keys, dtype)
            below, above = values_of(keys - 1, dtype), values_of(keys + 1, dtype)
            below = np.where(np.isfinite(below), below, 2.0 * value - above)
            above = np.where(np.isfinite(above), above, 2.0 * value - below)
            down, up = _shares(keys, draws)
            ends = [
                (value - down * (value - below) - maps.shift) / maps.scale,
                (value + up * (above - value) - maps.shift) / maps.scale,
            ]
            low, high = np.minimum(*ends), np.maximum(*ends)
            magnitude, over = np.abs(value) + np.abs(maps.shift), 1.0 / np.abs(maps.scale)
            room = (2.0 * _UNIT[arithmetic]) * magnitude * over
            doubt = _DOUBT * (magnitude + (maps.terms + 4) * maps.size) * over
            low, high = low - room, high + room
            first, least = _ceiling(low - doubt, dtype)
            last, most = _floor(high + doubt, dtype)
            # The same numbers begin and end the interval by another computation if no doubt reaches them.
            clear = (least >= low + doubt) & (most <= high - doubt) & np.isfinite(low) & np.isfinite(high)
            count = np.maximum(last - first + 1, 0)
            none = count == 0
            if none.any():
                centre = (value[none] - maps.shift[none]) / maps.scale[none]
                first[none] = keys_of(_rounded(centre, dtype), dtype)
        return cls(first, count, ~clear)

    def part(self, part: slice) -> Predecessors:
        """Some of the elements."""
        return Predecessors(self.first[part], self.count[part], self.doubtful[part])

    def keys(self, indices: Int64) -> Int64:
        """The numbers' keys, given their places among those possible where there are several."""
        return self.first + np.where(self.count > 1, indices, 0)


def _shares(keys: Int64, draws: NDArray[np.uint32] | None) -> tuple[Float64 | float, Float64 | float]:
    """How far the sums that become a number reach, as shares of the distances to its two neighbours.

    Half of the way to either by rounding to nearest. By chance a sum goes away from zero if its fraction and
    the draw make 1: such sums reach as far towards zero as the draw says, and as far away as is left of 1.
    """
    if draws is None:
        return 0.5, 0.5
    inwards = draws / DRAWN
    outwards = 1.0 - inwards
    return np.where(keys > 0, inwards, outwards), np.where(keys < 0, inwards, outwards)


def settled(
    distance: NDArray[Any], least_gap: NDArray[Any], half: NDArray[Any], error: NDArray[Any]
) -> NDArray[np.bool_]:
    """Where only w can have become y, and is the nearest to c = (y - G) / F, by a wide margin.

    Args:
        distance: |c - w|; least_gap: of w to the nearer of its neighbours, which is overwritten; half: the
            larger half of y's gaps over |F|; error: bound on what distance and half may be off, with what
            the interval is widened by.
    """
    room = least_gap - half
    least_gap *= 0.5
    np.minimum(room, least_gap, out=room)
    np.minimum(room, half, out=room)  # so that w itself is among them
    room -= error
    result: NDArray[np.bool_] = distance < room
    return result


@dataclass(frozen=True)
class Doubt:
    """Bounds on what sums made in an arithmetic may be off: `of_y` units of |y|, `of_size` of what G is a sum
    of, those of the merge included."""

    of_y: float
    of_size: float

    @classmethod
    def of(cls, steps: int, terms: int, arithmetic: str) -> Doubt:
        """Of so many steps, which add or scale, and of so many terms in all of them.

        Each step rounds once; a sum of n terms is off by n units of their absolute values at most. The slack
        is for the two roundings more that the interval is widened by, and those of finding it. And what
        `Predecessors` doubts is in it, so that it sees the same where nothing is doubtful here.
        """
        unit = _UNIT[arithmetic]
        return cls((steps + _SLACK) * unit + _DOUBT, (terms + _SLACK) * unit + (terms + 4) * _DOUBT)

    def bound(self, half: NDArray[Any], size: NDArray[Any], dtype: str) -> NDArray[Any]:
        """What `settled` and `bracketed` have to be given.

        Args:
            half: of y's larger gap: no number is larger than 2**digits of its gaps.
            size: no less than the absolute values that G is a sum of; may be broadcast.
        """
        result: NDArray[Any] = half * half.dtype.type(self.of_y * 2.0 ** (_DIGITS[dtype] + 1))
        result += (self.of_size * size).astype(half.dtype)
        return result


def keys_of(bits: Bits, dtype: str) -> Int64:
    """Integers in the order of the numbers; both zeros have the key 0."""
    last = _ITEM_BITS[dtype] - 1
    integers = bits.view(f"uint{_ITEM_BITS[dtype]}")
    negative = (integers >> last).astype(np.int64)
    keys = (integers & ((1 << last) - 1)).astype(np.int64)
    keys ^= -negative  # the complement of a magnitude, plus 1: its negative
    keys += negative
    return keys


def bits_of(keys: Int64, dtype: str) -> Bits:
    """The numbers with these keys, as stored (uint16 for bfloat16); zero is the positive one."""
    sign = np.int64(1) << np.int64(_ITEM_BITS[dtype] - 1)
    integers = np.abs(keys)
    integers |= (keys < 0) * sign
    bits = integers.astype(f"uint{_ITEM_BITS[dtype]}")
    return bits if dtype == "bfloat16" else bits.view(dtype)


def values_of(keys: Int64, dtype: str) -> Float64:
    """The numbers with these keys, as float64; NaN beyond the infinities."""
    bits = bits_of(keys, dtype)
    wide = bfloat16_to_float32(bits) if dtype == "bfloat16" else bits
    with np.errstate(invalid="ignore"):
        return np.asarray(wide, dtype=np.float64)


def _rounded(values: Float64, dtype: str) -> Bits:
    if dtype == "bfloat16":
        return float64_to_bfloat16(values)
    return float64_to_float16(values) if dtype == "float16" else values.astype(np.float32)


def _ceiling(values: Float64, dtype: str) -> tuple[Int64, Float64]:
    """The least number that is not below: its key, and itself."""
    keys = keys_of(_rounded(values, dtype), dtype)
    keys += values_of(keys, dtype) < values
    return keys, values_of(keys, dtype)


def _floor(values: Float64, dtype: str) -> tuple[Int64, Float64]:
    """The largest number that is not above."""
    keys = keys_of(_rounded(values, dtype), dtype)
    keys -= values_of(keys, dtype) > values
    return keys, values_of(keys, dtype)
