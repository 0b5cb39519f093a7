"""What a fit of low rank leaves of a delta: rounding noise is at most that."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .noise_profile import Variances
from .svd import Factorization

__all__ = ["Residual", "measure_residual", "residual_blocks"]

_BLOCK = 1 << 18  # elements of a block that stays in cache


@dataclass(frozen=True)
class Residual:
    """Squares of delta - (the leading directions), as variances of the noise that may lie behind them."""

    variances: Variances
    largest: float
    """The largest magnitude of an element."""


def residual_blocks(
    base: torch.Tensor, tuned: torch.Tensor, found: Factorization, rank: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """The residual by blocks of rows, in the dtype of `found`, each with the index of its first row."""
    left, right = found.U[:, :rank] * found.S[:rank], found.Vh[:rank]
    dtype = found.S.dtype
    step = max(1, _BLOCK // tuned.shape[1])
    for first in range(0, tuned.shape[0], step):
        rows = slice(first, first + step)
        block = tuned[rows].to(dtype) - base[rows].to(dtype)
        yield first, block.addmm_(left[rows], right, alpha=-1.0)


def measure_residual(base: torch.Tensor, tuned: torch.Tensor, found: Factorization, rank: int) -> Residual:
    """One pass over both sides.

    A fit of rank r takes part of the noise with it, the share r / m of each column and r / n of each row:
    the sums are scaled back.

    Args:
        base, tuned: (m, n), as stored.
        found: singular triplets of their difference.
        rank: how many of them are taken off.
    """
    height, width = tuned.shape
    scale = math.ldexp(1.0, math.frexp(float(found.S[0]))[1])  # squares of float32 have a narrow range
    rows, columns, largest = np.empty(height), np.zeros(width), 0.0
    for first, block in residual_blocks(base, tuned, found, rank):
        low, high = torch.aminmax(block.mul_(1.0 / scale))
        largest = max(largest, -float(low), float(high))
        block.mul_(block)
        rows[first : first + len(block)] = block.sum(1).numpy()
        columns += block.sum(0).numpy()
    kept = max((1.0 - rank / height) * (1.0 - rank / width), 1e-6)
    return Residual(Variances(rows, columns).times(scale**2 / kept), scale * largest)
