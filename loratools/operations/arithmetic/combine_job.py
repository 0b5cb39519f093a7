"""The job of `combine`: the factors of one module from those of several adapters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.operations.arithmetic.factored import FactorPair
from loratools.operations.arithmetic.stored_factors import (
    Matrix,
    Slot,
    Written,
    read_matrix,
    write_matrix,
)
from loratools.operations.combine_options import CombineOptions, Sparsity, Subject
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE
from loratools.operations.seeds import module_seed

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CombineJob", "Combined", "Part"]

_CANCELLED = 2.0**-44
"""A sum whose norm is below so much of its factors' norms has cancelled, up to the rounding of the parts."""


@dataclass(frozen=True)
class Part:
    """What an adapter has of a module: its place among the adapters, from 0 on, its factors, its weight."""

    place: int
    pair: FactorPair
    weight: float

    @property
    def factor(self) -> float:
        """What B A is multiplied by: the weight and the scaling."""
        return self.weight * self.pair.scaling


@dataclass(frozen=True)
class Combined:
    """The norm of the weighted sum (0 where it cancels), that of its difference from the stored factors, the
    share that a truncation of a dense matrix cut (None where none did), and hashes."""

    norm: float
    missing: float
    truncation: float | None
    roots: Written

    @property
    def residual(self) -> float | None:
        return self.missing / self.norm if self.norm else None


@dataclass(frozen=True)
class CombineJob:
    """Combines the factors of one module, stores them, and measures their distance from the weighted sum."""

    module: str
    parts: tuple[Part, ...]
    options: CombineOptions
    rank: int
    A: Slot
    B: Slot

    @property
    def name(self) -> str:
        return self.module

    @property
    def bytes(self) -> int:
        return sum(part.pair.bytes for part in self.parts)

    @property
    def memory(self) -> int:
        """Factors and copies in float64, or dense matrices."""
        rows, columns = self.parts[0].pair.shape
        ranks = sum(part.pair.rank for part in self.parts)
        dense = 2 * (len(self.parts) + 1) * rows * columns if self._dense else 0
        return 8 * (6 * (ranks + self.rank) * (rows + columns) + dense)

    @property
    def cost(self) -> float:
        rows, columns = self.parts[0].pair.shape
        ranks = sum(part.pair.rank for part in self.parts) + self.rank
        dense = rows * columns * (len(self.parts) * 20 + 40 * self.rank) if self._dense else 0
        return self.bytes / READ_RATE + (4.0 * (rows + columns) * ranks**2 + dense) / MULTIPLY_RATE

    @property
    def _dense(self) -> bool:
        return self.options.recipe.subject is Subject.DENSE

    def run(self, workspace: Path) -> Combined:
        """Raises LoratoolsError: values cannot be read, are not finite, or do not fit into their dtype."""
        import numpy as np

        from loratools.linalg.factors import difference_norm
        from loratools.linalg.skinny_svd import rounding_norm, sum_norm, weighted_sum

        read: dict[tuple[int, str], str] = {}
        pairs = []
        for part in self.parts:
            (A, _, A_root), (B, _, B_root) = read_matrix(part.pair.A), read_matrix(part.pair.B)
            read |= {(part.place, part.pair.A.name): A_root, (part.place, part.pair.B.name): B_root}
            pairs.append((A, B))
        exact = weighted_sum([(part.factor, pair) for part, pair in zip(self.parts, pairs, strict=True)])
        made = _MAKE[self.options.recipe.subject](self, exact, pairs)
        A_stored, A_root = write_matrix(workspace, self.A, made.A)
        B_stored, B_root = write_matrix(workspace, self.B, made.B)
        stored = A_stored, B_stored
        decomposed = self.options.recipe.truncates and "float64" in (self.A.dtype, self.B.dtype)
        if made.left_out is None or decomposed:  # and so rounded no more than the decomposition itself
            missing = difference_norm(exact, stored)
        else:  # orthogonal to what rounding adds, but for its second order
            missing = math.hypot(made.left_out, rounding_norm((made.A, made.B), stored))
        norm, size = sum_norm(*exact), float(np.linalg.norm(exact[0]) * np.linalg.norm(exact[1]))
        roots = Written(read, {self.A.key: A_root, self.B.key: B_root})
        return Combined(norm if norm > _CANCELLED * size else 0.0, missing, made.truncation, roots)

    def generator(self, place: int, side: str) -> np.random.Generator:
        """Of random numbers: its own for each module, adapter and side, so that no order matters."""
        import numpy as np

        return np.random.default_rng(module_seed(self.options.seed, f"{self.module}\0{place}\0{side}"))

    def merged(self, arrays: Sequence[Matrix], weights: Sequence[float], side: str) -> Matrix:
        """Arrays of one shape as one: pruned, weighted, and added or averaged where signs agree."""
        import numpy as np

        from loratools.linalg import task_arithmetic as arithmetic

        recipe, density = self.options.recipe, self.options.density
        if recipe.sparsity is Sparsity.SMALLEST and density is not None:
            arrays = [arithmetic.keep_largest(array, density) for array in arrays]
        if recipe.sparsity is Sparsity.RANDOM and density is not None:
            arrays = [
                arithmetic.keep_at_random(array, density, self.generator(part.place, side))
                for part, array in zip(self.parts, arrays, strict=True)
            ]
        stacked, factors = np.stack(arrays), np.asarray(weights)
        if not recipe.elects:
            return arithmetic.task_sum(stacked, factors)
        signs = arithmetic.MajoritySign(self.options.majority_sign_method)
        mask = arithmetic.majority_mask(stacked, signs)
        stacked *= factors[:, None, None]
        return arithmetic.disjoint_mean(stacked, mask)


_Pair = tuple[Matrix, Matrix]


@dataclass(frozen=True)
class _Made:
    """New factors. `left_out`: the norm of what they lack of the weighted sum, where that is known and
    orthogonal to them; `truncation`: as in `Combined`."""

    A: Matrix
    B: Matrix
    left_out: float | None = None
    truncation: float | None = None


def _of_sum(job: CombineJob, exact: _Pair, pairs: Sequence[_Pair]) -> _Made:
    """The weighted sum itself, or its leading directions."""
    if not job.options.recipe.truncates:
        return _Made(*exact, left_out=0.0)
    from loratools.linalg.skinny_svd import product_svd

    found = product_svd(*exact)
    return _Made(*found.folded(job.rank), left_out=found.beyond(job.rank))


def _of_factors(job: CombineJob, exact: _Pair, pairs: Sequence[_Pair]) -> _Made:
    """A and B each merged by itself, with the roots of the factors as weights and the sign on A."""
    factors = [part.factor for part in job.parts]
    roots = [math.sqrt(abs(factor)) for factor in factors]
    signed = [math.copysign(root, factor) for root, factor in zip(roots, factors, strict=True)]
    A = job.merged([A for A, _ in pairs], signed, "A")
    return _Made(A, job.merged([B for _, B in pairs], roots, "B"))


def _of_dense(job: CombineJob, exact: _Pair, pairs: Sequence[_Pair]) -> _Made:
    """The dense updates merged, and the result truncated with a certificate."""
    import torch

    from loratools.linalg.factors import fold
    from loratools.linalg.skinny_svd import padded
    from loratools.linalg.svd import truncated_svd

    deltas = [part.pair.scaling * (B @ A) for part, (A, B) in zip(job.parts, pairs, strict=True)]
    merged = job.merged(deltas, [part.weight for part in job.parts], "delta")
    seed = module_seed(job.options.seed, job.module)
    found = truncated_svd(torch.from_numpy(merged), rank=job.rank, seed=seed)
    A, B = fold(found.U.numpy(), found.S.numpy(), found.Vh.numpy())
    A, B = padded(A, B, job.rank)  # a merged matrix may be zero
    return _Made(A, B, truncation=found.certificate.residual)


_MAKE: dict[Subject, Callable[[CombineJob, _Pair, Sequence[_Pair]], _Made]] = {
    Subject.SUM: _of_sum,
    Subject.FACTORS: _of_factors,
    Subject.DENSE: _of_dense,
}
