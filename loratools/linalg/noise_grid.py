"""The grid that stored numbers lie on: told from the numbers themselves, not from their dtype."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

__all__ = ["Grid", "recognise"]

_SAMPLE = 1 << 16  # numbers that are looked at first
_BLOCK = 1 << 18  # numbers of a block that stays in cache
_RARE = 0.01  # share of numbers that may lie off the grid of the others

_CODES = 1  # fraction bits up to which numbers are signs, zeros and ones rather than rounded

_SUBNORMAL_HALF = 2.0**-24
"""The least float16: the spacing of its subnormal numbers, below 2**-14."""


@dataclass(frozen=True)
class _Bits:
    """Where a format keeps its fraction, as an integer of the same width."""

    integer: torch.dtype
    fraction_bits: int
    exponent_mask: int
    least_unit: float


_WIDE = {
    torch.float32: _Bits(torch.int32, 23, 0x7F80_0000, 2.0**-149),
    torch.float64: _Bits(torch.int64, 52, 0x7FF0_0000_0000_0000, 0.0),
}
_NATIVE = {torch.bfloat16: (7, 2.0**-133), torch.float16: (10, _SUBNORMAL_HALF)}
_CASTS = {**_NATIVE, torch.float32: (23, 2.0**-149)}
"""Dtypes whose casts round to a grid: fraction bits and least unit."""


@dataclass(frozen=True)
class Grid:
    """Numbers whose distance from their neighbours is max(2**(e - fraction_bits), least_unit), where
    2**e <= |x| < 2**(e + 1): bfloat16 has 7 fraction bits, float16 10 (and 2**-24), float32 23."""

    fraction_bits: int
    least_unit: float

    def units(
        self, values: torch.Tensor, scale: float = 1.0, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The distance to the neighbours at each value, divided by `scale`, a power of two.

        Args:
            values: any floating dtype and shape.
            scale: what the units are measured in.
            out: where to put them: contiguous, of the values' shape and the result's dtype.

        Returns:
            float64 for float64 values, float32 for all others.
        """
        powers = _widened(values) if out is None else out.copy_(values)
        bits = _WIDE[powers.dtype]
        powers.view(bits.integer).bitwise_and_(bits.exponent_mask)  # 2**e, or 0 below the normal numbers
        factor = math.ldexp(1.0, -self.fraction_bits) / scale
        return powers.mul_(factor).clamp_min_(self.least_unit / scale)

    def round(self, values: torch.Tensor) -> torch.Tensor:
        """The grid's nearest numbers (ties to even) to float32 or float64 values, as such."""
        for dtype, (fraction_bits, least_unit) in _CASTS.items():
            if self.fraction_bits == fraction_bits and self.least_unit <= least_unit:
                return values.to(dtype).to(values.dtype)
        units = self.units(values)
        rounded = torch.round(values / units).mul_(units)
        return torch.where(units > 0.0, rounded, values)

    def largest_unit(self, values: torch.Tensor) -> float:
        """The unit of the value that is largest in magnitude."""
        low, high = torch.aminmax(values)
        largest = max(abs(float(low)), abs(float(high)))
        power = math.ldexp(1.0, math.frexp(largest)[1] - 1 - self.fraction_bits) if largest else 0.0
        return max(power, self.least_unit)


def recognise(values: torch.Tensor) -> Grid:
    """The coarsest grid that (all but 1 %) of the values lie on: bfloat16 numbers stored as float32, say.

    A sample is looked at first; a coarser grid than the dtype's own is believed only if the whole tensor
    bears it out. Grids that are no floating-point format's (integers times a scale) are not recognised.

    Args:
        values: float16, bfloat16, float32 or float64, any shape, finite.

    Raises:
        TypeError: another dtype.
    """
    if values.dtype not in (*_NATIVE, *_WIDE):
        raise TypeError(f"weights are float16, bfloat16, float32 or float64, not {values.dtype}")
    own, flat = _own(values.dtype), values.reshape(-1)
    sample = flat[:: max(1, flat.numel() // _SAMPLE)]
    fraction_bits = _fraction_bits(sample)
    if fraction_bits is None or not _CODES < fraction_bits < own.fraction_bits:
        return own
    if _off(flat, fraction_bits) > _RARE * flat.numel():
        return own
    half = values.dtype in _WIDE and fraction_bits <= 10 and _multiples_of_half(sample)
    return Grid(fraction_bits, _SUBNORMAL_HALF if half else own.least_unit)


def _own(dtype: torch.dtype) -> Grid:
    if dtype in _NATIVE:
        return Grid(*_NATIVE[dtype])
    return Grid(_WIDE[dtype].fraction_bits, _WIDE[dtype].least_unit)


def _widened(values: torch.Tensor) -> torch.Tensor:
    """A copy in float64 for float64, else in float32, which holds every 16-bit number exactly."""
    dtype = torch.float64 if values.dtype is torch.float64 else torch.float32
    return values.to(dtype, copy=True).contiguous()


def _fraction_bits(sample: torch.Tensor) -> int | None:
    """How many fraction bits the sample needs, but for a few of its numbers; None where it is all zero."""
    wide = _widened(sample[sample != 0])
    if not wide.numel():
        return None
    width = _WIDE[wide.dtype].fraction_bits
    fractions = wide.view(_WIDE[wide.dtype].integer).numpy() & ((1 << width) - 1)
    last = fractions & -fractions  # the lowest bit that is set, 0 where none is
    needed = np.where(last == 0, 0, width - np.log2(np.maximum(last, 1)))
    return int(np.quantile(needed, 1.0 - _RARE, method="higher"))


def _off(flat: torch.Tensor, fraction_bits: int) -> int:
    """How many of the values need more fraction bits than these."""
    count = 0
    for block in torch.split(flat, _BLOCK):
        wide = _widened(block)
        bits = _WIDE[wide.dtype]
        mask = (1 << (bits.fraction_bits - fraction_bits)) - 1
        count += int(wide.view(bits.integer).bitwise_and_(mask).count_nonzero())
    return count


def _multiples_of_half(sample: torch.Tensor) -> bool:
    """Whether all values are float16's: multiples of its least number, some of them below its normal ones."""
    wide = sample.to(torch.float64)
    multiples = wide / _SUBNORMAL_HALF
    subnormal = (wide != 0) & (wide.abs() < 2.0**-14)
    return bool((multiples == multiples.round()).all()) and bool(subnormal.any())
