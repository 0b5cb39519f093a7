"""How far one tensor of tuned lies from base, and from base + adapter, in float64."""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from loratools.adapters.update import Update, foundation, rows_of_block
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec
from loratools.operations.precision import Wide, stored, widened
from loratools.operations.rates import MULTIPLY_RATE, READ_RATE
from loratools.operations.streaming import Rows, Source, blocks

__all__ = ["Apart", "DistanceJob"]

ARITHMETIC = "float64"


@dataclass(frozen=True)
class Apart:
    """Frobenius norms of tuned - base and of tuned - (base + adapter)."""

    base: float
    adapted: float


@dataclass(frozen=True)
class DistanceJob:
    """Streams one tensor: the updates go to the base's rows as a merge applies them, but nothing is rounded.

    Args:
        name: of the parameter in memory.
        base: None where the base has it not; tuned: None where its counterpart is all zeros.
        rows: of base + adapter: a replacement may have more than the base.
        updates: in their order, as `bind` settled them.

    Rows that one of them lacks are taken as zeros.
    """

    name: str
    base: TensorSpec | None
    tuned: TensorSpec
    rows: int
    updates: tuple[Update, ...]

    @property
    def bytes(self) -> int:
        return self.tuned.bytes + (0 if self.base is None else self.base.bytes)

    @property
    def cost(self) -> float:
        ranks = sum(update.rank or 0 for update in self.updates)
        return self.bytes / READ_RATE + self.tuned.elements * ranks / MULTIPLY_RATE

    @property
    def memory(self) -> int:
        """Bytes held at most, beside the updates' own."""
        span = self._span
        return 5 * 8 * rows_of_block(span) * math.prod(span.shape[1:])

    def run(self, workspace: Path) -> Apart:
        import numpy as np

        squares = [0.0, 0.0]
        with ExitStack() as stack:
            source = None if self.base is None else stack.enter_context(Source(self.base))
            goal = stack.enter_context(TensorReader(self.tuned))
            rows = Rows(source, self._span, ARITHMETIC)
            for place, update in enumerate(self.updates):
                update.prepare(rows.reader(foundation(self.updates[:place])), self._merged)
            for first, count in blocks(self._span):
                tuned = self._tuned(goal, first, count)
                _, block = rows.next(first, count)
                before = block.copy()
                with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is not finite, and told
                    for place, values in enumerate((before, self._adapted(block, first))):
                        values -= tuned
                        squares[place] += float(np.vdot(values, values))
        return Apart(*map(math.sqrt, squares))

    @property
    def _merged(self) -> TensorSpec:
        """What base + adapter is."""
        shape = (self.rows, *self.tuned.shape[1:]) if self.tuned.shape else ()
        return replace(self.base or self.tuned, shape=shape)

    @property
    def _span(self) -> TensorSpec:
        """As many rows as the longest of the three has."""
        if not self.tuned.shape:
            return self.tuned
        longest = max(self.rows, self.tuned.rows, 0 if self.base is None else self.base.rows)
        return replace(self.tuned, shape=(longest, *self.tuned.shape[1:]))

    def _adapted(self, block: Wide, first: int) -> Wide:
        """The block with the updates, in place where they allow it, and zeros where base + adapter ends."""
        import numpy as np

        inside = max(0, min(len(block), self.rows - first))
        part = block[:inside]
        for update in self.updates if inside else ():
            part = update.apply(part, first)
        if inside == len(block):
            return part
        return np.concatenate([part, np.zeros_like(block[inside:])])

    def _tuned(self, reader: TensorReader, first: int, count: int) -> Wide:
        import numpy as np

        known = max(0, min(count, self.tuned.rows - first))
        raw = reader.read(first if known else 0, known)
        values = widened(stored(raw), self.tuned.dtype, ARITHMETIC)
        if known == count:
            return values
        return np.concatenate([values, np.zeros((count - known, *values.shape[1:]))])
