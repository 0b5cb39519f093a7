"""What a merge keeps of one tensor, so that the base's can be had back bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.adapters.bias import Bias
from loratools.adapters.dora import Dora
from loratools.adapters.lowrank import LowRank
from loratools.adapters.update import Update
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import make_folder, write_bytes, write_pieces
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec
from loratools.linalg.packing import MOST_BITS, pack, widths
from loratools.linalg.predecessors import Predecessors, keys_of
from loratools.operations.precision import Stored, Wide, shift_of_middle, widened
from loratools.operations.rounded import Rounded
from loratools.operations.undo.kept import Keeping, Kept
from loratools.operations.undo.narrowing import AT_ONCE, Open, alone
from loratools.operations.undo.steps import Added, Product, Scaled, Step, Steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Recorder", "how_to_keep", "keep_whole", "steps_of"]

_INTERVALS = frozenset({"bfloat16", "float16", "float32"})
_COPY_BYTES = 4 * 2**20
_WAITING = 2**17
"""Elements that are open before they are looked at closer: many at a time cost less each."""


def how_to_keep(source: TensorSpec, target: TensorSpec, updates: Sequence[Update]) -> Keeping:
    """Whether a tensor can be had back from what it became."""
    alike = source.dtype == target.dtype and source.shape == target.shape and source.name == target.name
    known = all(isinstance(update, (LowRank, Bias, Dora)) for update in updates)
    fits = alike and known and source.dtype in _INTERVALS and len(source.shape) in (1, 2)
    return Keeping.INTERVAL if fits else Keeping.WHOLE


def steps_of(updates: Sequence[Update], shape: tuple[int, ...]) -> tuple[Step, ...]:
    """The updates as steps; DoRA's factors are not known yet."""
    import numpy as np

    steps: list[Step] = []
    for update in updates:
        if isinstance(update, Bias):
            steps.append(Added(update.value.array().reshape(shape[0], -1), update.scaling))
            continue
        product = update.direction if isinstance(update, Dora) else update
        if not isinstance(product, LowRank):
            raise TypeError(f"{update.kind} is no step")
        A, B = product.A.array(), product.B.array()
        left, right = (A.T, B.T) if product.transposed else (B, A)
        steps.append(Product(left, right, product.scaling))
        if isinstance(update, Dora):
            outputs = len(right.T) if product.transposed else len(left)
            steps.append(Scaled(np.full(outputs, np.nan), axis=1 if product.transposed else 0))
    return tuple(steps)


class Recorder:
    """Watches the blocks of one tensor while they are merged, in order, and keeps what rounding loses."""

    def __init__(self, updates: Sequence[Update], target: TensorSpec, arithmetic: str) -> None:
        self._steps = Steps(steps_of(updates, target.shape))
        self._dtype, self._arithmetic = target.dtype, arithmetic
        self._columns = max(1, target.elements // max(1, target.rows))
        self._bits: list[NDArray[np.uint8]] = []
        self._places: list[NDArray[np.int64]] = []
        self._values: list[Stored] = []
        self._open: list[Open] = []
        self._held: list[Stored] = []

    def apply(self, updates: Sequence[Update], block: Wide, first: int) -> Wide:
        """The updates applied; DoRA's factors are noted as they are used."""
        scalings = (step for step in self._steps.each if isinstance(step, Scaled))
        for update in updates:
            if not isinstance(update, Dora):
                block = update.apply(block, first)
                continue
            block, used = update.scaled(block, first)
            step = next(scalings)
            rows = slice(first, first + len(used)) if step.axis == 0 else slice(None)
            step.factor[rows] = used.astype(block.dtype)
        return block

    def add(self, rows: Rounded) -> None:
        """Some rows that were rounded."""
        import numpy as np

        shape = (len(rows.original), self._columns)
        before, y = rows.original.reshape(shape), rows.result.reshape(shape)
        drawn = None if rows.draws is None else rows.draws.reshape(shape)
        first = rows.first
        aside = self._aside(rows.error.reshape(shape), y, first, drawn)
        settled = alone(self._steps, self._dtype, before, y, np.abs(aside), first, drawn)
        places = np.flatnonzero(~settled)
        if not places.size:
            return
        held = before.ravel()[places]
        with np.errstate(all="ignore"):
            centre = widened(held, self._dtype, self._arithmetic)
            centre += aside.ravel()[places]
        self._open.append(
            Open(
                places + first * self._columns,
                y.ravel()[places],
                centre,
                None if drawn is None else drawn.ravel()[places],
            )
        )
        self._held.append(held)
        if sum(map(len, self._held)) >= _WAITING:
            self._look_closer()

    def finish(self, path: Path, part: str) -> Kept:
        """Writes the tensor's part: the bits, the gaps between positions, the values at these."""
        import numpy as np

        self._look_closer()
        bits = np.concatenate(self._bits) if self._bits else np.empty(0, np.uint8)
        places = np.concatenate(self._places) if self._places else np.empty(0, np.int64)
        gaps = np.diff(places, prepend=0)
        gaps = gaps.astype("<u4" if gaps.max(initial=0) < 2**32 else "<u8")
        values = b"".join(np.ascontiguousarray(held).tobytes() for held in self._values)
        with disk_errors(path):
            make_folder(path.parent)
            write_bytes(path, np.packbits(bits).tobytes() + gaps.tobytes() + values)
        factors = tuple(tuple(step.factor.tolist()) for step in self._steps.each if isinstance(step, Scaled))
        return Kept(Keeping.INTERVAL, part, len(bits), len(places), factors)

    def _aside(self, error: Wide, y: Stored, first: int, draws: Stored | None) -> Wide:
        """How far from the base's rows the middle of what became y lies, taken back through the steps."""
        import numpy as np

        scale = self._steps.scale(first, len(y), error.dtype)
        with np.errstate(all="ignore"):
            aside = error if draws is None else error + shift_of_middle(y, self._dtype, draws)
            return aside / scale if np.ndim(scale) else aside

    def _look_closer(self) -> None:
        """At the elements that are open, many at a time."""
        import numpy as np

        if not self._open:
            return
        open_, original = Open.joined(self._open), np.concatenate(self._held)
        self._open, self._held = [], []
        found = open_.predecessors(self._steps, self._dtype, self._columns)
        for start in range(0, len(original), AT_ONCE):
            part = slice(start, start + AT_ONCE)
            self._keep(original[part], found.part(part), open_.places[part])

    def _keep(self, original: Stored, found: Predecessors, places: NDArray[np.int64]) -> None:
        index = keys_of(original, self._dtype) - found.first
        width = widths(found.count)
        inside = (index >= 0) & (index < found.count) & (width <= MOST_BITS) & ~found.doubtful
        inside &= original.view(f"uint{8 * original.dtype.itemsize}") != _minus_zero(original)
        narrow = inside & (width > 0)
        if narrow.any():
            self._bits.append(pack(index[narrow], width[narrow]))
        if not inside.all():
            self._places.append(places[~inside])
            self._values.append(original[~inside])


def _minus_zero(values: Stored) -> int:
    """The bits of the number whose key is another's too."""
    return 1 << (8 * values.dtype.itemsize - 1)


def keep_whole(source: TensorSpec, path: Path, part: str) -> Kept:
    """Writes all bytes of the base's tensor as its part."""
    step = max(1, _COPY_BYTES // max(1, source.row_bytes))
    starts = range(0, source.rows if source.bytes else 0, step)
    with TensorReader(source) as reader, disk_errors(path):
        make_folder(path.parent)
        write_pieces(path, (reader.read(at, min(step, source.rows - at)).buffer for at in starts))
    return Kept(Keeping.WHOLE, part)
