"""The job of a merge: one tensor of the output, from the base's rows and the updates that go to it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.adapters.update import Update, foundation, rows_of_block
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.engine.device import Kind
from loratools.engine.lease import Lease
from loratools.engine.payoff import Work
from loratools.operations.evidence import Evidence, of_tensor
from loratools.operations.precision import (
    Rounding,
    Stored,
    Wide,
    arithmetic_dtype,
    rounded,
    widened,
)
from loratools.operations.rates import MERGE_RATE, MULTIPLY_RATE, UNDO_RATE
from loratools.operations.rounded import Rounder
from loratools.operations.staging import BLOCK_ELEMENTS
from loratools.operations.streaming import PART_BYTES, Rows, Source, Target, TensorFigures, blocks
from loratools.operations.tally import Tally

if TYPE_CHECKING:
    from loratools.linalg.stochastic import Draws
    from loratools.operations.undo.kept import Kept
    from loratools.operations.undo.recorder import Recorder


@dataclass(frozen=True)
class MergeJob:
    """Applies `updates`, in order and in wide arithmetic, to each block of rows, and rounds once.

    Without updates it converts a tensor into the target's dtype. `source` is None for a tensor that the base
    has not; where a replacement changes the shape, rows that the base lacks start as zeros.
    """

    source: TensorSpec | None
    target: TensorSpec
    updates: tuple[Update, ...] = ()
    keep: str | None = None
    """Where, below the output's folder, to put what an undo record needs of the tensor."""
    draws: Draws | None = None
    """Those of rounding by chance; None rounds to nearest."""

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def bytes(self) -> int:
        return self.target.bytes if self.source is None else self.source.bytes

    @property
    def memory(self) -> int:
        """Bytes held at most: a block as read, in wide numbers, and a product; and the updates' values."""
        elements = rows_of_block(self.target) * math.prod(self.target.shape[1:])
        wide = ITEM_BYTES[self.arithmetic]
        values = sum(update.memory(self.target) for update in self.updates)
        return values + elements * (2 * wide + 2 * ITEM_BYTES[self.target.dtype]) + 4 * PART_BYTES

    @property
    def cost(self) -> float:
        ranks = sum(update.rank or 0 for update in self.updates)
        kept = self.bytes / UNDO_RATE if self.keep is not None and self.updates else 0.0
        return self.bytes / MERGE_RATE + self.target.elements * ranks / MULTIPLY_RATE + kept

    @property
    def arithmetic(self) -> str:
        dtypes = [self.target.dtype] if self.source is None else [self.source.dtype, self.target.dtype]
        return arithmetic_dtype(*dtypes)

    @property
    def leaves(self) -> tuple[str, ...]:
        return () if self.keep is None else (self.keep,)

    def evidence(self, result: TensorFigures) -> Evidence:
        return of_tensor(result, self.source, self.target, keep=self.keep)

    def device_work(self, kind: Kind) -> Work | None:
        """None where a tensor is only converted; where draws decide or an undo record is kept, which are
        numpy's to the bit; and on Metal, which has no float64 for the figures or for float32 weights."""
        if not self.updates or self.draws is not None or self.keep is not None or kind is Kind.MPS:
            return None
        elements = self.target.elements
        products = float(sum(update.rank or 0 for update in self.updates)) * elements
        blocks = 1 + elements // BLOCK_ELEMENTS
        return Work(self.bytes + self.target.bytes, self.bytes + self.target.bytes, products, blocks)

    def run_on(self, lease: Lease, workspace: Path) -> TensorFigures:
        from loratools.operations.merge_on_device import merge_on

        return merge_on(self, lease, workspace)

    def run(self, workspace: Path) -> TensorFigures:
        try:
            with Target(self.target, workspace) as target:
                if self.source is None:
                    return self._stream(None, target, workspace)
                with Source(self.source) as source:
                    return self._stream(source, target, workspace)
        finally:
            for update in self.updates:  # a run holds what is merged just now, and not the whole adapter
                update.release()

    def _stream(self, source: Source | None, target: Target, workspace: Path) -> TensorFigures:
        rows = Rows(source, self.target, self.arithmetic, reuse=True)
        for place, update in enumerate(self.updates):
            update.prepare(rows.reader(foundation(self.updates[:place])), self.target)
        before = self.target.dtype if source is None else source.spec.dtype
        rounding = Rounding(self.name, before, self.target.dtype)
        rounder = Rounder(rounding, self.target, self.draws)
        tally = Tally(self.updates, before, self.target)
        recorder = self._recorder()
        plain = recorder is None and tally.plain
        for first, count in blocks(self.target):
            original, block = rows.next(first, count)
            block = self._applied(block, first, recorder)
            result, steps = rounder.round(block, original, first, whole=plain)
            for step in steps:
                tally.count(self._in_target_dtype(step.original, before, step.draws), step.result)
                if self.updates:
                    tally.add(step)
                if recorder is not None:
                    recorder.add(step)
            target.write(result.data)
        rounding.refuse_overflow()
        return TensorFigures(
            self.name,
            source_root=None if source is None else source.root(),
            root=target.root(),
            changed=tally.changed,
            norm=tally.norm,
            rounding_error=tally.rounding_error,
            nonfinite=rounding.nonfinite,
            source_name=None if self.source is None else self.source.name,
            undo=self._kept(recorder, workspace),
        )

    def _in_target_dtype(self, original: Stored, dtype: str, drawn: Stored | None) -> Stored:
        """The base's rows as they would be written if nothing were added."""
        if dtype == self.target.dtype:
            return original
        drawn = None if drawn is None else drawn[: len(original)]
        return rounded(widened(original, dtype, self.arithmetic), self.target.dtype, drawn)

    def _applied(self, block: Wide, first: int, recorder: Recorder | None) -> Wide:
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is counted where it is rounded
            if recorder is not None:
                return recorder.apply(self.updates, block, first)
            for update in self.updates:
                block = update.apply(block, first)
            return block

    def _recorder(self) -> Recorder | None:
        if self.keep is None or self.source is None:
            return None
        from loratools.operations.undo.kept import Keeping
        from loratools.operations.undo.recorder import Recorder, how_to_keep

        if how_to_keep(self.source, self.target, self.updates) is not Keeping.INTERVAL:
            return None
        return Recorder(self.updates, self.target, self.arithmetic)

    def _kept(self, recorder: Recorder | None, workspace: Path) -> Kept | None:
        if self.keep is None or self.source is None:
            return None
        from loratools.operations.undo.recorder import keep_whole

        if recorder is not None:
            return recorder.finish(workspace / self.keep, self.keep)
        return keep_whole(self.source, workspace / self.keep, self.keep)
