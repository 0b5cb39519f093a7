"""How surely the leading singular directions of a matrix are known: angles between spans, bounded.

A truncated SVD is good when its residual is; its directions are another matter. Let v̂_1 ... v̂_r be Ritz
vectors of H = A'A with values θ_i and residuals ρ_i = H v̂_i - θ_i v̂_i, and let W hold the eigenvectors of H
beyond the r leading ones, whose eigenvalues Λ are at most λ_{r+1}. Then

    (Λ - θ_i) W'v̂_i = W'ρ_i,    hence    ||W'v̂_i|| <= ||ρ_i|| / (θ_i - λ_{r+1}),

and the sum of the squares over i <= r is that of the sines of the angles between the two spans (Davis and
Kahan, "The rotation of eigenvectors by a perturbation III", SIAM J. Numer. Anal. 7, 1970; for singular
vectors Wedin, BIT 12, 1972). û_i = A v̂_i / |A v̂_i| lies as near to its span, or nearer, since A shrinks what
is in W more than what is not. Nothing is said where λ_{r+1} is not below θ_r: rank r then cuts a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from .certificate import leading_eigenvalue_bounds
from .krylov import BlockKrylov, gaussian_block, wide
from .lanczos import BlockLanczos
from .norms import comfortably_scaled, rounding_of_energy, rounding_of_products
from .svd import Factorization, SvdMethod, truncated_svd
from .tail import tail_bound

__all__ = ["GUARD", "Directions", "exact_directions", "leading_directions"]

GUARD = 4
"""Triplets that a factorization should have beyond the largest rank whose directions are asked for."""

_ROUNDS = (2, 1, 3, 4, 8)  # passes of the space before each look
_CHAIN_WIDTH = 24  # columns of the block that bounds what the space leaves
_CHAIN_PASSES = range(3, 9)  # before the first look at it, and at most
_LAPACK_SIDE = 1024  # up to which LAPACK is asked where a Krylov space does not tell


@dataclass(frozen=True)
class Directions:
    """The leading singular directions of a matrix, and how far the spans of the first r may be off."""

    U: torch.Tensor
    """(m, count), orthonormal columns."""
    Vh: torch.Tensor
    """(count, n), orthonormal rows."""
    sines: tuple[float, ...]
    """By r - 1: bound on the root of the summed squares of the sines of the angles between the span of the
    first r and the true one, on either side; infinite where they are not known to be near."""

    def sine(self, rank: int) -> float:
        return self.sines[rank - 1]

    def missing(self, wanted: Mapping[int, float]) -> list[int]:
        """The ranks at which they are not as near as is wanted."""
        return [rank for rank, sine in wanted.items() if not self.sine(rank) <= sine]


def leading_directions(
    matrix: torch.Tensor,
    found: Factorization,
    wanted: Mapping[int, float],
    *,
    seed: int = 0,
    failure_probability: float = 1e-9,
) -> Directions:
    """Directions that are as near to the true ones as is wanted, wherever a bounded effort tells them.

    A Krylov space is grown from the triplets found until the bounds hold, in float64 where rounding stands
    against them; small matrices go to LAPACK. Where the singular values r and r + 1 are (nearly) the same
    the sine of rank r stays infinite, or larger than was wanted.

    Args:
        matrix: (m, n), float32 or float64, not zero.
        found: its truncated SVD, with `GUARD` triplets more than the largest rank where there are so many.
        wanted: the largest sine that will do, by rank; ranks up to the number of triplets.
        seed: of the random blocks.
        failure_probability: bound on the chance that a sine stated is too small.
    """
    count = max(wanted)
    side = min(matrix.shape)
    if found.certificate.method == "exact":
        return _by_lapack(matrix, found, count)
    scaled = comfortably_scaled(matrix, found.norm_squared)
    upright = matrix.shape[0] >= matrix.shape[1]
    tall = scaled.matrix if upright else scaled.matrix.T
    rows = found.Vh if upright else found.U.T
    known = _ceilings(found, scaled.exponent)
    norm_squared, chance = scaled.norm_squared, failure_probability / 2.0
    space = _Space(tall, norm_squared, rows, known, count, seed, chance)
    best = space.settle(wanted)
    if best.missing(wanted) and tall.dtype is torch.float32 and space.drowns(best.missing(wanted), wanted):
        rows = wide(space.rows())
        space = _Space(wide(tall), norm_squared, rows, known, count, seed + 1, chance)
        best = space.settle(wanted)
    if side <= _LAPACK_SIDE and best.missing(wanted):
        return _by_lapack(matrix, found, count)
    return best if upright else Directions(best.Vh.T, best.U.T, best.sines)


def _ceilings(found: Factorization, exponent: int) -> torch.Tensor:
    """Bounds on the squared singular values that the certificate implies, (k,), over 4**exponent.

    Ritz values lie below what they stand for, so that none lies by more below than all of them together.
    """
    squares = wide(found.S).square()
    return (squares + found.certificate.excess_energy * found.norm_squared) * 4.0**-exponent


def _by_lapack(matrix: torch.Tensor, found: Factorization, count: int) -> Directions:
    """LAPACK's vectors in float64: off by a few units of rounding of the norm, over the gap (Wedin)."""
    side = min(matrix.shape)
    exact = found.certificate.method == "exact" and found.S.dtype is torch.float64
    if not exact or found.S.numel() < min(count + 1, side):
        rank = min(count + 1, side)
        found = truncated_svd(wide(matrix), rank=rank, method=SvdMethod.EXACT)
    return exact_directions(found.U, found.S, found.Vh, count)


def exact_directions(U: torch.Tensor, S: torch.Tensor, Vh: torch.Tensor, count: int) -> Directions:
    """The first `count` directions of a decomposition made in float64.

    Args:
        U: (m, k), S: (k,) descending, Vh: (k, n): k more than `count`, or all that are not zero.
        count: at most k.
    """
    values = torch.cat([wide(S), torch.zeros(1, dtype=torch.float64)])  # beyond the last there is nothing
    error = _rounding_of_lapack(float(values.norm()))
    return Directions(U[:, :count], Vh[:count], _sines(values[:count], values[1 : count + 1], error))


def _rounding_of_lapack(norm: float) -> float:
    """How far singular values and vectors are from those of the float64 matrix decomposed, in its units."""
    return 8.0 * torch.finfo(torch.float64).eps * norm


def _sines(values: torch.Tensor, ceilings: torch.Tensor, errors: torch.Tensor | float) -> tuple[float, ...]:
    """The bound for every r: errors over gaps, where all gaps to the ceiling of r + 1 are open.

    Args:
        values: (count,) descending; ceilings: (count,) bounds on the value after each; errors: (count,).
    """
    gaps = values[None, :] - ceilings[:, None]  # row r - 1: of the first r values to the next
    ratios = (torch.as_tensor(errors, dtype=torch.float64) / gaps).square().tril()
    open_ = values > ceilings + errors
    sums = ratios.sum(dim=1).sqrt()
    return tuple(torch.where(open_, sums, torch.inf).tolist())


class _Space:
    """A Krylov space grown from triplets that are nearly right."""

    def __init__(
        self,
        matrix: torch.Tensor,
        norm_squared: float,
        rows: torch.Tensor,
        known: torch.Tensor,
        count: int,
        seed: int,
        failure_probability: float,
    ) -> None:
        self._matrix, self._known, self._count, self._seed = matrix, known, count, seed
        self._chance = failure_probability / len(_ROUNDS)
        self._krylov = BlockKrylov(matrix, rows.contiguous())
        self._norm_squared = norm_squared
        self._rounding = rounding_of_products(matrix)
        self._tail = math.inf

    def settle(self, wanted: Mapping[int, float]) -> Directions:
        """Expands until the spans are as near as is wanted, or further passes promise nothing."""
        before = dict.fromkeys(wanted, math.inf)
        for turn, passes in enumerate(_ROUNDS):
            if self._krylov.size + passes * self._krylov.width >= self._matrix.shape[1]:
                break
            for _ in range(passes):
                self._krylov.expand()
            self._look()
            if not self._missing(self._tail, wanted):
                break
            likely = self._sines_at(self._likely_tail())
            if len(self._missing(self._likely_tail(), wanted)) < len(self._missing(self._tail, wanted)):
                self._bound_tail(wanted, turn)
                if not self._missing(self._tail, wanted):
                    break
            left = sum(_ROUNDS[turn + 1 :])
            now = {rank: likely[rank - 1] for rank in self._missing(self._tail, wanted)}
            if turn > 1 and not any(
                _reaches(before[rank], sine, passes, left, wanted[rank]) for rank, sine in now.items()
            ):
                break
            before = dict(enumerate(likely, start=1))
        return self._directions()

    def drowns(self, missing: list[int], wanted: Mapping[int, float]) -> bool:
        """Whether rounding, and nothing else, stands against one of the ranks."""
        exact = self._sines_at(self._likely_tail(), rounding=0.0)
        return any(exact[rank - 1] <= wanted[rank] for rank in missing)

    def rows(self) -> torch.Tensor:
        """As many Ritz vectors as a block has rows."""
        return self._coordinates[:, : self._krylov.width].T.to(self._krylov.basis) @ self._krylov.basis

    def _look(self) -> None:
        self._ritz, self._coordinates = self._krylov.ritz()
        self._coupling = self._krylov.coupling @ self._coordinates[-self._krylov.width :]  # (b, p)
        left_over = max(self._norm_squared - float(self._ritz.sum()), 0.0)
        self._tail = min(self._tail, left_over + rounding_of_energy(self._matrix) * self._norm_squared)

    def _likely_tail(self) -> float:
        """A guess at what the space leaves: its first value beyond the block that it grew from."""
        return min(self._tail, float(self._ritz[min(self._krylov.width, self._ritz.numel() - 1)]))

    def _missing(self, tail: float, wanted: Mapping[int, float]) -> list[int]:
        sines = self._sines_at(tail)
        return [rank for rank, sine in wanted.items() if not sines[rank - 1] <= sine]

    def _sines_at(self, tail: float, *, rounding: float | None = None) -> tuple[float, ...]:
        """The sines, if the space left no more than `tail`."""
        unit = self._rounding if rounding is None else rounding
        top, count = float(self._ritz[0]), self._count
        known = min(count + 1, self._ritz.numel())
        ceilings = leading_eigenvalue_bounds(self._ritz, self._coupling, tail, known, unit * top)[1:]
        if ceilings.numel() < count:
            ceilings = torch.cat([ceilings, torch.tensor([tail], dtype=torch.float64)])
        ceilings[: len(self._known) - 1] = torch.minimum(
            ceilings[: len(self._known) - 1], self._known[1 : count + 1]
        )
        values = self._ritz[:count]
        # Beyond the leading directions, rounding of the two products adds s_1 times s_i, not s_1 squared.
        errors = self._coupling[:, :count].norm(dim=0) + 2.0 * unit * (top * values).sqrt()
        if unit:
            errors = errors + 2.0 * _rounding_of_lapack(float(self._ritz.sum().sqrt())) * values.sqrt()
        stored = torch.finfo(self._matrix.dtype).eps if unit else 0.0
        sines = _sines(values, ceilings, errors)
        return tuple(sine + stored * math.sqrt(rank) for rank, sine in enumerate(sines, start=1))

    def _bound_tail(self, wanted: Mapping[int, float], turn: int) -> None:
        """Bounds what the space leaves by a fresh random chain, as closely as is needed, if it can."""
        room = self._matrix.shape[1] - self._krylov.size
        start = gaussian_block(min(_CHAIN_WIDTH, room), self._matrix, self._seed + 7919 * (turn + 1))
        chain = BlockLanczos(self._matrix, start, deflated=self._krylov.basis)
        leak = self._rounding * math.sqrt(float(self._ritz[0]))
        before = len(self._missing(self._tail, wanted))
        while chain.passes < _CHAIN_PASSES.stop and chain.size + chain.width <= room:
            chain.expand()
            if chain.passes < _CHAIN_PASSES.start:
                continue
            self._tail = min(self._tail, (math.sqrt(tail_bound(chain, self._chance)) + leak) ** 2)
            at_best = len(self._missing(float(chain.ritz()[0][0]), wanted))
            if len(self._missing(self._tail, wanted)) <= at_best or at_best >= before:
                return

    def _directions(self) -> Directions:
        U, _, Vh = self._krylov.triplets(self._coordinates[:, : self._count])
        return Directions(U.to(self._matrix), Vh.to(self._matrix), self._sines_at(self._tail))


def _reaches(before: float, now: float, passes: int, left: int, wanted: float) -> bool:
    """Whether a sine that fell so in some passes can be as small as is wanted after those that are left."""
    if not math.isfinite(now):
        return False
    if not math.isfinite(before):
        return True
    return bool(now * (now / before) ** (left / passes) <= wanted)
