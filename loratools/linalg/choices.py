"""Choices that a factorization leaves open: the way to the triplets, and where the singular values go.

Options need them before any array is there: this imports neither torch nor numpy.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["Fold", "SvdMethod"]


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
