"""How many directions: ranks from energies, and where factors stop being smaller than the matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["breakeven_rank", "rank_for_energy"]


def rank_for_energy(singular_values: ArrayLike, norm_squared: float, share: float) -> int | None:
    """The least rank that keeps `share` of a matrix's squared Frobenius norm.

    By Eckart and Young (1936) the best rank-r approximation keeps the sum of the r largest squared
    singular values, so the answer is the first r whose sum reaches `share * norm_squared`.

    Args:
        singular_values: (k,), descending; the k largest of the matrix, or all of them.
        norm_squared: the matrix's squared Frobenius norm, which values that are not given count into.
        share: in [0, 1].

    Returns:
        The rank (0 where nothing need be kept), or None where the values given do not reach the share.
        The comparison allows for the rounding of the sum itself: about one part in 2**52 per term.

    Raises:
        ValueError: `share` lies outside [0, 1], or the values are not one-dimensional.
    """
    import numpy as np

    if not 0.0 <= share <= 1.0:
        raise ValueError(f"the share of energy must lie in [0, 1], not {share}")
    values = np.asarray(singular_values, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"singular values must be one-dimensional, not of shape {values.shape}")
    if norm_squared == 0.0 or share == 0.0:
        return 0
    kept = np.cumsum(np.square(values))  # (k,)
    slack = 2.0 * (values.size + 1) * float(np.finfo(np.float64).eps)
    reached = np.flatnonzero(kept >= share * norm_squared * (1.0 - slack))
    return int(reached[0]) + 1 if reached.size else None


def breakeven_rank(rows: int, columns: int) -> int:
    """The largest rank at which two factors hold fewer numbers than the matrix: r (m + n) < m n.

    Args:
        rows: m, at least 1.
        columns: n, at least 1.

    Returns:
        That rank; 0 where even rank 1 saves nothing (a single row or column, or 2 x 2).

    Raises:
        ValueError: a side is not positive.
    """
    if rows < 1 or columns < 1:
        raise ValueError(f"a matrix has positive sides, not {rows} x {columns}")
    return (rows * columns - 1) // (rows + columns)
