"""Singular directions of skinny factors, and how far the subspaces that two sets of them span agree.

Directions are kept as a basis that lies there already and a small matrix, since what is asked of them (inner
products with others) needs no more: nothing of the factors' width is ever made but products.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DirectionSet",
    "expected_similarity",
    "left_directions",
    "product_directions",
    "right_directions",
    "similarity_grid",
    "smaller_index",
]

Matrix = NDArray[np.float64]

_EPS = float(np.finfo(np.float64).eps)

_WELL_CONDITIONED = 1e3
"""Condition number up to which a Gram matrix, whose is the square of it, keeps nine digits of directions."""

_SQUARES = (1e-200, 1e200)
"""Squared norms between which float64 neither overflows nor loses digits to underflow."""


@dataclass(frozen=True)
class DirectionSet:
    """Orthonormal directions in an n-dimensional space, by falling singular value.

    Only those that exist are there: of a factor of rank k, k, whatever its size says. The directions are the
    columns of `basis @ coefficients`.
    """

    basis: Matrix
    """(n, r): the factor itself, or an orthonormal basis of its columns."""
    coefficients: Matrix
    """(r, k)."""
    values: Matrix
    """(k,): the singular values that belong to them, descending, none zero."""

    @property
    def dimension(self) -> int:
        """n."""
        return int(self.basis.shape[0])

    @property
    def count(self) -> int:
        """k."""
        return int(self.values.size)

    @property
    def vectors(self) -> Matrix:
        """The directions as columns, (n, k)."""
        return self.basis @ self.coefficients

    def leading(self, count: int) -> DirectionSet:
        """The first `count` of them, or all where there are fewer."""
        return DirectionSet(self.basis, self.coefficients[:, :count], self.values[:count])

    def ties(self, noise: float) -> tuple[int, ...]:
        """The i for which directions i and i + 1 (from 1 on) are not told apart.

        Where singular values differ by less than `noise`, by which one entry of the matrix may be off in any
        orthonormal basis, that turns the one direction into the other: the span of the first i is arbitrary.
        """
        gaps = self.values[:-1] - self.values[1:]
        return tuple(int(at) + 1 for at in np.flatnonzero(gaps <= max(noise, 4.0 * _EPS * self._largest)))

    @property
    def _largest(self) -> float:
        return float(self.values[0]) if self.count else 0.0


def right_directions(lora_A: Matrix) -> DirectionSet:
    """The right-singular directions of lora_A (r, n), float64, in the space of inputs."""
    return left_directions(lora_A.T)


def left_directions(lora_B: Matrix) -> DirectionSet:
    """The left-singular directions of lora_B (m, r), float64, in the space of outputs."""
    found = _ThinSvd.of(lora_B)
    return DirectionSet(found.basis, found.coefficients, found.values)


def product_directions(lora_A: Matrix, lora_B: Matrix) -> tuple[DirectionSet, DirectionSet]:
    """The right- and the left-singular directions of B A, which is never formed.

    With B = Q_B T_B and A' = Q_A T_A, Q orthonormal, B A = Q_B (T_B T_A') Q_A', so that a decomposition of at
    most r x r has the singular values of the product, and its directions in the bases Q_A and Q_B.

    Args:
        lora_A: (r, n), float64.
        lora_B: (m, r).

    Returns:
        Directions in the space of inputs (n), and in that of outputs (m).
    """
    right, left = _ThinSvd.of(lora_A.T), _ThinSvd.of(lora_B)
    U, values, Vh = np.linalg.svd(left.mixing @ right.mixing.T)
    kept = _existing(values, max(lora_A.shape[1], lora_B.shape[0]))
    inputs = DirectionSet(right.basis, right.coefficients @ Vh[:kept].T, values[:kept])
    return inputs, DirectionSet(left.basis, left.coefficients @ U[:, :kept], values[:kept])


def similarity_grid(first: DirectionSet, second: DirectionSet) -> Matrix:
    """phi(i, j) = ||U1^(i)' U2^(j)||_F² / min(i, j) for all i <= k1, j <= k2.

    The squared norm of the leading (i, j) block of U1'U2 is a cumulative sum of its squared entries along
    both axes. In [0, 1]: 0 where the two spans are orthogonal, 1 where one holds the other.

    Returns:
        (k1, k2), float64; clipped to [0, 1], beyond which only rounding reaches.

    Raises:
        ValueError: the directions lie in different spaces.

    Source: Hu et al., "LoRA" (arXiv 2106.09685), section 7.2, equation 4, and appendix G.
    """
    if first.dimension != second.dimension:
        raise ValueError(f"directions in spaces of {first.dimension} and {second.dimension} dimensions")
    inner = first.coefficients.T @ (first.basis.T @ second.basis) @ second.coefficients  # (k1, k2)
    shared = np.cumsum(np.cumsum(np.square(inner), axis=0), axis=1)
    return np.clip(shared / smaller_index(*shared.shape), 0.0, 1.0)


def expected_similarity(first: int, second: int, dimension: int) -> Matrix:
    """The mean of phi(i, j) over independent uniform subspaces: i j / (n min(i, j)) = max(i, j) / n.

    A uniform direction has a squared inner product of mean 1/n with any unit vector, and there are i j pairs.

    Args:
        first, second: how many i and j.
        dimension: n, at least both.

    Returns:
        (first, second), float64.
    """
    i, j = np.arange(1.0, first + 1)[:, None], np.arange(1.0, second + 1)[None, :]
    return np.asarray(i * j / (dimension * np.minimum(i, j)))


def smaller_index(first: int, second: int) -> Matrix:
    """min(i, j) for i = 1 ... first, j = 1 ... second."""
    return np.asarray(np.minimum(np.arange(1.0, first + 1)[:, None], np.arange(1.0, second + 1)[None, :]))


@dataclass(frozen=True)
class _ThinSvd:
    """The decomposition of a tall (n, r) matrix of rank k: (basis @ coefficients) diag(values) Vh."""

    basis: Matrix
    coefficients: Matrix
    values: Matrix
    Vh: Matrix
    """(k, r)."""

    @property
    def mixing(self) -> Matrix:
        """T (k, r), for which the matrix is its directions times T."""
        return self.values[:, None] * self.Vh

    @classmethod
    def of(cls, tall: Matrix) -> _ThinSvd:
        """Through the Gram matrix where the condition allows, else through QR, which takes 7 times as long
        (2048 x 16)."""
        return cls._of_gram(tall) or cls._of_qr(tall)

    @classmethod
    def _of_gram(cls, tall: Matrix) -> _ThinSvd | None:
        """From tall' tall = V diag(s²) V': the directions are tall V / s.

        Rounding moves the Gram matrix by about eps s_1², so that inner products of directions i and j are off
        by eps s_1² / (s_i s_j): at most eps times the squared condition number.
        """
        rows, columns = tall.shape
        if not columns or rows < 4 * columns:
            return None
        with np.errstate(over="ignore", invalid="ignore"):
            gram = tall.T @ tall
        if not _SQUARES[0] < np.trace(gram) < _SQUARES[1]:
            return None
        squares, V = np.linalg.eigh(gram)  # ascending
        if squares[0] * _WELL_CONDITIONED**2 <= squares[-1]:
            return None
        values, V = np.sqrt(squares[::-1]), V[:, ::-1]
        return cls(tall, V / values, values, V.T)

    @classmethod
    def _of_qr(cls, tall: Matrix) -> _ThinSvd:
        """From tall = Q R and an SVD of R."""
        Q, triangle = np.linalg.qr(tall)
        U, values, Vh = np.linalg.svd(triangle)
        kept = _existing(values, max(tall.shape))
        return cls(Q, U[:, :kept], values[:kept], Vh[:kept])


def _existing(values: Matrix, side: int) -> int:
    """How many singular values are not zero up to the rounding of a decomposition in float64."""
    if not values.size:
        return 0
    return int(np.count_nonzero(values > values[0] * side * _EPS))
