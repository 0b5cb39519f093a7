"""Stochastic rounding: to either of the two numbers beside a value, by chance, so that the mean is the value.

A value that lies at the fraction f of the way from the neighbour towards zero to the one away from it becomes
the latter with probability f, and what a format holds exactly stays as it is. Rounding to nearest loses
every update that is smaller than half a unit in the last place; this one keeps it on average. (Croci et al.,
"Stochastic rounding: implementation, error analysis and applications", Royal Society Open Science 9, 2022.)

The chance is a function of a key and of the element's place alone, so that neither blocks nor threads nor the
order of work matter: Philox4x64-10 in counter mode (Salmon et al., "Parallel random numbers: as easy as 1, 2,
3", SC 2011). And since rounding with a given draw is monotone, the values that it takes to one number are an
interval, as with rounding to nearest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .rounding import float64_to_bfloat16, float64_to_float16

__all__ = ["DRAWN", "Draws", "stochastic"]

Draw = NDArray[np.uint32]

DRAWN = 2.0**32
"""A draw is one of so many integers, from 0 on."""

_A_COUNT = 8  # draws of 32 bits from one count of the generator, which gives 256


@dataclass(frozen=True)
class Draws:
    """A draw for each element of a tensor, by its place in row-major order.

    Args:
        key: 128 bits, below 2**128: the draws of different keys have nothing to do with one another.
    """

    key: int

    def at(self, first: int, count: int) -> Draw:
        """The draws of the elements `first:first + count`: (count,) integers below `DRAWN`."""
        begin, skipped = divmod(first, _A_COUNT)
        counts = -(-(skipped + count) // _A_COUNT)
        # numpy counts up before it draws.
        generator = np.random.Philox(key=self.key, counter=(begin - 1) % 2**256)
        raw = generator.random_raw(4 * counts).astype("<u8", copy=False)
        return raw.view("<u4")[skipped : skipped + count].astype(np.uint32, copy=False)


class _Format(NamedTuple):
    fraction_bits: int
    least_normal: float
    largest: float


_FORMATS = {
    "bfloat16": _Format(7, 2.0**-126, 3.3895313892515355e38),
    "float16": _Format(10, 2.0**-14, 65504.0),
    "float32": _Format(23, 2.0**-126, 3.4028234663852886e38),
}
_WIDE = {"float32": (23, np.uint32), "float64": (52, np.uint64)}


def stochastic(values: NDArray[Any], draws: Draw, dtype: str) -> NDArray[Any]:
    """Values in a narrower format: the neighbour away from zero where f + draw / 2**32 >= 1.

    So the probabilities are exact to 2**-32, and exact where at most 32 bits are cut off: float32 into
    bfloat16, float64 into float32. Beyond the largest number, and for NaN, it is rounding to nearest.

    Args:
        values: any shape, float32 or float64.
        draws: as many, of the same shape.
        dtype: "bfloat16", "float16" or "float32".

    Returns:
        bfloat16 as its bits in uint16, else the dtype itself.

    Raises:
        ValueError: the dtype is not narrower than the values'.
    """
    wide_bits, integer = _WIDE[str(values.dtype)]
    form = _FORMATS.get(dtype)
    if form is None or form.fraction_bits >= wide_bits:
        raise ValueError(f"{values.dtype} is not rounded to {dtype}")
    cut = wide_bits - form.fraction_bits
    values = np.ascontiguousarray(values)
    bits = values.view(integer)
    # Magnitudes are ordered like their bits: a carry out of the cut bits is a step away from zero.
    added = draws.astype(integer) << integer(cut - 32) if cut > 32 else draws >> np.uint32(32 - cut)
    bits = bits + added.astype(integer, copy=False)
    bits >>= integer(cut)
    bits <<= integer(cut)
    kept = bits.view(values.dtype)
    magnitude = np.abs(values)
    odd = ~(magnitude <= form.largest)
    if not (dtype == "bfloat16" and integer is np.uint32):  # which has float32's own subnormal numbers
        low = magnitude < form.least_normal
        if low.any():
            kept[low] = _among_subnormal(values[low], draws[low], form)
    result = _exactly(kept, dtype)
    if odd.any():
        result[odd] = _nearest(values[odd], dtype)
    return result


def _among_subnormal(values: NDArray[Any], draws: Draw, form: _Format) -> NDArray[np.float64]:
    """Where numbers lie at equal distances: multiples of the least of them."""
    least = form.least_normal * 2.0**-form.fraction_bits
    steps = np.abs(values.astype(np.float64)) / least
    whole = np.floor(steps)
    whole += steps - whole >= 1.0 - draws / DRAWN
    rounded: NDArray[np.float64] = np.copysign(whole * least, values)
    return rounded


def _exactly(kept: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Numbers that the format holds, in it."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "bfloat16":
            return kept.astype(dtype)
        bits = kept.astype(np.float32, copy=False).view(np.uint32) >> np.uint32(16)
    return bits.astype(np.uint16)


def _nearest(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is the caller's to count
        exact = values.astype(np.float64)
        if dtype == "bfloat16":
            return float64_to_bfloat16(exact)
        return float64_to_float16(exact) if dtype == "float16" else exact.astype(np.float32)
