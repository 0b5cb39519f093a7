"""How large the rounding noise of each row and each column of a stored matrix may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .noise_grid import Grid

__all__ = ["NoiseProfile", "Variances", "profile_noise"]

_ROUNDING = 1.0 / 12.0
"""Variance of a uniform error of one unit's width (B. Widrow and I. Kollár, "Quantization Noise", 2008)."""

_BLOCK = 1 << 18  # elements of a block that stays in cache
_LEAST_SCALE = 2.0**-100  # of units: a matrix of zeros has none to speak of
_TILES = 16  # at most, along a side of the coarse picture that tells whether a profile is a product
_TILE = 16  # rows and columns of a tile, at least: sums of fewer units say little


@dataclass(frozen=True)
class Variances:
    """Variances of independent entries, summed by row and by column."""

    rows: NDArray[np.float64]
    """(m,)"""
    columns: NDArray[np.float64]
    """(n,)"""

    @property
    def total(self) -> float:
        return float(self.rows.sum())

    def __add__(self, other: Variances) -> Variances:
        return Variances(self.rows + other.rows, self.columns + other.columns)

    def times(self, factor: float) -> Variances:
        return Variances(self.rows * factor, self.columns * factor)


@dataclass(frozen=True)
class NoiseProfile:
    """The rounding noise of a matrix stored on a grid, if every value was rounded to it: units² / 12."""

    variances: Variances
    largest: float
    """The most that a single entry can be off: half the largest unit."""
    product: bool
    """Whether the variances are near to a product of one factor by row and one by column, tile by tile."""

    @property
    def units_squared(self) -> float:
        """The sum of the squared units."""
        return self.variances.total / _ROUNDING


def profile_noise(values: torch.Tensor, grid: Grid) -> NoiseProfile:
    """One pass over the values.

    Args:
        values: (m, n), as stored.
        grid: what they lie on.
    """
    height, width = values.shape
    largest = grid.largest_unit(values)
    scale = max(largest, _LEAST_SCALE)
    rows = np.empty(height)
    tiles = []
    step = max(1, min(_BLOCK // width, -(-height // _TILES)))  # a strip for each row of tiles, at least
    dtype = torch.float64 if values.dtype is torch.float64 else torch.float32
    buffer, ones = torch.empty(step, width, dtype=dtype), torch.ones(1, step, dtype=dtype)
    for first in range(0, height, step):
        block = values[first : first + step]
        units = grid.units(block, scale, out=buffer[: len(block)])
        units.mul_(units)  # at most 1: sums of a block stay exact to a few parts in 10**6
        rows[first : first + step] = units.sum(1).numpy()
        tiles.append(ones[:, : len(block)].mm(units)[0].numpy())
    strips = np.stack(tiles).astype(np.float64)  # (strips, n)
    factor = _ROUNDING * scale**2
    variances = Variances(rows * factor, strips.sum(0) * factor)
    return NoiseProfile(variances, 0.5 * largest, _is_product(strips, height))


def _is_product(strips: NDArray[np.float64], height: int) -> bool:
    """Whether tiles of rows by columns hold what the product of their sums says, to a half of it."""
    down, across = (max(1, min(_TILES, side // _TILE)) for side in (height, strips.shape[1]))
    groups = [part.sum(0) for part in np.array_split(strips, min(down, len(strips)))]
    by_column = np.array_split(np.stack(groups), across, axis=1)
    tiles = np.stack([part.sum(1) for part in by_column], axis=1)
    expected = tiles.sum(1, keepdims=True) * tiles.sum(0, keepdims=True) / tiles.sum()
    return bool((np.abs(tiles - expected) <= 0.5 * expected).all())
