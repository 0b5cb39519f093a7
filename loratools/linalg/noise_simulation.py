"""The largest singular value of rounding noise by drawing it, where the sums of its variances do not tell."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from .krylov import BlockKrylov, gaussian_block
from .noise_grid import Grid
from .noise_residual import residual_blocks
from .svd import Factorization
from .tail import tail_bound

__all__ = ["drawn_floor", "flipped_floor", "largest_singular_value", "reaches"]

_DRAWS = 2
_WIDTH = 8  # columns of the block that looks for a norm
_PASSES = 12
_CLOSE = 1.03  # an upper bound so near to the lower one ends the search
_DENSE = 320  # up to this many rows or columns LAPACK is as fast


def drawn_floor(sides: Sequence[tuple[torch.Tensor, Grid]], outstanding: float, seed: int) -> float:
    """The largest of a few draws of the noise, each error uniform over its unit.

    Under heavy tails the norm is that of a few large elements, which a draw may leave small by chance:
    elements whose error could stand out by itself take its full size, with either sign.

    Args:
        sides: matrices (m, n), as stored, whose rounding is part of the noise, and their grids.
        outstanding: the size of an error from which on it stands out.
        seed: of the draws.
    """

    def draw(generator: torch.Generator) -> torch.Tensor:
        units = [grid.units(values) for values, grid in sides]
        errors = [torch.rand(unit.shape, generator=generator).sub_(0.5).mul_(unit) for unit in units]
        noise, most = sum(errors[1:], errors[0]), 0.5 * sum(units[1:], units[0])
        return torch.where(most > outstanding, torch.copysign(most, noise), noise)

    return _largest_of(draw, seed)


def flipped_floor(
    base: torch.Tensor, tuned: torch.Tensor, found: Factorization, rank: int, seed: int
) -> float:
    """The largest singular value that the residual has with random signs: its sizes without its structure.

    If errors are independent and as likely positive as negative, the residual is itself such a draw. A fit
    of rank r takes the share r / m + r / n of a single error with it, which is given back.
    """
    height, width = tuned.shape
    kept = max((1.0 - rank / height) * (1.0 - rank / width), 1e-3)
    residual = torch.cat([block for _, block in residual_blocks(base, tuned, found, rank)])

    def draw(generator: torch.Generator) -> torch.Tensor:
        signs = torch.empty(residual.shape, dtype=torch.int8).random_(0, 2, generator=generator)
        return residual * signs.mul_(2).sub_(1)

    return _largest_of(draw, seed) / kept


def _largest_of(draw: Callable[[torch.Generator], torch.Tensor], seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    return max(largest_singular_value(draw(generator), seed + turn) for turn in range(_DRAWS))


def largest_singular_value(matrix: torch.Tensor, seed: int) -> float:
    """||A||_2, or at most a few percent above it.

    Power iteration ends below a norm. The bound of `tail.tail_bound` lies above it (but for one start in a
    million), and falls towards it with every pass.
    """
    *_, (_, above) = _brackets(matrix, seed)
    return above


def reaches(matrix: torch.Tensor, level: float, seed: int) -> bool:
    """Whether ||A||_2 >= level; where a dozen passes do not tell, whether a few percent more than it is."""
    below, above = 0.0, float("inf")
    for below, above in _brackets(matrix, seed):
        if below >= level or above < level:
            break
    return above >= level


def _brackets(matrix: torch.Tensor, seed: int) -> Iterator[tuple[float, float]]:
    """Bounds of ||A||_2, lower and upper, ever closer."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    low, high = torch.aminmax(matrix)
    size = max(-float(low), float(high))
    if size == 0.0:
        yield 0.0, 0.0
        return
    if tall.shape[1] <= _DENSE:
        double = (tall / size).to(torch.float64)
        norm = size * math.sqrt(float(torch.linalg.eigvalsh(double.T @ double)[-1]))
        yield norm, norm
        return
    chain = BlockKrylov(tall / size, gaussian_block(_WIDTH, tall, seed))
    above = float("inf")
    while chain.passes < _PASSES:
        chain.expand()
        below = float(chain.ritz()[0][0])
        above = min(above, tail_bound(chain, 1e-6))
        yield size * math.sqrt(below), size * math.sqrt(above)
        if above <= _CLOSE**2 * below:
            return
