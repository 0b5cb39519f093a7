"""Choices that a factorization leaves open: the way to the triplets, and where the singular values go.

Options and estimates need them before any array is there: this imports neither torch nor numpy.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Fold", "SvdMethod", "block_width", "krylov_pays"]

_LEAST_SIDE = 320  # below, LAPACK is as fast
_OVERSAMPLING = 8  # columns of a block beyond the rank
_WIDEST = 64  # columns of a block: beyond, more passes are cheaper than wider ones


class SvdMethod(str, Enum):
    """Which way to the triplets."""

    AUTO = "auto"
    """Randomized block Krylov until certified; LAPACK where that is the better way."""
    EXACT = "exact"
    """LAPACK (cuSOLVER on CUDA), in float64."""


class Fold(str, Enum):
    """Where the singular values go when U diag(S) Vh becomes B A."""

    SQRT = "sqrt"
    """Half to each: both factors have the same norm, direction by direction."""
    A = "A"
    """All into lora_A; lora_B has orthonormal columns."""
    B = "B"
    """All into lora_B; lora_A has orthonormal rows."""


def krylov_pays(side: int, rank: int | None, energy: float | None) -> bool:
    """Whether a space of several blocks is small beside the matrix, and float32 can tell the share."""
    if energy is not None and energy > 1.0 - 1e-5:
        return False
    return side >= _LEAST_SIDE and (rank is None or 6 * (rank + 8) <= side)


def block_width(rank: int) -> int:
    """Columns of a Krylov block for that rank."""
    return min(rank + _OVERSAMPLING, _WIDEST)
