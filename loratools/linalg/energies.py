"""The energies of a matrix's leading directions, between bounds: sums of its largest squared singular values.

From below they are had from any subspace (Ritz values), from above from the random start of the same one: see
`ceilings`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .ceilings import eigenvalue_ceilings
from .krylov import gaussian_block, wide
from .lanczos import BlockLanczos
from .norms import comfortably_scaled, rounding_of_products

__all__ = ["LeadingEnergies", "leading_energies"]

_LEAST_SIDE = 384  # below, LAPACK is as fast
_SPARE = 16  # columns of the block beyond the largest rank: det(Ω Ω') is then far from zero
_FIRST_LOOK = 7  # passes: what the flat spectra of trained weights need [measured], and a look costs one
_EARLIEST_LOOK = 4  # where the space hardly grows any more
_SETTLED = (
    1e-3  # of the largest value: what couples the space to the rest of a spectrum that is steep or equal
)
_MOST_PASSES = 24
_ROUNDINGS = 8.0  # of a product: what two of them, and a basis that is orthonormal to a few units, add


@dataclass(frozen=True)
class LeadingEnergies:
    """For each rank asked, bounds on the sum of so many largest squared singular values."""

    low: dict[int, float]
    high: dict[int, float]
    norm: float
    """The matrix's Frobenius norm."""
    largest: float
    """Upper bound on its largest singular value."""
    passes: int
    """How many blocks were multiplied by the matrix and its transpose; 0 for LAPACK."""

    def root(self, rank: int) -> tuple[float, float]:
        """The square root of the energy at a rank, and by how much of the truth it may be off."""
        low, high = math.sqrt(self.low[rank]), math.sqrt(self.high[rank])
        if high == 0.0:
            return 0.0, 0.0
        return 2.0 * low * high / (low + high), (high - low) / (high + low)


def leading_energies(
    matrix: torch.Tensor,
    ranks: Sequence[int],
    *,
    accuracy: float = 0.01,
    seed: int = 0,
    failure_probability: float = 1e-9,
) -> LeadingEnergies:
    """sum_{i <= r} s_i² of a matrix, its square root within `accuracy`, without its vectors.

    Where that many passes do not suffice, the bounds returned are farther apart, and still hold.

    Args:
        matrix: (m, n), float32 or float64; not modified.
        ranks: at least 1 each; beyond min(m, n) the energy is the squared norm.
        accuracy: relative, of the square root.
        seed: of the random start.
        failure_probability: bound on the chance that an upper bound is too small.

    Raises:
        ValueError: entries that are not finite.
    """
    scaled = comfortably_scaled(matrix)
    tall = scaled.matrix if matrix.shape[0] >= matrix.shape[1] else scaled.matrix.T
    side = tall.shape[1]
    energy = scaled.norm_squared
    within = {rank: min(rank, side) for rank in ranks}
    width = max(within.values()) + _SPARE
    if side < _LEAST_SIDE or 16 * width > side:
        sums = np.cumsum(torch.linalg.svdvals(wide(tall)).square().cpu().numpy())
        exact = {rank: float(sums[rank - 1]) for rank in within.values()}
        search = _Found(exact, exact, float(sums[0]), 0)
    else:
        search = _search(
            tall, sorted(set(within.values())), width, energy, accuracy, seed, failure_probability
        )
    unit = 4.0**scaled.exponent
    return LeadingEnergies(
        low={rank: search.low[one] * unit for rank, one in within.items()},
        high={rank: search.high[one] * unit for rank, one in within.items()},
        norm=math.sqrt(energy) * 2.0**scaled.exponent,
        largest=math.sqrt(search.largest * unit),
        passes=search.passes,
    )


@dataclass
class _Found:
    """Bounds on the sums of the leading eigenvalues of A'A, by rank, and on the first."""

    low: dict[int, float]
    high: dict[int, float]
    largest: float
    passes: int

    def apart(self, accuracy: float) -> float:
        """How far the bounds' roots lie from what is between them, at worst, over what is allowed."""
        worst = max(math.sqrt(high / max(self.low[rank], 1e-300)) for rank, high in self.high.items())
        return (worst - 1.0) / (worst + 1.0) / accuracy


def _search(
    matrix: torch.Tensor,
    ranks: list[int],
    width: int,
    energy: float,
    accuracy: float,
    seed: int,
    failure_probability: float,
) -> _Found:
    """Expands a space until the energies of all ranks lie between bounds that are near enough."""
    found = _Found(dict.fromkeys(ranks, 0.0), dict.fromkeys(ranks, energy), energy, 0)
    lanczos, look_at = BlockLanczos(matrix, gaussian_block(width, matrix, seed)), _FIRST_LOOK
    while lanczos.passes < _MOST_PASSES and lanczos.size + width < matrix.shape[1]:
        lanczos.expand()
        if lanczos.passes < (min(look_at, _EARLIEST_LOOK) if lanczos.settled(_SETTLED) else look_at):
            continue
        ritz = lanczos.ritz()[0].numpy()
        ceilings = eigenvalue_ceilings(lanczos, ranks, failure_probability)
        slack = _ROUNDINGS * rounding_of_products(matrix) * float(ritz[0])
        found.passes = lanczos.passes
        found.largest = min(found.largest, float(ceilings.values[0]) + slack)
        for rank in ranks:
            found.low[rank] = max(float(ritz[:rank].sum()) - rank * slack, 0.0)
            found.high[rank] = min(found.high[rank], ceilings.sums[rank] + rank * slack)
        apart = found.apart(accuracy)
        if apart <= 1.0:
            break
        # On flat spectra, the slowest, bounds close in about as the square of the passes.
        look_at = max(lanczos.passes + 1, int(lanczos.passes * min(apart**0.6, 1.75)))
    return found
