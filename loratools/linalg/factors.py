"""Skinny factors: the two halves of a low-rank update, and norms of products that are never formed."""

from __future__ import annotations

from math import hypot

import numpy as np
from numpy.typing import NDArray

from .choices import Fold

__all__ = ["Fold", "difference_norm", "fold", "product_norm", "residual_norm", "unit_scaled"]

Matrix = NDArray[np.floating]


def fold(U: Matrix, S: Matrix, Vh: Matrix, where: Fold = Fold.SQRT) -> tuple[Matrix, Matrix]:
    """Share the singular values between two factors whose product is U diag(S) Vh.

    Args:
        U: (m, r), left singular vectors.
        S: (r,), singular values, not negative.
        Vh: (r, n), right singular vectors.
        where: see `Fold`.

    Returns:
        lora_A (r, n) and lora_B (m, r), C-contiguous, in the dtype of U: lora_B @ lora_A is the product.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if U.ndim != 2 or Vh.ndim != 2 or S.shape != (U.shape[1],) or S.shape != (Vh.shape[0],):
        raise ValueError(f"factors of shapes {U.shape}, {S.shape} and {Vh.shape} do not fit together")
    values = S.astype(np.float64)
    left, right = _SHARES[where](values)
    lora_A = right[:, None] * Vh  # (r, n)
    lora_B = U * left  # (m, r)
    return np.ascontiguousarray(lora_A, dtype=U.dtype), np.ascontiguousarray(lora_B, dtype=U.dtype)


_SHARES = {
    Fold.SQRT: lambda values: (np.sqrt(values), np.sqrt(values)),
    Fold.A: lambda values: (np.ones_like(values), values),
    Fold.B: lambda values: (values, np.ones_like(values)),
}


def product_norm(lora_A: Matrix, lora_B: Matrix) -> float:
    """||B A||_F without forming B A, in float64.

    With B = Q_B R_B and A' = Q_A R_A' (QR), ||B A|| = ||R_B R_A||: r x r, and unlike the trace of Gram
    matrices it does not square the rounding where B A is small beside B and A.

    Args:
        lora_A: (r, n), any floating dtype that numpy has.
        lora_B: (m, r).

    Returns:
        The norm; 0.0 at rank 0.

    Raises:
        ValueError: the inner dimensions differ.
    """
    if lora_A.ndim != 2 or lora_B.ndim != 2 or lora_A.shape[0] != lora_B.shape[1]:
        raise ValueError(f"factors of shapes {lora_B.shape} and {lora_A.shape} cannot be multiplied")
    if lora_A.shape[0] == 0:
        return 0.0
    left, left_scale = unit_scaled(lora_B)
    right, right_scale = unit_scaled(lora_A.T)
    core = _triangle(left) @ _triangle(right).T  # (r, r)
    return float(np.linalg.norm(core)) * left_scale * right_scale


def difference_norm(first: tuple[Matrix, Matrix], second: tuple[Matrix, Matrix]) -> float:
    """||B1 A1 - B2 A2||_F for two pairs (lora_A, lora_B), without forming either product, in float64.

    It is the norm of one product of rank r1 + r2: [B1, -B2] [A1; A2].

    Raises:
        ValueError: the products differ in shape, or a pair does not fit together.
    """
    (A1, B1), (A2, B2) = first, second
    if (B1.shape[0], A1.shape[1]) != (B2.shape[0], A2.shape[1]):
        shapes = f"{B1.shape[0]} x {A1.shape[1]} and {B2.shape[0]} x {A2.shape[1]}"
        raise ValueError(f"products of different shapes: {shapes}")
    rows = np.concatenate([A1.astype(np.float64), A2.astype(np.float64)])  # (r1 + r2, n)
    columns = np.concatenate([B1.astype(np.float64), -B2.astype(np.float64)], axis=1)  # (m, r1 + r2)
    return product_norm(rows, columns)


def residual_norm(remainder: float, exact: tuple[Matrix, Matrix], stored: tuple[Matrix, Matrix]) -> float:
    """||delta - B A||_F of factors as stored, from the remainder of the factorization they were rounded from.

    With delta = U S V' + R, U'R = 0 and R V = 0, the two errors are orthogonal to first order in the
    rounding: B A - U S V' = dB A + B dA + dB dA, and R is orthogonal to the first two terms. So the squares
    add, up to 2 ||R|| ||dB|| ||dA||, which is second order.

    Args:
        remainder: ||R||_F, the residual of the factorization before it was rounded.
        exact: (lora_A, lora_B) before storage.
        stored: (lora_A, lora_B) as stored, read back.
    """
    return hypot(remainder, difference_norm(exact, stored))


def _triangle(tall: NDArray[np.float64]) -> NDArray[np.float64]:
    """R of a QR decomposition: what keeps the norms of all products."""
    return np.asarray(np.linalg.qr(tall, mode="r"))


def unit_scaled(factor: Matrix) -> tuple[NDArray[np.float64], float]:
    """The factor over the power of two at its largest entry, so that squares neither overflow nor vanish."""
    largest = float(np.max(np.abs(factor), initial=0.0))
    scale = 2.0 ** int(np.frexp(largest)[1]) if largest > 0.0 and np.isfinite(largest) else 1.0
    return factor.astype(np.float64) / scale, scale
