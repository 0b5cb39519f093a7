"""Block Lanczos for eigenvalues alone: what bounds need of a Krylov space, at half of its price.

`BlockKrylov` keeps the images of its basis, in float64, since singular vectors and certificates of residuals
are made of them. Bounds on eigenvalues need H = A'A restricted to the space, and no more.
"""

from __future__ import annotations

import torch

from .krylov import both_ways, one_round, wide

__all__ = ["BlockLanczos"]


class BlockLanczos:
    """span{X, HX, H²X, ...} of H = A'A for a start block X, and H restricted to it, fully orthogonalized.

    Everything is in A's dtype but the small matrices: values are good to its rounding times the largest. With
    `deflated` (orthonormal rows) everything happens in the complement of its span.

    Attributes:
        width: b, rows of a block; size: p, the dimension of the space; passes: products with A and with A'.
        start: (b, b), float64: the start block in coordinates of the first basis block, transposed.
    """

    def __init__(
        self, matrix: torch.Tensor, start: torch.Tensor, deflated: torch.Tensor | None = None
    ) -> None:
        self._matrix = matrix
        self._deflated = matrix.new_empty(0, matrix.shape[1]) if deflated is None else deflated
        self.width = start.shape[0]
        self.passes = 0
        self._basis = matrix.new_empty(0, matrix.shape[1])
        self._gram = torch.empty(0, 0, dtype=torch.float64)
        self._ritz: tuple[torch.Tensor, torch.Tensor] | None = None
        self._link: torch.Tensor
        self._frontier, self.start = self._orthonormal(start)

    @property
    def size(self) -> int:
        return self._basis.shape[0]

    def expand(self) -> None:
        """Take the next block into the space: one product with A and one with A'."""
        _, back = both_ways(self._matrix, self._frontier)
        self._basis = torch.cat([self._basis, self._frontier])
        new = wide(back @ self._frontier.T).cpu()  # (b, b)
        # Block tridiagonal by construction: what else the products hold is rounding, and without it this is
        # the Krylov space of a matrix nearby, as the bounds suppose.
        known = self._gram.shape[0]
        gram = torch.nn.functional.pad(self._gram, (0, self.width, 0, self.width))
        gram[known:, known:] = (new + new.T) / 2.0
        if known:
            gram[known:, known - self.width : known] = self._link
            gram[known - self.width : known, known:] = self._link.T
        self._gram = gram
        self._frontier, self._link = self._orthonormal(back)
        self._ritz = None
        self.passes += 1

    def settled(self, share: float) -> bool:
        """Whether what couples the space to the rest is at most that share of its largest block."""
        width = self.width
        return float(self._link.norm()) <= share * float(self._gram[:width, :width].norm())

    def ritz(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Ritz values (p,), descending, not negative, and their coordinates in the basis (p, p); float64."""
        if self._ritz is None:
            values, vectors = torch.linalg.eigh(self._gram)
            self._ritz = values.flip(0).clamp_min(0.0), vectors.flip(1)
        return self._ritz

    def _orthonormal(self, block: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Orthonormal rows beside the basis, and the block's coordinates in them, float64.

        Twice, since QR completes a block that has no part outside of the span by directions that have one.
        """
        against = (self._deflated, self._basis)
        rough, first = one_round(block, against)
        fine, second = one_round(rough, against)
        return fine.contiguous(), (wide(second) @ wide(first)).cpu()
