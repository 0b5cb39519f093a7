"""The randomized way: grow a Krylov space until the triplets in it are certified."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from .certificate import NEGLIGIBLE, Certificate, leading_eigenvalue_bounds, state_excess
from .choices import block_width
from .krylov import BlockKrylov, gaussian_block, wide
from .lanczos import BlockLanczos
from .norms import Measured, residual_squared, rounding_of_energy, rounding_of_products
from .ranks import rank_for_energy
from .tail import tail_bound

__all__ = ["Goal", "Triplets", "krylov_svd"]

_ENERGY_WIDTH = 24  # the rank that a block is made for where none is given
_CHAIN_WIDTH = 24  # columns of the block that estimates the tail
_CHAIN_PASSES = 10  # after which more Krylov passes are the better spent
_PATIENCE = 4  # chain passes before a bound that must come close to the truth is given up


@dataclass(frozen=True)
class Goal:
    """What is asked: a rank, or a share of the energy with the rank capped; how closely and how surely."""

    rank: int | None
    energy: float | None
    max_rank: int
    tolerance: float
    failure_probability: float

    def rank_of(self, squares: torch.Tensor, norm_squared: float) -> int | None:
        """The rank to keep, from squared singular values (descending), or None where they are too few."""
        if self.rank is not None:
            return self.rank if squares.numel() >= self.rank else None
        assert self.energy is not None
        enough = rank_for_energy(squares.sqrt().numpy(), norm_squared, self.energy)
        if enough is None:
            return self.max_rank if squares.numel() >= self.max_rank else None
        return min(enough, self.max_rank)

    @property
    def block_width(self) -> int:
        """Columns of a Krylov block."""
        return block_width(self.rank if self.rank is not None else min(self.max_rank, _ENERGY_WIDTH))


@dataclass(frozen=True)
class Triplets:
    """Leading singular triplets, in the dtype in which they will be kept, and what they claim."""

    U: torch.Tensor
    S: torch.Tensor
    Vh: torch.Tensor
    certificate: Certificate


def krylov_svd(
    matrix: torch.Tensor, norm_squared: float, goal: Goal, seed: int, budget: float
) -> Triplets | None:
    """Certified leading triplets of a matrix, or None where LAPACK is the better way.

    Where float32 is too coarse for the certificate (a spectrum so steep that the residual drowns in the
    rounding of the leading directions) the search goes on in float64, from the space found so far.

    Args:
        matrix: (m, n), m >= n, float32 or float64, finite, its norm far from overflow and underflow.
        norm_squared: its squared Frobenius norm, positive.
        goal: what is asked.
        seed: of every random block.
        budget: multiplications that the search may spend.
    """
    start = gaussian_block(goal.block_width, matrix, seed)
    search = _Search(matrix, norm_squared, goal, seed, BlockKrylov(matrix, start))
    found = search.run(budget)
    if found is None and search.drowns:
        rows, passes = wide(search.leading_rows()), search.passes
        del search  # and its space, before the matrix is there twice
        double = wide(matrix)
        finer = _Search(
            double, norm_squared, goal, seed + 1, BlockKrylov(double, rows), earlier_passes=passes
        )
        finer.stored_as = matrix.dtype
        found = finer.run(budget)
    return found


@dataclass
class _Search:
    """One matrix's Krylov space, the best bound so far on what it leaves, and what was spent on it."""

    matrix: torch.Tensor
    norm_squared: float
    goal: Goal
    seed: int
    krylov: BlockKrylov
    earlier_passes: int = 0
    chain_passes: int = 0
    attempts: int = 0
    failure_probability: float = 0.0
    tail: float = math.inf
    """Upper bound on ||A (I - QQ')||_2²; it stays one as the space grows."""
    tail_seen: float = 0.0
    """Lower bound on the same, when last looked at."""
    passes_seen: int = 0
    """How many passes the space had then."""
    retry_at: int = 0
    """How many it shall have before the next look: tails that disappoint shrink slowly."""
    drowns: bool = False
    """Whether rounding, and nothing else, stands against the certificate."""
    stored_as: torch.dtype = field(init=False)

    def __post_init__(self) -> None:
        self.stored_as = self.matrix.dtype
        self.product_rounding = rounding_of_products(self.matrix)

    @property
    def passes(self) -> int:
        """Blocks multiplied by the matrix and its transpose, in all."""
        return self.earlier_passes + self.krylov.passes + self.chain_passes

    def run(self, budget: float) -> Triplets | None:
        """Expand and judge, until certified, drowned, or no longer worth it."""
        width, columns = self.krylov.width, self.matrix.shape[1]
        check_at = 2 * width
        while self.krylov.size + width < columns and self._spent() <= budget and not self.drowns:
            self.krylov.expand()
            if self.krylov.size < check_at:
                continue
            # Judging costs as the cube of the size: in large spaces, not after every pass.
            check_at = self.krylov.size * 6 // 5 if self.krylov.size > 200 else 0
            found = self._judge()
            if found is not None:
                return found
        return None

    def leading_rows(self) -> torch.Tensor:
        """As many Ritz vectors as a block has rows (b, n)."""
        _, coordinates = self.krylov.ritz()
        return coordinates[:, : self.krylov.width].T.to(self.krylov.basis) @ self.krylov.basis

    def _spent(self) -> float:
        """Multiplications so far: products, orthogonalization and Gram matrices, eigenvalue problems."""
        rows, columns = self.matrix.shape
        size = self.krylov.size
        products = 2.0 * rows * columns * (size + self.chain_passes * _CHAIN_WIDTH)
        return products + (3.0 * columns + rows) * size**2 + 10.0 * size**3

    def _judge(self) -> Triplets | None:
        """The triplets of the space as it stands, if they can be certified now."""
        ritz, coordinates = self.krylov.ritz()
        rank = self.goal.rank_of(ritz, self.norm_squared)
        if rank is None or rank + 2 > self.krylov.size:
            return None
        coupling = self.krylov.coupling @ coordinates[-self.krylov.width :]  # (b, p)
        view = _View(ritz, coupling, rank, self.goal, self.norm_squared, self.product_rounding)
        left_over = max(self.norm_squared - float(ritz.sum()), 0.0)
        self.tail = min(self.tail, left_over + rounding_of_energy(self.matrix) * self.norm_squared)
        if not view.holds(self.tail):
            guess = min(self.tail, max(view.likely_tail(), self._shrunken_tail()))
            if self.krylov.passes < self.retry_at or not view.holds(guess):
                self.drowns = self.stored_as == self.matrix.dtype == torch.float32 and view.drowns(guess)
                return None
            self._bound_tail(view)
            if not view.holds(self.tail):
                return None
        return self._certified(coordinates[:, :rank], view)

    def _shrunken_tail(self) -> float:
        """A guess from the last look: noise, the slowest of spectra, was seen to shrink like this."""
        return self.tail_seen * math.pow(self.passes_seen / self.krylov.passes, 0.3)

    def _bound_tail(self, view: _View) -> None:
        """Bound what the space leaves by a fresh random chain, as closely as `view` needs, if it can."""
        self.attempts += 1
        self.passes_seen, self.retry_at = self.krylov.passes, self.krylov.passes * 5 // 4 + 1
        chance = self.goal.failure_probability / 2.0**self.attempts
        self.failure_probability += chance
        start = gaussian_block(_CHAIN_WIDTH, self.matrix, self.seed + 7919 * self.attempts)
        chain = BlockLanczos(self.matrix, start, deflated=self.krylov.basis)
        leak = self.product_rounding * math.sqrt(float(view.ritz[0]))
        room = self.matrix.shape[1] - self.krylov.size
        while chain.passes < _CHAIN_PASSES and chain.size + chain.width <= room:
            chain.expand()
            self.chain_passes += 1
            self.tail = min(self.tail, (math.sqrt(tail_bound(chain, chance)) + leak) ** 2)
            self.tail_seen = float(chain.ritz()[0][0])
            if view.holds(self.tail) or not view.holds(self.tail_seen):
                return
            if chain.passes >= _PATIENCE and not view.holds(1.03 * self.tail_seen):
                return

    def _certified(self, coordinates: torch.Tensor, view: _View) -> Triplets | None:
        """The triplets of some Ritz vectors, if what is measured bears them out."""
        left, S, right = self.krylov.triplets(coordinates)
        U = left.to(device=self.matrix.device, dtype=self.stored_as)
        Vh = right.to(self.stored_as)
        S = S.to(U)
        measured = residual_squared(self.matrix, U, S, Vh, self.norm_squared)
        stored = view.rounding_of_factors(torch.finfo(self.stored_as).eps / 2.0)
        residual = Measured(measured.value, measured.error + stored)
        excess, absolute = state_excess(residual, view.excess_energy(self.tail), self.norm_squared)
        if excess > (NEGLIGIBLE if absolute else self.goal.tolerance):
            self.drowns = self.stored_as == self.matrix.dtype == torch.float32
            return None
        share = residual.value / self.norm_squared
        certificate = Certificate(
            method="krylov",
            residual=math.sqrt(share),
            excess=excess,
            excess_is_absolute=absolute,
            failure_probability=self.failure_probability,
            passes=self.passes,
            energy=1.0 - share,
        )
        return Triplets(U, S, Vh, certificate)


class _View:
    """What a Krylov space says at one rank, as a function of a bound on what the space leaves."""

    def __init__(
        self,
        ritz: torch.Tensor,
        coupling: torch.Tensor,
        rank: int,
        goal: Goal,
        norm_squared: float,
        product_rounding: float,
    ) -> None:
        self.ritz, self._coupling, self._rank = ritz, coupling, rank
        self._goal, self._norm_squared = goal, norm_squared
        self._disturbance = product_rounding * float(ritz[0])
        self._kept = float(ritz[:rank].sum())
        self._bounds: dict[tuple[float, float], torch.Tensor] = {}

    def excess_energy(self, tail: float) -> float:
        """Bound on the energy that the best approximation of this rank keeps beyond ours."""
        return float(self._leading(tail, self._disturbance).sum()) - self._kept

    def rounding_of_factors(self, unit: float) -> float:
        """How much the squared residual may change when U, S and V are rounded.

        With R = A - A V V', R V = 0: rounding U and S matters in second order only, and rounding V by dV
        changes the square by 2 <U'R, S dV'> = 2 <C, dV'>, where C = V'A'A (I - VV') is the coupling of what
        is kept: nothing for converged vectors.
        """
        coupled = float(self._coupling[:, : self._rank].norm()) + self._disturbance * math.sqrt(self._rank)
        return 2.0 * unit * math.sqrt(self._rank) * coupled + (3.0 * unit) ** 2 * self._norm_squared

    def holds(self, tail: float) -> bool:
        """Whether the goal would be certified if the tail were bounded so."""
        return self._holds(tail, self._disturbance)

    def drowns(self, tail: float) -> bool:
        """Whether it would be, were it not for rounding."""
        return not self._holds(tail, self._disturbance) and self._holds(tail, 0.0)

    def likely_tail(self) -> float:
        """A guess: the first Ritz value whose vector has not begun to converge."""
        residuals = torch.linalg.vector_norm(self._coupling, dim=0)
        loose = np.flatnonzero((residuals > 0.5 * self.ritz).numpy())
        return float(self.ritz[int(loose[0])]) if loose.size else 0.0

    def _holds(self, tail: float, disturbance: float) -> bool:
        residual = max(self._norm_squared - self._kept, 0.0)
        if residual <= NEGLIGIBLE**2 * self._norm_squared:
            return True
        allowed = residual * (1.0 - (1.0 + self._goal.tolerance) ** -2)
        # No bound lies below the tail: where that alone is too much, spare the eigenvalue problems.
        if float((tail - self.ritz[: self._rank]).clamp_min(0.0).sum()) > allowed:
            return False
        leading = self._leading(tail, disturbance)
        if float(leading.sum()) - self._kept > allowed:
            return False
        share = (self._goal.energy or 0.0) * self._norm_squared
        if self._kept < share or self._rank == 1 or self._goal.energy is None:
            return True
        # The rank is the least only if no subspace of one dimension less keeps the share.
        return float(leading[:-1].sum()) < share

    def _leading(self, tail: float, disturbance: float) -> torch.Tensor:
        if (tail, disturbance) not in self._bounds:
            self._bounds[tail, disturbance] = leading_eigenvalue_bounds(
                self.ritz, self._coupling, tail, self._rank, disturbance
            )
        return self._bounds[tail, disturbance]
