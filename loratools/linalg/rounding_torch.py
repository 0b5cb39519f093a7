"""Torch tensors into a narrower dtype with one rounding, in blocks that stay in cache."""

from __future__ import annotations

import torch

__all__ = ["round_once"]

_BLOCK = 1 << 18  # elements of float64 in a block: 2 MiB
_NARROW = (torch.bfloat16, torch.float16)


def round_once(values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The numbers of `dtype` nearest to `values`, ties to even; `values` itself where it has that dtype.

    Torch takes float64 to bfloat16 and to float16 through float32 and so rounds twice; here the first
    rounding is to odd, which makes the second right (see `loratools.linalg.rounding`). Every other
    conversion is torch's own.

    Args:
        values: float32 or float64, any shape.
        dtype: a floating dtype.

    Raises:
        TypeError: either is not of these dtypes.
    """
    if values.dtype not in (torch.float32, torch.float64) or not dtype.is_floating_point:
        raise TypeError(f"expected float32 or float64 into a floating dtype, not {values.dtype} into {dtype}")
    if values.dtype is torch.float32 or dtype not in _NARROW:
        return values.to(dtype)
    rounded = torch.empty(values.shape, dtype=dtype, device=values.device)
    source, target = values.reshape(-1), rounded.view(-1)
    for start in range(0, source.numel(), _BLOCK):
        block = source[start : start + _BLOCK]
        target[start : start + _BLOCK].copy_(_to_float32_odd(block))
    return rounded


def _to_float32_odd(block: torch.Tensor) -> torch.Tensor:
    """float64 to float32 by truncation, the last bit set where anything was lost."""
    nearest = block.to(torch.float32)
    back = nearest.to(torch.float64)
    bits = nearest.view(torch.int32)
    inexact = back.ne(block)
    # Magnitudes are ordered like their bits: one less is the neighbour towards zero, also below infinity.
    bits.sub_(back.abs_().gt(block.abs()).to(torch.int32))
    bits.bitwise_or_(inexact.to(torch.int32))
    return nearest
