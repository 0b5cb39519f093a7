"""Distances between neighbouring floating numbers, for torch's tensors on any device."""

from __future__ import annotations

import math

import torch

__all__ = ["largest_gap", "least_gap"]

_INTEGERS = {
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def largest_gap(values: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """Distance of each number to the farther of its neighbours: the unit in the last place.

    In `wide`, of which it is an exact number; infinite for what is not finite.
    """
    return _unit(values.view(_INTEGERS[values.dtype]), values.dtype, wide)


def least_gap(values: torch.Tensor, wide: torch.dtype) -> torch.Tensor:
    """Distance of each number to the nearer of its neighbours: half of the largest at powers of two."""
    bits = values.view(_INTEGERS[values.dtype]) & _magnitude(values.dtype)
    # A power of two goes into the binade below, and nothing else does.
    return _unit(bits.clamp_min(1) - 1, values.dtype, wide)


def _unit(bits: torch.Tensor, dtype: torch.dtype, wide: torch.dtype) -> torch.Tensor:
    """The unit in the last place of numbers with such exponents: their power of two times epsilon."""
    info = torch.finfo(dtype)
    fraction = _fraction_bits(dtype)
    exponents = (bits & (_magnitude(dtype) >> fraction << fraction)).clamp_min(1 << fraction)
    return exponents.view(dtype).to(wide) * info.eps


def _magnitude(dtype: torch.dtype) -> int:
    """All bits of a number but the sign's."""
    return (1 << (torch.finfo(dtype).bits - 1)) - 1


def _fraction_bits(dtype: torch.dtype) -> int:
    return 1 - math.frexp(torch.finfo(dtype).eps)[1]
