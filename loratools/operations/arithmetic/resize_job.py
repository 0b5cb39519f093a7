"""The jobs of `resize`: look at the spectrum of an update, and write its factors at another rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratools.operations.arithmetic.factored import FactorPair
from loratools.operations.arithmetic.stored_factors import (
    Matrix,
    Slot,
    Written,
    read_matrix,
    write_matrix,
    write_raw,
)
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE

__all__ = ["ResizeJob", "Resized", "Spectrum", "SpectrumJob"]


@dataclass(frozen=True)
class Spectrum:
    """The squared singular values of an update, scaling included, descending; as many as it has."""

    energies: tuple[float, ...]


@dataclass(frozen=True)
class SpectrumJob:
    """Decomposes a pair for its singular values alone."""

    pair: FactorPair

    @property
    def name(self) -> str:
        return self.pair.module

    @property
    def bytes(self) -> int:
        return self.pair.bytes

    @property
    def memory(self) -> int:
        """Factors and copies in float64."""
        return 8 * 8 * self.pair.rank * sum(self.pair.shape)

    @property
    def cost(self) -> float:
        return self.bytes / READ_RATE + 4 * sum(self.pair.shape) * self.pair.rank**2 / MULTIPLY_RATE

    def run(self, workspace: Path) -> Spectrum:
        from loratools.linalg.skinny_svd import product_svd

        (A, _, _), (B, _, _) = read_matrix(self.pair.A), read_matrix(self.pair.B)
        values = product_svd(A, B).S * abs(self.pair.scaling)
        return Spectrum(tuple(float(value) ** 2 for value in values))


@dataclass(frozen=True)
class Resized:
    """The norm of an update, that of what the stored factors lack of it, and hashes."""

    norm: float
    missing: float
    roots: Written

    @property
    def residual(self) -> float:
        return self.missing / self.norm if self.norm else 0.0


@dataclass(frozen=True)
class ResizeJob:
    """Writes a pair's factors at a lower rank, or as they are at their own; at rank 0 only reads them."""

    pair: FactorPair
    rank: int
    A: Slot | None
    B: Slot | None

    @property
    def name(self) -> str:
        return self.pair.module

    @property
    def bytes(self) -> int:
        return self.pair.bytes

    @property
    def memory(self) -> int:
        return SpectrumJob(self.pair).memory

    @property
    def cost(self) -> float:
        return SpectrumJob(self.pair).cost

    def run(self, workspace: Path) -> Resized:
        """Raises LoratoolsError: values cannot be read, are not finite, or do not fit into their dtype."""
        from loratools.linalg.skinny_svd import sum_norm

        (A, A_raw, A_root), (B, B_raw, B_root) = read_matrix(self.pair.A), read_matrix(self.pair.B)
        read = {(0, self.pair.A.name): A_root, (0, self.pair.B.name): B_root}
        if self.A is not None and self.B is not None and self.rank < self.pair.rank:
            return self._cut(workspace, A, B * self.pair.scaling, read)
        norm = abs(self.pair.scaling) * sum_norm(A, B)
        if self.A is None or self.B is None:
            return Resized(norm, norm, Written(read, {}))
        kept = ((self.A, A_raw), (self.B, B_raw))
        written = {slot.key: write_raw(workspace, slot, raw.buffer) for slot, raw in kept}
        return Resized(norm, 0.0, Written(read, written))

    def _cut(self, workspace: Path, A: Matrix, B: Matrix, read: Mapping[tuple[int, str], str]) -> Resized:
        """The leading directions of B A, scaling included, as new factors."""
        from loratools.linalg.factors import difference_norm
        from loratools.linalg.skinny_svd import product_svd, rounding_norm

        assert self.A is not None and self.B is not None
        found = product_svd(A, B)
        exact = found.folded(self.rank)
        A_stored, A_root = write_matrix(workspace, self.A, exact[0])
        B_stored, B_root = write_matrix(workspace, self.B, exact[1])
        if "float64" in (self.A.dtype, self.B.dtype):  # rounded no more than the decomposition itself
            missing = difference_norm((A, B), (A_stored, B_stored))
        else:  # orthogonal, but for the second order of the rounding
            missing = math.hypot(found.beyond(self.rank), rounding_norm(exact, (A_stored, B_stored)))
        return Resized(found.norm, missing, Written(read, {self.A.key: A_root, self.B.key: B_root}))
