"""False directions: what rounding an update of known rank to base's own grid adds to its spectrum."""

from __future__ import annotations

import torch

from .noise_grid import Grid
from .noise_simulation import reaches
from .svd import Factorization

__all__ = ["explained_rank", "reached_by_rounding"]

_BLOCK = 1 << 18  # elements of a block that stays in cache

_EXPLAINED = 1.2
"""A singular value at most so many times the bootstrap's is rounding's own [measured: false directions at
0.8 to 1.15 times it, the weakest true ones from 2 times]."""


def explained_rank(
    base: torch.Tensor, grid: Grid, found: Factorization, floor: float, rank: int, seed: int
) -> tuple[int, float]:
    """The least rank whose rounding explains every further singular value, and the largest one explained.

    Fit rank k, round base + fit to the grid, and compare the next singular value with the delta's own: if
    rounding alone makes one as large, k directions suffice. All ranks above such a k suffice as well, so
    the least is found by halving; two looks where the spectrum falls most settle it as a rule.

    Args:
        base: (m, n), as stored, on `grid`.
        grid: tuned's.
        found: singular triplets of the delta, more than `rank` of them or all that there are.
        floor: what independent rounding explains.
        rank: how many singular values stand above it, at least 1.
        seed: of random starts.
    """
    values = found.S.tolist()
    low, high = 1, rank  # rank itself is explained: the next value lies below the floor
    first = [_steepest(values, rank), _steepest(values, rank) - 1]
    while low < high:
        guess = min(max(first.pop(0), low), high - 1) if first else (low + high) // 2
        level = values[guess] / _EXPLAINED
        if level <= floor or reached_by_rounding(base, grid, found, guess, level, seed):
            high = guess
        else:
            low = guess + 1
    return high, max([floor, *values[high : high + 1]])


def _steepest(values: list[float], rank: int) -> int:
    """After how many of the first `rank` values the spectrum falls by the largest factor."""
    falls = [values[place] / max(values[place + 1], 1e-300) for place in range(min(rank, len(values) - 1))]
    return falls.index(max(falls)) + 1 if falls else rank


def reached_by_rounding(
    base: torch.Tensor, grid: Grid, found: Factorization, rank: int, level: float, seed: int
) -> bool:
    """Whether rounding base + fit adds a singular value of this size outside of the fit's own directions."""
    left, right = found.U[:, :rank], found.Vh[:rank]
    scaled = left * found.S[:rank]
    error = found.S.new_empty(base.shape)
    step = max(1, _BLOCK // base.shape[1])
    for first in range(0, base.shape[0], step):
        rows = slice(first, first + step)
        start = base[rows].to(error.dtype)
        moved = torch.addmm(start, scaled[rows], right)
        torch.sub(grid.round(moved), moved, out=error[rows])
    error.addmm_(left, left.T @ error, alpha=-1.0)
    error.addmm_(error @ right.T, right, alpha=-1.0)
    return reaches(error, level, seed)
