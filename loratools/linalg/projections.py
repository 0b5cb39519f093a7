"""How much of a matrix lies in given directions: ||U'WV||_F, and how errors of the directions move it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .krylov import wide
from .norms import rounding_of_products

__all__ = ["Projection", "project", "random_projection"]

_ROWS = 512  # of a block of the weight: fixed, so that sums come in one order


@dataclass(frozen=True)
class Projection:
    """U'WV for orthonormal U and V, of which the leading r by r blocks belong to the first r directions.

    With sines s_U and s_V (Frobenius) between the spans of U_r, V_r and the true ones, and C = U_r'W V_r,

        | ||C|| - ||C_true|| |  <=  s_U ||W V_r C'|| / ||C|| + s_V ||W'U_r C|| / ||C|| + s_U s_V ||W||_2,

    to first order in the sines (second in the coefficients, which are taken at U and V): write the true
    projectors as P and R, and take the inner product of P W R with U C V' / ||C||.
    """

    core: torch.Tensor
    """(k, k) float64: U'WV."""
    left: torch.Tensor
    """(k, k) float64: (WV)'(WV)."""
    right: torch.Tensor
    """(k, k) float64: (W'U)'(W'U)."""
    largest: float
    """Upper bound on ||W||_2."""
    rounding: float
    """Bound on the error of an entry of `core`."""

    def at(self, rank: int) -> float:
        """||U_r'W V_r||_F."""
        return float(self.core[:rank, :rank].norm())

    def error(self, rank: int, sine: float) -> float:
        """At most so far is `at(rank)` off where both spans may be off by that sine."""
        value = self.at(rank)
        if value == 0.0 or not math.isfinite(sine):
            return math.inf
        return sine * self._slope(rank) + sine**2 * self.largest + rank * self.rounding

    def wanted_sine(self, rank: int, accuracy: float) -> float:
        """The largest sine that keeps the error within that share of the value; negative if none does."""
        value, slope = self.at(rank), self._slope(rank)
        allowed = accuracy * value - rank * self.rounding
        if allowed <= 0.0:
            return -1.0
        # The positive root of ||W||_2 s² + slope s = allowed.
        return 2.0 * allowed / (slope + math.sqrt(slope**2 + 4.0 * self.largest * allowed))

    def _slope(self, rank: int) -> float:
        core = self.core[:rank, :rank]
        value = float(core.norm())
        if value == 0.0:
            return math.inf
        left = torch.trace(core @ self.left[:rank, :rank] @ core.T).clamp_min(0.0)
        right = torch.trace(core.T @ self.right[:rank, :rank] @ core).clamp_min(0.0)
        return (float(left.sqrt()) + float(right.sqrt())) / value


def project(
    weight: torch.Tensor, U: torch.Tensor, V: torch.Tensor, *, largest: float, exact: bool = False
) -> Projection:
    """U'WV, from one pass over the weight's rows.

    Args:
        weight: W (m, n), in any floating dtype; converted in blocks of rows.
        U: (m, k), orthonormal columns; V: (n, k).
        largest: upper bound on ||W||_2.
        exact: products of float16 and bfloat16 weights are made in float64 too, as those of others are, not
            in float32, whose rounding hides figures that are very small beside ||W||_2.
    """
    count = U.shape[1]
    core = torch.zeros(count, count, dtype=torch.float64)
    left = torch.zeros(count, count, dtype=torch.float64)
    back = torch.zeros(V.shape[0], count, dtype=torch.float64)
    narrow = weight.dtype in (torch.float16, torch.bfloat16) and not exact
    dtype = torch.float32 if narrow else torch.float64
    onto = V.to(dtype)
    for part, above in zip(torch.split(weight, _ROWS), torch.split(U.to(dtype), _ROWS), strict=True):
        rows = part.to(dtype)
        image = wide(rows @ onto)  # (rows, k)
        core += wide(above).T @ image
        left += image.T @ image
        back += wide(rows.T @ above)
    return Projection(core, left, back.T @ back, largest, rounding_of_products(onto) * largest)


def random_projection(norm: float, shape: tuple[int, int], rank: int) -> float:
    """Root of the mean of ||U'WV||_F² over independent, uniformly distributed (Haar) U (m, r) and V (n, r).

    E[UU'] = (r/m) I and E[VV'] = (r/n) I, so E tr(V'W'UU'WV) = r² ||W||_F² / (m n), whatever W is. (Hu et al.
    2021, table 7, prints 0.02 for r = 4, ||W|| = 61.95, m = n = 12288, where this gives 0.0202, and 0.33 for
    r = 64, where it gives 0.32.)

    Args:
        norm: ||W||_F.
        shape: (m, n).
        rank: r; beyond a side it counts as the side.
    """
    rows, columns = shape
    return norm * math.sqrt(min(rank, rows) * min(rank, columns) / (rows * columns))
