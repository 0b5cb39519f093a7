"""Taking off what a merge added, and what can be known of the base from that: an interval for every element.

A merge computed W' = round(W + U + e) with |e| <= (r + 2) eps (|W| + |s||B||A|), so that W lies within half
a unit in the last place of W', plus |e|, of c = W' - U. Where that interval holds one number of the dtype, it
is W. Where it holds several, W is one of them, and the nearest to c is written.

A merge that rounded by chance is known by its draws: what became W' lies no farther from a point beside it,
and c is that point less U.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.adapters.bias import Bias
from loratools.adapters.lowrank import LowRank
from loratools.adapters.update import Update, rows_of_block
from loratools.checkpoints.raw import TensorReader
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
    differing,
    is_zero,
    largest_gap,
    least_gap,
    rounded,
    shift_of_middle,
    stored,
    widened,
)
from loratools.operations.rates import MULTIPLY_RATE, SUBTRACT_RATE
from loratools.operations.staging import BLOCK_ELEMENTS
from loratools.operations.streaming import PART_BYTES, Rows, Source, Target, TensorFigures, blocks, parts

if TYPE_CHECKING:
    from loratools.linalg.stochastic import Draws


@dataclass(frozen=True)
class SubtractJob:
    """Subtracts `updates` from each block of rows, as precisely as they were added, rounds once, and counts
    what may be off."""

    source: TensorSpec
    target: TensorSpec
    updates: tuple[Update, ...]
    draws: Draws | None = None
    """Those by which the merge rounded; None where it rounded to nearest."""

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def bytes(self) -> int:
        return self.source.bytes

    @property
    def memory(self) -> int:
        """Bytes held at most: a block as read, c, an update and its product; and the updates' values."""
        elements = rows_of_block(self.target) * math.prod(self.target.shape[1:])
        wide = ITEM_BYTES[arithmetic_dtype(self.target.dtype)]
        values = sum(update.memory(self.target) for update in self.updates)
        return values + elements * (3 * wide + ITEM_BYTES[self.target.dtype]) + 8 * PART_BYTES

    @property
    def cost(self) -> float:
        ranks = sum(update.rank or 0 for update in self.updates)
        return self.bytes / SUBTRACT_RATE + self.target.elements * ranks / MULTIPLY_RATE

    @property
    def leaves(self) -> tuple[str, ...]:
        return ()

    def evidence(self, result: TensorFigures) -> Evidence:
        return of_tensor(result, self.source, self.target)

    def device_work(self, kind: Kind) -> Work | None:
        """None where draws decide, and on Metal: as with `MergeJob`."""
        if self.draws is not None or kind is Kind.MPS:
            return None
        elements = self.target.elements
        products = float(sum(update.rank or 0 for update in self.updates)) * elements
        blocks = 1 + elements // BLOCK_ELEMENTS
        return Work(self.bytes + self.target.bytes, self.bytes + self.target.bytes, products, blocks)

    def run_on(self, lease: Lease, workspace: Path) -> TensorFigures:
        from loratools.operations.subtract_on_device import subtract_on

        return subtract_on(self, lease, workspace)

    def run(self, workspace: Path) -> TensorFigures:
        try:
            return self._subtract(workspace)
        finally:
            for update in self.updates:
                update.release()

    def _subtract(self, workspace: Path) -> TensorFigures:
        import numpy as np

        rounding = Rounding(self.name, self.target.dtype, self.target.dtype)
        doubt = _Doubt(self.target.dtype, self.updates, by_chance=self.draws is not None)
        changed = 0
        with Source(self.source) as source, Target(self.target, workspace) as target:
            rows = Rows(source, self.target, arithmetic_dtype(self.target.dtype))
            for first, count in blocks(self.target):
                merged, centre = _taken_off(rows, self.updates, first, count)
                self._to_middle(merged, centre, first)
                for part in parts(centre):
                    restored = rounding.round(centre[part], merged[part])
                    target.write(np.ascontiguousarray(restored).data)
                    changed += differing(restored, merged[part])
                    doubt.add(merged[part], centre[part], restored, first + part.start)
            rounding.refuse_overflow()
            return TensorFigures(
                self.name,
                source_root=source.root(),
                root=target.root(),
                changed=changed,
                norm=self.updates[0].norm() if len(self.updates) == 1 else None,
                nonfinite=rounding.nonfinite,
                off=doubt.off,
                largest_difference=doubt.largest,
                foreign=doubt.foreign,
            )

    def _to_middle(self, merged: Stored, centre: Wide, first: int) -> None:
        """Moves c from W' to the middle of what the draws made W' of; zeros are in the middle themselves."""
        if self.draws is None:
            return
        import numpy as np

        place = first * (self.target.elements // max(1, self.target.rows))
        drawn = self.draws.at(place, merged.size).reshape(merged.shape)
        with np.errstate(invalid="ignore"):
            shift = shift_of_middle(merged, self.target.dtype, drawn)
            centre += np.where(is_zero(merged), 0.0, shift).astype(centre.dtype)


def fits_as_source(value: TensorSpec, merged: TensorSpec, updates: tuple[Update, ...]) -> bool:
    """Whether headers let merging `updates` into `value` give `merged`."""
    alike = value.shape == merged.shape and value.floating and merged.floating
    return alike and all(update.subtractable for update in updates)


def may_have_been(value: TensorSpec, merged: TensorSpec, updates: tuple[Update, ...]) -> bool:
    """Whether merging `updates` into `value` can have given `merged`: every element lies in its interval.

    Raises:
        LoratoolsError: a file cannot be read.
    """
    if not fits_as_source(value, merged, updates):
        return False
    arithmetic = arithmetic_dtype(merged.dtype)
    doubt = _Doubt(merged.dtype, updates)
    with Source(merged) as source, TensorReader(value) as reader:
        rows = Rows(source, merged, arithmetic)
        for first, count in blocks(merged):
            after, centre = _taken_off(rows, updates, first, count)
            before = widened(stored(reader.read(first, count)), value.dtype, arithmetic)
            doubt.add(after, centre, rounded(before, merged.dtype), first)
            if doubt.foreign:
                return False
    return True


def _taken_off(rows: Rows, updates: tuple[Update, ...], first: int, count: int) -> tuple[Stored, Wide]:
    """(W' as stored, c): some rows of what was merged, and the same without the updates."""
    import numpy as np

    merged, centre = rows.next(first, count)
    with np.errstate(over="ignore", invalid="ignore"):  # who asked counts what comes of it
        for update in updates:
            centre -= update.apply(np.zeros_like(centre), first)
    return merged, centre


class _Doubt:
    """Counts elements whose interval holds another number than the one restored, or not even that."""

    def __init__(self, dtype: str, updates: tuple[Update, ...], *, by_chance: bool = False) -> None:

        self._by_chance = by_chance

        self.off = 0
        self.foreign = 0
        self.largest = 0.0
        self._dtype = dtype
        self._arithmetic = arithmetic_dtype(dtype)
        self._magnitudes = [magnitude(update, self._arithmetic) for update in updates]
        self._room = room(updates, self._arithmetic)

    def add(self, merged: Stored, centre: Wide, restored: Stored, first: int) -> None:
        """Some rows: W' as stored, c as computed, what was restored, and the number of the first row."""
        import numpy as np

        with np.errstate(over="ignore", invalid="ignore"):
            reach = np.abs(centre)
            half = largest_gap(merged, self._dtype) / 2
            if self._by_chance:  # what became zero lies up to a gap away on either side
                half[is_zero(merged)] *= 2
            reach += half
            for bound in self._magnitudes:
                reach += bound(first, len(centre))
            reach *= self._room
            reach += half  # W lies within this distance of c
            aside = np.abs(centre - widened(restored, self._dtype, self._arithmetic))
            doubtful = least_gap(restored, self._dtype) <= reach + aside
            outside = aside > reach
            doubtful |= outside
            doubtful |= ~np.isfinite(aside)
        count = int(np.count_nonzero(doubtful))
        if count:
            self.off += count
            self.foreign += int(np.count_nonzero(outside))
            most = (reach + aside)[doubtful]
            self.largest = max(self.largest, float(most[np.isfinite(most)].max(initial=0.0)))


def room(updates: tuple[Update, ...], arithmetic: str) -> float:
    """Units of rounding, times epsilon: of the merge, of the subtraction, and of the sums of a doubt."""
    import numpy as np

    terms = sum((update.rank or 1) + 2 for update in updates)
    return (2 * terms + 4) * float(np.finfo(arithmetic).eps)


Magnitude = Callable[[int, int], Wide]
"""`bound(first, count)`: an upper bound, element by element, of |s||B||A| in those rows."""


def magnitude(update: Update, arithmetic: str) -> Magnitude:
    """How large the terms are of what an update adds. Raises TypeError for one that does not only add."""
    rows, columns = sizes(update, arithmetic)
    if columns is None:
        return lambda first, count: rows[first : first + count]
    import numpy as np

    return lambda first, count: np.outer(rows[first : first + count], columns)


@singledispatch
def sizes(update: Update, arithmetic: str) -> tuple[Wide, Wide | None]:
    """The same as vectors (rows,) and (columns,), of which it is the product; rows alone for a bias."""
    raise TypeError(f"a {update.kind} update cannot be subtracted")


@sizes.register(LowRank)
def _(update: LowRank, arithmetic: str) -> tuple[Wide, Wide | None]:
    """By Cauchy and Schwarz: the norms of B's rows times those of A's columns."""
    import numpy as np

    of_outputs = np.linalg.norm(update.B.array().astype("float64"), axis=1)  # (out,)
    of_inputs = np.linalg.norm(update.A.array().astype("float64"), axis=0)  # (in,)
    rows, columns = (of_inputs, of_outputs) if update.transposed else (of_outputs, of_inputs)
    rows = (rows * abs(update.scaling)).astype(arithmetic)
    return rows, columns.astype(arithmetic)


@sizes.register(Bias)
def _(update: Bias, arithmetic: str) -> tuple[Wide, Wide | None]:
    import numpy as np

    return np.abs(update.value.array().astype(arithmetic) * update.scaling), None
