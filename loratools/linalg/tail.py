"""An upper confidence bound on what a subspace leaves: ||A (I - QQ')||_2.

Power iteration and Lanczos give lower bounds of a norm. An upper one comes from the start being random
(after Kuczyński and Woźniakowski, "Estimating the largest eigenvalue by the power and Lanczos algorithms with
a random start", SIAM J. Matrix Anal. Appl. 13, 1992; Halko, Martinsson and Tropp 2011, lemma 4.1, is the same
for one product):

Let D = (I - QQ')A'A(I - QQ'), with largest eigenvalue t and unit eigenvector v, and let G (n, b) be standard
normal and *independent of Q*. Then ||G'v||² is chi-squared with b degrees of freedom, so that ||G'v||² >= c
with probability 1 - δ, where c is its δ-quantile. As D f(D)² >= t f(t)² vv' for every polynomial f (both are
functions of D), on that event

    t f(t)² c  <=  t f(t)² ||G'v||²  <=  ||G' D f(D)² G||_2.

The event does not mention f: no union bound is due, and f may be chosen after seeing the data. If x f(x)²
grows from some point on, and there is at least ||G' D f(D)² G||_2 / c, then t is at most that point.

After d passes of block Lanczos from G that norm is known exactly for f of degree below d, from the block
tridiagonal matrix (Gauss quadrature: Golub and Meurant, "Matrices, moments and quadrature", 2010, chapter 4).
The f taken here is the kernel polynomial sum_j p_j(x) p_j of the orthonormal polynomials p_j of the moments'
trace: among all polynomials of mean square one, it is the largest at x. Beyond the largest Ritz value every
p_j is positive and grows, hence so does f.
"""

from __future__ import annotations

import torch

from .gamma import chi_squared_quantile
from .krylov import BlockKrylov
from .lanczos import BlockLanczos

__all__ = ["OrthogonalPolynomials", "tail_bound"]

_LEAST_SCALE = 1e-12  # of a polynomial on nodes in [0, 1]: below, its values there are rounding
_REFINEMENTS = 4  # of the point at which the kernel polynomial is made large


def tail_bound(chain: BlockKrylov | BlockLanczos, failure_probability: float) -> float:
    """x with ||A (I - QQ')||_2² <= x, except with the given probability over the chain's start block.

    Args:
        chain: block Lanczos from a Gaussian start independent of Q, deflated by Q, expanded at least once.
        failure_probability: δ above.

    Returns:
        The bound, in units of A squared; infinite where the start is degenerate.
    """
    values, vectors = chain.ritz()
    weights = vectors[: chain.width].T @ chain.start  # (p, b): the start in coordinates of the Ritz vectors
    top = float(values[0])
    if top == 0.0:
        return 0.0
    nodes = values / top
    quantile = chi_squared_quantile(chain.width, failure_probability)
    polynomials = OrthogonalPolynomials(nodes, nodes * weights.square().sum(1), chain.passes)
    point = 2.0
    for _ in range(_REFINEMENTS):
        kernel = polynomials.at(torch.tensor([point], dtype=torch.float64)).squeeze(1)  # (d,)
        at_nodes = kernel @ polynomials.at(nodes)  # (p,): f at the nodes
        moment = (weights * (nodes * at_nodes.square()).unsqueeze(1)).T @ weights  # (b, b)
        level = float(torch.linalg.matrix_norm(moment, 2)) / quantile
        point = _crossing(polynomials, kernel, level)
    return top * point


class OrthogonalPolynomials:
    """Orthonormal polynomials of degrees 0 to d - 1 for point masses, by the Stieltjes procedure."""

    def __init__(self, nodes: torch.Tensor, masses: torch.Tensor, count: int) -> None:
        self._first = float(masses.sum()) ** -0.5
        self._shifts: list[float] = []
        self._scales: list[float] = []
        before, current = torch.zeros_like(nodes), torch.full_like(nodes, self._first)
        scale = 0.0
        for _ in range(count - 1):
            shift = float((masses * nodes * current.square()).sum())
            following = (nodes - shift) * current - scale * before
            scale = max(float((masses * following.square()).sum()) ** 0.5, _LEAST_SCALE)
            self._shifts.append(shift)
            self._scales.append(scale)
            if scale == _LEAST_SCALE:  # fewer distinct nodes than polynomials: the last one vanishes at all
                break
            before, current = current, following / scale

    def at(self, points: torch.Tensor) -> torch.Tensor:
        """Their values, (degrees, points)."""
        rows = [torch.full_like(points, self._first)]
        for degree, (shift, scale) in enumerate(zip(self._shifts, self._scales, strict=True)):
            row = (points - shift) * rows[-1]
            if degree:
                row = row - self._scales[degree - 1] * rows[-2]
            rows.append(row / scale)
        return torch.stack(rows)


def _crossing(polynomials: OrthogonalPolynomials, kernel: torch.Tensor, level: float) -> float:
    """A point x >= 1 with x f(x)² >= level, as small as bisection on a logarithmic grid finds it."""
    low, high = 1.0, 1e12
    for _ in range(3):
        grid = torch.logspace(0, 1, 65, dtype=torch.float64, base=high / low).mul_(low)
        reached = grid * (kernel @ polynomials.at(grid)).square() >= level
        first = int(torch.argmax(reached.to(torch.int8)))
        if not bool(reached[first]):
            return float("inf")
        low, high = float(grid[max(first - 1, 0)]), float(grid[first])
    return high
