"""Floating-point formats as bits: bfloat16 without torch, one rounding instead of two, units in last place.

Everything rounds to nearest, ties to even. A value that passes through an intermediate format is rounded
twice, and where the first rounding lands on a tie of the second, wrongly. The cure is to make the first
rounding *to odd* (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using
rounding to odd", IEEE Trans. Computers 57, 2008): truncate, and set the last bit if anything was lost. Then
no tie can arise that was not there, as long as the intermediate format has two bits more than the last.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "bfloat16_to_float32",
    "float32_to_bfloat16",
    "float64_to_bfloat16",
    "float64_to_float16",
    "nearest_bfloat16",
    "ulp",
    "widen_bfloat16",
]


class _Format(NamedTuple):
    fraction_bits: int
    least_exponent: int
    greatest_exponent: int


_FORMATS = {
    "bfloat16": _Format(7, -126, 127),
    "float16": _Format(10, -14, 15),
    "float32": _Format(23, -126, 127),
    "float64": _Format(52, -1022, 1023),
}


def bfloat16_to_float32(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The values of bfloat16 numbers given as their bits: exact, since bfloat16 is float32's upper half."""
    if bits.dtype != np.uint16:
        raise TypeError(f"bfloat16 numbers come as uint16 bits, not as {bits.dtype}")
    wide = np.empty(bits.shape, np.float32)
    widen_bfloat16(bits, wide)
    return wide


def widen_bfloat16(bits: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """`bfloat16_to_float32` into an array of the same shape, which is in memory row by row."""
    upper = out.view(np.uint32)
    upper[...] = bits
    upper <<= np.uint32(16)


def float32_to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 numbers, ties to even; a NaN stays one, with its sign."""
    if values.dtype != np.float32:
        raise TypeError(f"expected float32, not {values.dtype}")
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(values.shape)
    carried = np.empty(values.shape, np.uint32)
    _carry(bits, carried)
    carried >>= np.uint32(16)
    rounded = carried.astype(np.uint16)
    if np.isnan(values.min(initial=0.0)):  # one pass and no array, where there are none
        nan = np.isnan(values)
        quiet = (bits >> np.uint32(16)) | np.uint32(0x0040)
        rounded = np.where(nan, quiet.astype(np.uint16), rounded)
    return rounded


def nearest_bfloat16(
    values: NDArray[np.float32], bits: NDArray[np.uint16], back: NDArray[np.float32]
) -> None:
    """`float32_to_bfloat16` into `bits`, and the same numbers as float32 into `back`, without a temporary.

    A NaN may become anything in `bits`, and whoever cannot rule them out has to look: `back - values` is NaN
    wherever `values` is not finite, and infinite where a number was too large. All have one shape and are in
    memory row by row.
    """
    carried = back.view(np.uint32)
    _carry(values.view(np.uint32), carried)
    carried >>= np.uint32(16)
    bits[...] = carried
    carried <<= np.uint32(16)


def _carry(bits: NDArray[np.uint32], out: NDArray[np.uint32]) -> None:
    """Adds half a unit of the upper halves less one, and one where they are odd: what carries goes up."""
    np.right_shift(bits, np.uint32(16), out=out)
    out &= np.uint32(1)
    out += bits
    out += np.uint32(0x7FFF)


def float64_to_bfloat16(values: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The bits of the bfloat16 numbers nearest to float64 values, with one rounding."""
    return float32_to_bfloat16(_float64_to_float32_odd(values))


def float64_to_float16(values: NDArray[np.float64]) -> NDArray[np.float16]:
    """The float16 numbers nearest to float64 values, with one rounding; too large becomes infinite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return _float64_to_float32_odd(values).astype(np.float16)


def ulp(values: ArrayLike, dtype: str) -> NDArray[np.float64]:
    """The distance between neighbouring numbers of a format, at the magnitude of each value, as float64.

    Args:
        values: any shape; taken as float64.
        dtype: "float16", "bfloat16", "float32" or "float64".

    Returns:
        2**(e - fraction bits), where 2**e <= |value| < 2**(e + 1) and e is held to the format's range: at
        zero and among subnormal numbers the least subnormal, beyond the largest number the unit of its
        binade. NaN for NaN and infinities.

    Raises:
        ValueError: an unknown dtype.
    """
    if dtype not in _FORMATS:
        known = ", ".join(sorted(_FORMATS))
        raise ValueError(f"no floating-point format is called {dtype!r}; known: {known}")
    fraction_bits, least, greatest = _FORMATS[dtype]
    magnitude = np.abs(np.asarray(values, dtype=np.float64))
    exponent = np.where(magnitude == 0.0, least, np.frexp(magnitude)[1] - 1)
    unit = np.ldexp(1.0, np.clip(exponent, least, greatest) - fraction_bits)
    return np.where(np.isfinite(magnitude), unit, np.nan)


def _float64_to_float32_odd(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """To float32 by truncation, the last bit set where anything was lost."""
    if values.dtype != np.float64:
        raise TypeError(f"expected float64, not {values.dtype}")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        nearest = values.astype(np.float32)
        back = nearest.astype(np.float64)
        away = np.abs(back) > np.abs(values)
        inexact = back != values
    bits = np.atleast_1d(nearest).view(np.uint32).reshape(nearest.shape)
    # Magnitudes are ordered like their bits, so that one less is the neighbour towards zero (also below inf).
    odd = (bits - away.astype(np.uint32)) | inexact.astype(np.uint32)
    return np.asarray(odd).view(np.float32)
