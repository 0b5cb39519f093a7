"""Truncated singular value decompositions that know how good they are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from .certificate import Certificate, state_excess
from .choices import SvdMethod, krylov_pays
from .krylov import wide
from .norms import comfortably_scaled, residual_squared
from .search import Goal, Triplets, krylov_svd

__all__ = ["Factorization", "SvdMethod", "truncated_svd"]


@dataclass(frozen=True)
class Factorization:
    """The leading singular triplets of a delta, which is near U diag(S) Vh."""

    U: torch.Tensor
    """(m, r), orthonormal columns, in the delta's dtype and on its device; of each, the entry that is
    largest in magnitude is positive (the first of several), which fixes the sign that a pair leaves open."""
    S: torch.Tensor
    """(r,), descending, in the delta's dtype."""
    Vh: torch.Tensor
    """(r, n), orthonormal rows, in the delta's dtype."""
    norm_squared: float
    """||delta||_F², accumulated in float64."""
    certificate: Certificate

    def on_host(self) -> Factorization:
        """The same, in the host's memory."""
        return replace(self, U=self.U.cpu(), S=self.S.cpu(), Vh=self.Vh.cpu())

    def leading(self, count: int) -> Factorization:
        """The first `count` triplets, as a truncation of their own."""
        if count >= self.S.numel():
            return self
        beyond = float(wide(self.S[count:]).square().sum()) / self.norm_squared
        certificate = self.certificate.with_less(beyond)
        kept = self.U[:, :count], self.S[:count], self.Vh[:count]
        return Factorization(*kept, self.norm_squared, certificate)


def truncated_svd(
    delta: torch.Tensor,
    *,
    rank: int | None = None,
    energy: float | None = None,
    max_rank: int | None = None,
    tolerance: float = 1e-3,
    method: SvdMethod = SvdMethod.AUTO,
    seed: int = 0,
    failure_probability: float = 1e-9,
    norm_squared: float | None = None,
) -> Factorization:
    """The best low-rank approximation of a matrix, or one certified to be within `tolerance` of it.

    `auto` grows a block Krylov space from a random start (Musco and Musco 2015; Halko, Martinsson and Tropp
    2011) until a certificate holds: that residual / optimal residual - 1 <= tolerance (or that the residual
    is below 1e-6 of the norm). The bound is `certificate.leading_eigenvalue_bounds`, fed with an upper
    bound on what the space leaves, from `tail.tail_bound` or, where that suffices, the Frobenius norm. The
    search always ends: where the certificate does not come within the time that LAPACK takes, LAPACK runs.
    Small matrices and large ranks go there at once. The choice depends on shape and request alone.

    Args:
        delta: (m, n), float32 or float64; not modified. It is worked on in its dtype, with norms and small
            matrices in float64, scaled by a power of two if its squares would overflow or vanish.
        rank: how many triplets; at most min(m, n) are returned, and fewer only for a zero delta. A delta of
            lower rank gets singular values that are zero up to rounding.
        energy: instead, the share of ||delta||_F² to keep, in (0, 1], by as few triplets as can.
        max_rank: caps the rank.
        tolerance: allowed excess over the optimal residual.
        method: see `SvdMethod`.
        seed: of the random start; the same input, options and thread count give the same bytes.
        failure_probability: bound on the chance that the excess stated is too small.
        norm_squared: the delta's `frobenius_squared`, where it was had while the delta was in the cache.

    Returns:
        A `Factorization`; of rank 0, with the certificate's method "zero", for a delta that is zero.

    Raises:
        ValueError: both or neither of rank and energy, one out of range, or entries that are not finite.
        TypeError: another dtype.
    """
    _check_request(delta, rank, energy, max_rank, tolerance, failure_probability)
    scaled = comfortably_scaled(delta, norm_squared)
    matrix, exponent, norm_squared = scaled.matrix, scaled.exponent, scaled.norm_squared
    if norm_squared == 0.0:
        return _nothing(delta)
    cap = min(*delta.shape, *(() if max_rank is None else (max_rank,)))
    goal = Goal(None if rank is None else min(rank, cap), energy, cap, tolerance, failure_probability)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    found: Triplets | None = None
    if method is SvdMethod.AUTO and krylov_pays(tall.shape[1], goal.rank, goal.energy):
        found = krylov_svd(tall, norm_squared, goal, seed, _lapack_cost(*tall.shape))
    if found is None:
        found = _lapack_svd(tall, norm_squared, goal)
    U, Vh = (found.U, found.Vh) if tall is matrix else (found.Vh.T, found.U.T)
    U, Vh = _signed(U.to(delta.dtype), Vh.to(delta.dtype))
    S = (wide(found.S) * 2.0**exponent).to(U)
    return Factorization(U, S, Vh, norm_squared * 2.0**exponent * 2.0**exponent, found.certificate)


def _check_request(
    delta: torch.Tensor,
    rank: int | None,
    energy: float | None,
    max_rank: int | None,
    tolerance: float,
    failure_probability: float,
) -> None:
    """Refuse what makes no sense, by name."""
    if delta.ndim != 2 or 0 in delta.shape:
        raise ValueError(f"a delta is a matrix that is not empty, not of shape {tuple(delta.shape)}")
    if delta.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"a delta is float32 or float64, not {delta.dtype}")
    if (rank is None) == (energy is None):
        raise ValueError("exactly one of rank and energy says how much to keep")
    for name, value in (("rank", rank), ("max_rank", max_rank)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if energy is not None and not 0.0 < energy <= 1.0:
        raise ValueError(f"energy is a share in (0, 1], not {energy}")
    if not tolerance > 0.0:
        raise ValueError(f"tolerance must be positive, not {tolerance}")
    if not 0.0 < failure_probability < 1.0:
        raise ValueError(f"failure_probability lies in (0, 1), not {failure_probability}")


def _lapack_cost(rows: int, columns: int) -> float:
    """What LAPACK's float64 SVD costs, in float32 multiplications of equal time [measured at 512 to 2048]."""
    return 12.0 * rows * columns**2 + 16.0 * columns**3


def _lapack_svd(matrix: torch.Tensor, norm_squared: float, goal: Goal) -> Triplets:
    """The truncation of the full decomposition in float64, measured as it will be stored."""
    double = wide(matrix)
    # cuSOLVER's own choice is Jacobi's method, which stops at a tolerance; this one is LAPACK's.
    driver = "gesvd" if double.device.type == "cuda" else None
    U, S, Vh = torch.linalg.svd(double, full_matrices=False, driver=driver)
    squares = S.square().cpu()
    total = float(squares.sum())
    rank = goal.rank_of(squares, total) or min(goal.max_rank, S.numel())
    U, S, Vh = U[:, :rank].to(matrix), S[:rank].to(matrix), Vh[:rank].to(matrix)
    residual = residual_squared(double, wide(U), wide(S), wide(Vh), norm_squared, shortcut=False)
    # LAPACK's values are off by a few units of rounding of the norm; see Higham 2002, §20 and Weyl's theorem.
    optimum = math.sqrt(float(squares[rank:].sum()))
    rounding = 8.0 * torch.finfo(torch.float64).eps * math.sqrt(total)
    excess_energy = max(residual.value - max(optimum - rounding, 0.0) ** 2, 0.0)
    excess, absolute = state_excess(residual, excess_energy, norm_squared)
    share = residual.value / norm_squared
    certificate = Certificate("exact", math.sqrt(share), excess, absolute, 0.0, 0, 1.0 - share)
    return Triplets(U, S, Vh, certificate)


def _signed(U: torch.Tensor, Vh: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both sides of each pair turned so that the left vector's largest entry is positive."""
    largest = U.abs().argmax(dim=0, keepdim=True)  # (1, r)
    signs = torch.where(U.gather(0, largest) < 0, -1.0, 1.0).to(U.dtype)  # (1, r)
    return (U * signs).contiguous(), (Vh * signs.T).contiguous()


def _nothing(delta: torch.Tensor) -> Factorization:
    """A zero delta: no triplets, and nothing to be better than."""
    rows, columns = delta.shape
    certificate = Certificate("zero", 0.0, None, False, 0.0, 0, 1.0)
    empty = delta.new_empty
    return Factorization(empty(rows, 0), empty(0), empty(0, columns), 0.0, certificate)
