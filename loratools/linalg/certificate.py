"""What a factorization claims about itself, and the inequality behind the claim."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from .norms import Measured

__all__ = ["NEGLIGIBLE", "Certificate", "leading_eigenvalue_bounds", "state_excess"]

NEGLIGIBLE = 1e-6
"""Relative residual below which an excess is stated absolutely: a ratio of rounding noise says nothing."""

_LARGE = 256  # dimensions of a space beyond which points are chosen sparingly


@dataclass(frozen=True)
class Certificate:
    """How far a truncated SVD is from the matrix, and at most how far from the best of its rank."""

    method: str
    """Which one ran: "krylov", "exact", or "zero" for a delta that has nothing to factor."""
    residual: float
    """||delta - U S Vh||_F / ||delta||_F, measured."""
    excess: float | None
    """Upper bound on residual / optimal residual - 1, or, where `excess_is_absolute`, on the difference
    residual - optimal residual, both relative to ||delta||_F. None for a zero delta."""
    excess_is_absolute: bool
    """Whether the optimum's relative residual is surely below 1e-6, so that `excess` is a difference."""
    failure_probability: float
    """Bound on the chance, over the random start, that `excess` is too small; 0.0 if no norm was guessed."""
    passes: int
    """How many blocks were multiplied by the delta and by its transpose; 0 for LAPACK."""
    energy: float
    """Share of ||delta||_F² that is kept: 1 - residual²."""

    @property
    def excess_energy(self) -> float:
        """Bound on the share of ||delta||_F² that the best approximation keeps beyond this one."""
        if self.excess is None:
            return 0.0
        absolute = (
            self.excess if self.excess_is_absolute else self.residual * self.excess / (1.0 + self.excess)
        )
        best = max(self.residual - absolute, 0.0)
        return self.residual**2 - best**2

    def with_less(self, share: float) -> Certificate:
        """That of the same triplets without the last, which hold that share of ||delta||_F²: the best
        approximation of their rank keeps no more beyond them than that of the larger rank did."""
        residual = math.sqrt(self.residual**2 + share)
        best = math.sqrt(max(residual**2 - self.excess_energy, 0.0))
        absolute = residual <= NEGLIGIBLE
        excess = residual - best if absolute else residual / best - 1.0 if best else math.inf
        return replace(
            self, residual=residual, excess=excess, excess_is_absolute=absolute, energy=1.0 - residual**2
        )


def leading_eigenvalue_bounds(
    ritz: torch.Tensor, coupling: torch.Tensor, tail: float, count: int, disturbance: float
) -> torch.Tensor:
    """Upper bounds on the largest eigenvalues of H = A'A from a subspace that nearly holds their vectors.

    In a basis of the Ritz vectors V (n, p) and their complement,

        H = [ Θ  C' ]     Θ diagonal, C'C = R'R with R = HV - VΘ,
            [ C  D  ]     D <= τ: what V leaves, ||A (I - VV')||_2² <= τ.

    For every g > 0, [[0, C'], [C, 0]] <= [[C'C / g, 0], [0, g]] as quadratic forms, since
    2 x'C'y <= |Cx|²/g + g|y|². With g = x - τ, for any x > τ,

        H <= diag(Θ + C'C / (x - τ),  x),    hence    λ_i <= max(x, λ_i(Θ + C'C / (x - τ))).

    At x = θ_k this is Kato and Temple's bound (T. Kato, J. Phys. Soc. Japan 4, 1949) with the gap θ_k - τ,
    whose trace is ||R||_F² / gap; it needs no separated index: where the gap closes another x serves.
    V may hold more vectors than the k that are kept, and should: τ is then small. Each x gives bounds that
    hold together, so the least over several x holds too.

    Rounding moves C by at most `disturbance` (and Θ in second order alike): (C + E)'(C + E) <=
    (1 + 1/16) C'C + 17 E'E.

    Args:
        ritz: (p,) float64, Θ, descending.
        coupling: (b, p) float64, with C'C = coupling' coupling.
        tail: τ.
        count: k, at most p.
        disturbance: bound on ||E||_2, in units of A squared.

    Returns:
        (k,) float64: bounds on λ_1 ... λ_k, none below its Ritz value; infinite where nothing can be said.
    """
    bounds = torch.full((count,), torch.inf, dtype=torch.float64)
    gram = (1.0 + 1.0 / 16.0) * (coupling.T @ coupling)
    gram.diagonal().add_(17.0 * disturbance**2)
    for point in _points(ritz, tail, count):
        lifted = gram / (point - tail)
        lifted.diagonal().add_(ritz)
        values = torch.linalg.eigvalsh(lifted).flip(0)[:count]
        bounds = torch.minimum(bounds, values.clamp_min(point))
    return torch.maximum(bounds, ritz[:count])


def _points(ritz: torch.Tensor, tail: float, count: int) -> list[float]:
    """Where to try x: at Ritz values that are kept; where the gap closes, also a little above the last."""
    least = float(ritz[count - 1])
    few = ritz.numel() > _LARGE  # each point costs an eigenvalue problem of the space's size
    points = {least} if few else {least, float(ritz[(count + 1) // 2 - 1])}
    if tail > 0.8 * least:
        margins = (5e-3, 0.03) if few else (1e-3, 0.01, 0.025, 0.06)
        points |= {max(least, tail) * (1.0 + margin) for margin in margins}
    return sorted(x for x in points if x > tail)


def state_excess(residual: Measured, excess_energy: float, norm_squared: float) -> tuple[float, bool]:
    """The excess that a certificate states, and whether it is absolute.

    The optimum's squared residual is ours less the energy that it keeps beyond ours. Where ours is below
    1e-6 of the norm, so is the optimum's, and the difference is stated. Where only the lower bound is
    below, the ratio is: it is the larger of the two numbers, so true in either reading.

    Args:
        residual: the squared residual of the factors as they are, measured.
        excess_energy: bound on the energy that the best approximation keeps beyond those factors.
        norm_squared: ||delta||_F².
    """
    worst = math.sqrt((residual.value + residual.error) / norm_squared)
    least = residual.value - residual.error - excess_energy
    best = math.sqrt(max(least, 0.0) / norm_squared)
    if worst <= NEGLIGIBLE:
        return worst - best, True
    return (worst / best - 1.0 if best > 0.0 else math.inf), False
