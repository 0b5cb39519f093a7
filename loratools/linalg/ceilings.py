"""Upper bounds on the leading eigenvalues of A'A, one by one and in sum, from one random start.

Let H = A'A with eigenvalues λ_1 >= λ_2 >= ... and unit eigenvectors v_i, let G (n, b) be standard normal, and
g_i = G'v_i (b,). For a polynomial f that is positive and grows from some point on, below λ_k,

    M(f) = G' f(H) H f(H) G  >=  sum_{i <= k} λ_i f(λ_i)² g_i g_i'

as quadratic forms, so that the product of the k largest eigenvalues of M(f) is at least the determinant of
the right side on its range, prod_{i <= k} λ_i f(λ_i)² · det(Ω Ω') with Ω = [g_1 ... g_k]' (k, b), standard
normal. det(Ω Ω') is distributed as a product of independent chi-squares with b, b - 1, ..., b - k + 1 degrees
of freedom (Bartlett 1933; Muirhead, "Aspects of Multivariate Statistical Theory", 1982, theorem 3.2.15): it
is at least exp(q_k) but for a chance δ, and that event does not mention f. With h(t) = t f(t)² and lower
bounds θ_i of the λ_i, on that event

    sum_{i <= k} log h(max(θ_i, λ_k))  <=  sum_{i <= k} log μ_i(M(f)) - q_k,

whose left side grows with λ_k: the point where both sides meet bounds it. M(f) is known exactly for f of
degree below d after d passes of block Lanczos from G (Gauss quadrature, as in `tail`). The f taken is the
kernel polynomial of the measure that lies at and below the k-th Ritz value, whose zeros therefore do too.
No second random start is needed, and no gap: flat spectra are bounded as well as steep ones.

The inequality bounds sums better than their terms do, which share one budget: of all values that lie between
their floors and their ceilings and keep it, by Lagrange, for every μ >= 0,

    sum_{i <= k} λ_i  <=  μ B + sum_{i <= k} max over θ_i <= t <= x_i of (t - μ log h(t)),

with B the right-hand side above and x_i the ceilings. The maxima are taken over cells of a grid, at the upper
end of t and the lower end of h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from .gamma import log_gamma
from .lanczos import BlockLanczos
from .tail import OrthogonalPolynomials

__all__ = ["Ceilings", "eigenvalue_ceilings"]

_STEP = 1.25  # between the indices k that are bounded by themselves, where there are many
_REFINEMENTS = 2  # of the point at which the kernel polynomial is made large
_ROUNDING = 64.0 * float(np.finfo(np.float64).eps)  # of LAPACK's small singular values, in the largest
_CELLS = 256  # of the grid for sums
_MULTIPLIERS = torch.logspace(-5, 1, 49, dtype=torch.float64)

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Ceilings:
    """Upper bounds on each of the leading eigenvalues, (count,), and on their sum up to some ranks."""

    values: Vector
    sums: dict[int, float]


def eigenvalue_ceilings(lanczos: BlockLanczos, ranks: Sequence[int], failure_probability: float) -> Ceilings:
    """Bounds from block Lanczos on a random start.

    They hold together but for `failure_probability`, also with those of other looks at the same space.

    Args:
        lanczos: started from a Gaussian block, with nothing deflated; at least two passes.
        ranks: ascending, at most the block's width: sums are bounded up to these, values up to the last.

    Returns:
        Infinite bounds where nothing can be said.
    """
    values, vectors = lanczos.ritz()
    starts = vectors[: lanczos.width].T @ lanczos.start  # (p, b): the start, by Ritz vectors
    top, count = float(values[0]), ranks[-1]
    if top == 0.0:
        return Ceilings(np.zeros(count), dict.fromkeys(ranks, 0.0))
    nodes = values / top
    looks = sorted({*_indices(count), *ranks})
    ceilings = torch.full((count,), torch.inf, dtype=torch.float64)
    constraints = {}
    for k in looks:
        quantile = _log_determinant_quantile(k, lanczos.width, failure_probability / len(looks))
        constraint = _Constraint.tightest(nodes, starts, k, quantile, lanczos.passes)
        if constraint is not None:
            constraints[k] = constraint
            ceilings[k - 1 :] = ceilings[k - 1 :].clamp_max(constraint.ceiling)
    sums = {
        rank: top * (constraints[rank].sum_ceiling(ceilings[:rank]) if rank in constraints else math.inf)
        for rank in ranks
    }
    return Ceilings(top * ceilings.numpy(), sums)


def _indices(count: int) -> list[int]:
    """1, 2, 3, ... and further on in growing steps, up to count."""
    found = [1]
    while found[-1] < count:
        found.append(min(count, max(found[-1] + 1, int(found[-1] * _STEP))))
    return found


@lru_cache(maxsize=1024)
def _log_determinant_quantile(k: int, width: int, probability: float) -> float:
    """q with log det(Ω Ω') >= q but for that chance, Ω (k, width) standard normal, by Chernoff's bound.

    E[X^-t] of a chi-square with v degrees of freedom is 2^-t Γ(v/2 - t) / Γ(v/2).
    """
    freedom = np.arange(width, width - k, -1)[:, None] / 2.0
    t = np.geomspace(1e-2, 0.99, 64) * float(freedom[-1, 0])
    moments = (log_gamma(freedom - t) - log_gamma(freedom) - t * math.log(2.0)).sum(axis=0)
    return float(np.max((math.log(probability) - moments) / t))


@dataclass(frozen=True)
class _Constraint:
    """sum_{i <= k} log h(λ_i) <= budget, for eigenvalues not below their floors; the first Ritz value 1."""

    polynomials: OrthogonalPolynomials
    kernel: torch.Tensor
    """(d,): f in these polynomials."""
    floors: torch.Tensor
    """(k,) θ_1 ... θ_k."""
    budget: float
    ceiling: float
    """Of λ_k."""

    @classmethod
    def tightest(
        cls, nodes: torch.Tensor, starts: torch.Tensor, k: int, quantile: float, passes: int
    ) -> _Constraint | None:
        """The one of those tried whose ceiling is the lowest; None where none says anything."""
        masses = nodes * starts.square().sum(1)
        if float(masses[k - 1 :].sum()) <= 0.0:
            return None
        polynomials = OrthogonalPolynomials(nodes[k - 1 :], masses[k - 1 :], passes)
        at_nodes = polynomials.at(nodes)
        point, best = float(nodes[k - 1]) * 1.03, None
        for _ in range(_REFINEMENTS):
            kernel = polynomials.at(torch.tensor([point], dtype=torch.float64)).squeeze(1)
            weighted = starts.T * (
                nodes.sqrt() * (kernel @ at_nodes)
            )  # (b, p): M(f) is this times its transpose
            roots = torch.linalg.svdvals(weighted)
            budget = 2.0 * float((roots[:k] + _ROUNDING * roots[0]).log().sum()) - quantile
            found = cls._at(polynomials, kernel, nodes[:k], budget)
            if found is None:
                break
            best = found if best is None or found.ceiling < best.ceiling else best
            point = found.ceiling
        return best

    @classmethod
    def _at(
        cls, polynomials: OrthogonalPolynomials, kernel: torch.Tensor, floors: torch.Tensor, budget: float
    ) -> _Constraint | None:
        """With the point of a grid from which on λ_k, and those before it, spend more than the budget."""
        found = cls(polynomials, kernel, floors, budget, math.inf)
        grid = floors[-1] * _GRID
        heights, least = found._log_height(grid), found._log_height(floors)
        if float(least.sum()) > budget:  # no eigenvalues keep it: rounding has spoilt the polynomials
            return None
        spent = torch.maximum(least[:-1, None], heights).sum(dim=0) + heights
        beyond = torch.nonzero(spent >= budget)
        if not beyond.numel():
            return None
        return cls(polynomials, kernel, floors, budget, float(grid[int(beyond[0])]))

    def sum_ceiling(self, ceilings: torch.Tensor) -> float:
        """The most that values between floors and these ceilings (k,) can sum up to within the budget."""
        caps = torch.maximum(ceilings, self.floors)
        least, most = float(self.floors[-1]), float(caps[0])
        grid = least * torch.logspace(
            0, 1, _CELLS + 1, dtype=torch.float64, base=max(most / least, 1.0 + 1e-9)
        )
        heights = torch.maximum(
            self._log_height(grid[:-1]), self._log_height(self.floors)[:, None]
        )  # (k, cells)
        ends = torch.minimum(grid[1:], caps[:, None])
        inside = (grid[1:] >= self.floors[:, None]) & (grid[:-1] <= caps[:, None])
        bounds = [
            float(multiplier) * self.budget
            + float(torch.where(inside, ends - multiplier * heights, -torch.inf).amax(dim=1).sum())
            for multiplier in _MULTIPLIERS
        ]
        return min(float(caps.sum()), *bounds)

    def _log_height(self, points: torch.Tensor) -> torch.Tensor:
        """log h, h(t) = t f(t)²."""
        return points.log() + 2.0 * (self.kernel @ self.polynomials.at(points)).log()


_GRID = torch.cat(
    [
        1.0 + torch.logspace(-4, -0.5, 160, dtype=torch.float64),
        torch.logspace(math.log10(1.34), 4, 32, dtype=torch.float64),
    ]
)
"""Candidates for a ceiling, relative to the floor."""
