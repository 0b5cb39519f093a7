"""The singular value decomposition of a product of skinny factors, and what storing its factors cost."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .factors import Fold, difference_norm, fold, product_norm, unit_scaled
from .subspaces import product_directions

__all__ = ["SkinnySvd", "padded", "product_svd", "rounding_norm", "sum_norm", "weighted_sum"]

Matrix = NDArray[np.float64]
Pair = tuple[Matrix, Matrix]
"""lora_A (r, n) and lora_B (m, r)."""


@dataclass(frozen=True)
class SkinnySvd:
    """U diag(S) Vh = B A, with the triplets that exist: of a product of rank k, k of them."""

    U: Matrix
    """(m, k), orthonormal columns."""
    S: Matrix
    """(k,), descending, none zero."""
    Vh: Matrix
    """(k, n), orthonormal rows."""

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.S))

    def beyond(self, rank: int) -> float:
        """The Frobenius norm of what the leading `rank` triplets leave."""
        return float(np.linalg.norm(self.S[rank:]))

    def folded(self, rank: int) -> Pair:
        """The leading triplets as lora_A and lora_B, half of each singular value in both; rows and columns
        of zeros where the product has fewer triplets than `rank`."""
        kept = min(rank, self.S.size)
        lora_A, lora_B = fold(self.U[:, :kept], self.S[:kept], self.Vh[:kept], Fold.SQRT)
        return padded(lora_A, lora_B, rank)


def product_svd(lora_A: Matrix, lora_B: Matrix) -> SkinnySvd:
    """The decomposition of B A, through those of the factors; B A itself is never formed.

    Args:
        lora_A: (r, n), float64; r may exceed m and n.
        lora_B: (m, r).

    Raises:
        ValueError: the inner dimensions differ.
    """
    if lora_A.ndim != 2 or lora_B.ndim != 2 or lora_A.shape[0] != lora_B.shape[1]:
        raise ValueError(f"factors of shapes {lora_B.shape} and {lora_A.shape} cannot be multiplied")
    (A, A_scale), (B, B_scale) = _comfortable(lora_A), _comfortable(lora_B)
    inputs, outputs = product_directions(A, B)
    values = inputs.values * A_scale * B_scale
    return SkinnySvd(outputs.vectors, values, np.ascontiguousarray(inputs.vectors.T))


def padded(lora_A: NDArray[np.floating], lora_B: NDArray[np.floating], rank: int) -> Pair:
    """Factors of the same product with rows and columns of zeros up to a rank that they do not exceed."""
    missing = rank - lora_A.shape[0]
    if not missing:  # np.pad looks at its words for longer than it takes to copy
        return lora_A.astype(np.float64, copy=False), lora_B.astype(np.float64, copy=False)
    A, B = np.pad(lora_A, ((0, missing), (0, 0))), np.pad(lora_B, ((0, 0), (0, missing)))
    return A.astype(np.float64, copy=False), B.astype(np.float64, copy=False)


def weighted_sum(parts: list[tuple[float, Pair]]) -> Pair:
    """Factors of sum c_i B_i A_i: those of the parts one after the other, A times c.

    Raises:
        ValueError: the products differ in shape.
    """
    shapes = {(B.shape[0], A.shape[1]) for _, (A, B) in parts}
    if len(shapes) != 1:
        raise ValueError(f"products of different shapes: {sorted(shapes)}")
    lora_A = np.concatenate([factor * A for factor, (A, _) in parts])  # (sum r, n)
    return lora_A, np.concatenate([B for _, (_, B) in parts], axis=1)  # (m, sum r)


def rounding_norm(exact: Pair, stored: Pair) -> float:
    """||B A - B' A'||_F of factors (lora_A, lora_B) and the same after rounding, in float64.

    With dA = A' - A and dB = B' - B, B'A' - BA = dB A + B' dA. The squared norm of that sum is three traces
    of r x r matrices. dB and dA are differences of neighbouring numbers and so exact; the two terms do not
    cancel, as roundings are independent, so that nothing is lost by taking squares. A seventh of the time of
    `difference_norm`, which needs QR of twice the width.
    """
    (A, B), (A_stored, B_stored) = exact, stored
    dA, dB = A_stored - A, B_stored - B
    if not (dA.any() or dB.any()):
        return 0.0
    left, right, both = dB.T @ dB, B_stored.T @ B_stored, dB.T @ B_stored  # (r, r) each
    squares = np.sum(left * (A @ A.T)) + np.sum(right * (dA @ dA.T)) + 2.0 * np.sum(both * (A @ dA.T))
    if not math.isfinite(squares) or 0.0 < squares < 1e-280:
        return difference_norm(exact, stored)
    return math.sqrt(max(float(squares), 0.0))


def sum_norm(lora_A: Matrix, lora_B: Matrix) -> float:
    """||B A||_F: from Gram matrices where little cancels, which costs a tenth of the QR that is taken else.

    The squared norm is the sum of (A A') times (B'B), entry by entry, with rounding of the order of
    eps ||A||² ||B||²; above 1e-4 of that, eleven digits are right.
    """
    left, right = lora_B.T @ lora_B, lora_A @ lora_A.T
    squares, size = float(np.sum(left * right)), float(np.trace(left) * np.trace(right))
    if _SAFE < size < 1.0 / _SAFE and squares > 1e-4 * size:
        return math.sqrt(squares)
    return product_norm(lora_A, lora_B)


_SAFE = 1e-200
"""Squared norms between this and its inverse neither overflow nor lose digits."""


def _comfortable(factor: Matrix) -> tuple[Matrix, float]:
    """The factor and a scale of 1, unless its squares could over- or underflow."""
    largest = max(float(factor.max(initial=0.0)), -float(factor.min(initial=0.0)))
    return (factor, 1.0) if 1e-60 < largest < 1e60 else unit_scaled(factor)
