"""The job of one matrix: base and tuned are read once, and all is told that is asked of their difference.

What it does is `delta_work`, which imports torch: only where the job runs is it imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.adapters.lowrank import LowRank
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE

if TYPE_CHECKING:
    from loratools.operations.analysis.delta_work import DeltaFacts

__all__ = ["DeltaJob"]

_PASSES = {False: 8, True: 24}
"""Passes over the matrix, without and with amplification, behind what a job costs."""


@dataclass(frozen=True)
class DeltaJob:
    """Analyses tuned - base of one linear layer.

    `transposed`: the weight is stored (in, out). `adapters` are the low-rank updates of it, by the references
    of their adapters. `failure_probability` bounds the chance that any figure's bound is too small.
    """

    name: str
    base: TensorSpec
    tuned: TensorSpec
    transposed: bool
    ranks: tuple[int, ...]
    """The asked ones, and those of the adapters."""
    asked: tuple[int, ...]
    amplification: bool
    full: bool
    adapters: tuple[tuple[str, LowRank], ...]
    seed: int
    failure_probability: float
    noise_probability: float

    @property
    def bytes(self) -> int:
        return self.base.bytes + self.tuned.bytes

    @property
    def memory(self) -> int:
        """Both sides as stored, the delta in its arithmetic's dtype, a Krylov space or LAPACK's copies."""
        item = 4 if max(ITEM_BYTES[self.base.dtype], ITEM_BYTES[self.tuned.dtype]) == 2 else 8
        elements = self.tuned.elements
        work = 12 * (max(self.ranks) + 32) * sum(self.tuned.shape) * 8
        if self.full or self.smaller_side < 640:
            work = max(work, 4 * 8 * elements)
        return self.bytes + 2 * item * elements + work

    @property
    def cost(self) -> float:
        width = min(self.smaller_side, max(self.ranks) + 8)
        products = _PASSES[self.amplification] * 2 * self.tuned.elements * width
        return self.bytes / READ_RATE + products / MULTIPLY_RATE

    @property
    def smaller_side(self) -> int:
        return min(self.tuned.shape)

    def run(self, workspace: Path) -> DeltaFacts:
        from loratools.operations.analysis.delta_work import analysed

        return analysed(self)
