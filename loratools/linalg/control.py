"""The random control of a similarity grid: what phi is between directions that have nothing to do with each
other, drawn many times.

Two flags of subspaces, each the spans of the first i of its directions, are independent and uniform if one is
turned by a uniform orthogonal matrix. By that invariance one of them may be the coordinate axes: phi then
depends on the leading (r1, r2) block of a uniform orthonormal frame alone, and that block can be drawn at a
cost that does not know the width of the space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .subspaces import expected_similarity, smaller_index

__all__ = ["COVERAGE", "RandomControl", "draw_grids", "random_control"]

Matrix = NDArray[np.float64]

COVERAGE = 0.99
"""How often a random grid lies wholly inside of the band."""

_DRAWS = (999, 399)  # one more, times 0.99, is a whole number: see `random_control`
_WORK = 3e8
"""r1 r2 min(r1, r2), summed over draws, that is affordable: half a second."""
_BATCH = 2**21
"""Numbers in a batch of blocks."""
_EXACT = 1e-9
"""Allowance for rounding at cells that are not random: a span that is the whole space."""


@dataclass(frozen=True)
class RandomControl:
    """phi between independent uniform subspaces, over the whole grid at once."""

    mean: Matrix
    """(r1, r2): the mean over the draws."""
    low: Matrix
    """(r1, r2): the band; a random grid lies between the two, everywhere, with probability `COVERAGE`."""
    high: Matrix
    draws: int

    def holds(self, grid: Matrix) -> bool:
        """Whether a grid of this shape lies wholly inside of the band."""
        return bool(np.all((grid >= self.low) & (grid <= self.high)))


def random_control(first: int, second: int, dimension: int, seed: int = 0) -> RandomControl:
    """The control of a grid of that shape, drawn; the same for the same arguments.

    The band is simultaneous: cells are brought to one scale, the largest deviation of each draw over all its
    cells is taken, and the band lies where the 0.99 quantile of these is, in every cell. With N draws and one
    more, exchangeable, grid, that grid's largest deviation is among the lowest 0.99 (N + 1) of N + 1 with
    probability 0.99: the quantile is the one of that rank, and the coverage is exact, over the draws of band
    and grid together. The scale of a cell is fixed beforehand by the moments of phi, not by the draws.

    Args:
        first, second: ranks of the two sets of directions, at least 1.
        dimension: n, the space they lie in, at least both.
        seed: of the draws.

    Raises:
        ValueError: a rank is not in 1 ... n.
    """
    if not 1 <= min(first, second) <= max(first, second) <= dimension:
        raise ValueError(f"no {first} and {second} directions in {dimension} dimensions")
    drawn = _drawn(*(min(_power_of_two(rank), dimension) for rank in (first, second)), dimension, seed)
    scale = _Scale.of(first, second, dimension)
    widest = float(drawn.widest[first - 1, second - 1])
    low, high = scale.phi_at(-widest) - _EXACT, scale.phi_at(widest) + _EXACT
    mean = drawn.mean[:first, :second]
    return RandomControl(mean, np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0), drawn.draws)


@dataclass(frozen=True)
class _Drawn:
    """What is kept of the draws of one shape, for the leading (i, j) part at [i - 1, j - 1]: the mean of its
    last cell, and the quantile of the largest deviation over its cells."""

    mean: Matrix
    widest: Matrix
    draws: int


@lru_cache(maxsize=256)
def _drawn(first: int, second: int, dimension: int, seed: int) -> _Drawn:
    """Draws one shape for all that are part of it: the leading part of a grid is the grid of the first
    directions, so that modules of many ranks need few drawings."""
    scale = _Scale.of(first, second, dimension)
    draws = _count_draws(first, second)
    total = np.zeros((first, second))
    deviations = np.empty((draws, first, second), dtype=np.float32)
    generator = np.random.default_rng([seed % 2**64, first, second, dimension])
    done = 0
    for grids in draw_grids(first, second, dimension, draws, generator):
        total += grids.sum(axis=0)
        off = np.abs(scale.standardised(grids))
        np.maximum.accumulate(np.maximum.accumulate(off, axis=1, out=off), axis=2, out=off)
        deviations[done : done + len(grids)] = off
        done += len(grids)
    rank = math.ceil(COVERAGE * (draws + 1)) - 1
    deviations.partition(rank, axis=0)
    # rounded up to the next float32, so that the draw whose deviation it is lies inside
    widest = np.nextafter(deviations[rank], np.float32(np.inf)).astype(np.float64)
    return _Drawn(total / draws, widest, draws)


def _power_of_two(rank: int) -> int:
    """The least one that is not below `rank`."""
    return 1 << (rank - 1).bit_length()


def draw_grids(
    first: int, second: int, dimension: int, draws: int, generator: np.random.Generator
) -> Iterator[Matrix]:
    """Grids of phi between independent uniform flags, (batch, first, second), `draws` in all.

    With X = [G; H] an n x r2 Gaussian matrix, G its first r1 rows, and X'X = R'R (Cholesky), X R^-1 is a
    uniform frame (its first j columns span what those of X do), and G R^-1 the block that is wanted. Of H
    only H'H counts, a Wishart matrix of n - r1 degrees of freedom, which Bartlett's decomposition draws as
    T T' with T triangular, r2 x r2.

    Source: M. L. Eaton, "Multivariate Statistics", 1983, chapters 7 and 8; M. S. Bartlett, Proc. R. Soc.
    Edinburgh 53, 1933.
    """
    if second > first:  # the smaller frame is the one to make orthonormal
        for grids in draw_grids(second, first, dimension, draws, generator):
            yield grids.transpose(0, 2, 1)
        return
    step = max(1, _BATCH // (first * second))
    for begun in range(0, draws, step):
        count = min(step, draws - begun)
        in_small = dimension - first < second
        block = (_frame_block if in_small else _bartlett_block)(count, first, second, dimension, generator)
        shared = np.cumsum(np.cumsum(np.square(block), axis=1), axis=2)
        yield np.minimum(shared / smaller_index(first, second), 1.0)


def _bartlett_block(
    count: int, first: int, second: int, dimension: int, generator: np.random.Generator
) -> Matrix:
    """Leading blocks of uniform frames, (count, first, second), where n - r1 >= r2."""
    freedom = dimension - first - np.arange(second)
    rest = np.tril(generator.standard_normal((count, second, second)), -1)  # T
    rest[:, np.arange(second), np.arange(second)] = np.sqrt(generator.chisquare(freedom, (count, second)))
    top = generator.standard_normal((count, first, second))  # G
    gram = top.transpose(0, 2, 1) @ top + rest @ rest.transpose(0, 2, 1)
    lower = np.linalg.cholesky(gram)  # R'
    return np.asarray(top @ np.linalg.inv(lower).transpose(0, 2, 1))


def _frame_block(
    count: int, first: int, second: int, dimension: int, generator: np.random.Generator
) -> Matrix:
    """The same where n < r1 + r2: the whole frame is small, and its Gram matrix may be ill-conditioned."""
    frames, _ = np.linalg.qr(generator.standard_normal((count, dimension, second)))
    return np.asarray(frames[:, :first])


def _count_draws(first: int, second: int) -> int:
    """The most of `_DRAWS` that are affordable."""
    cost = first * second * min(first, second)
    return next((draws for draws in _DRAWS if draws * cost <= _WORK), _DRAWS[-1])


@dataclass(frozen=True)
class _Scale:
    """Brings each cell of a grid to about a standard normal variable, and back.

    t = phi min(i, j), the squared norm of an i x j block, has the moments of a squared cosine between uniform
    subspaces, and is nearly a gamma variable of these, whose cube root is nearly normal (Wilson and Hilferty,
    PNAS 17, 1931), so that one width serves both tails of cells with 1 and with 1,000 degrees of freedom. The
    band's coverage does not rest on that; only how evenly the cells share it.
    """

    mean: Matrix
    """(r1, r2), of phi."""
    centre: Matrix
    """Of the cube root of phi / mean."""
    width: Matrix

    @classmethod
    def of(cls, first: int, second: int, dimension: int) -> _Scale:
        """From E[t] = i j / n and Var[t] = 2 i j (n - i)(n - j) / (n² (n - 1)(n + 2))."""
        n = float(dimension)
        i, j = np.arange(1.0, first + 1)[:, None], np.arange(1.0, second + 1)[None, :]
        relative = 2.0 * (n - i) * (n - j) / (i * j * max(n - 1.0, 1.0) * (n + 2.0))  # Var[t] / E[t]²
        third = relative / 9.0
        return cls(expected_similarity(first, second, dimension), 1.0 - third, np.sqrt(third))

    def standardised(self, grids: Matrix) -> Matrix:
        """How many widths from the centre; 0 where a cell does not vary."""
        off = np.cbrt(grids / self.mean) - self.centre
        return np.divide(off, self.width, out=np.zeros_like(off), where=self.width > 0.0)

    def phi_at(self, deviation: float) -> Matrix:
        """The grid that lies `deviation` widths from the centre everywhere."""
        return np.asarray(self.mean * np.maximum(0.0, self.centre + deviation * self.width) ** 3)
