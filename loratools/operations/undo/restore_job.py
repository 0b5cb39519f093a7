"""The job of an exact unmerge: one tensor of the base, from the merged rows and what the records kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratools.adapters.update import rows_of_block
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.evidence import Evidence, of_tensor
from loratools.operations.precision import Stored, arithmetic_dtype, differing, stored
from loratools.operations.rates import COPY_RATE, RESTORE_RATE
from loratools.operations.rewrite_layout import readable
from loratools.operations.rewrite_record import tensor_root
from loratools.operations.seeds import draws_of
from loratools.operations.streaming import PART_BYTES, Source, Target, TensorFigures, blocks
from loratools.operations.undo.record import BaseTensor, Piece
from loratools.operations.undo.restorer import Restorer
from loratools.operations.undo.steps import Added, Product, Scaled, Step, Steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["RestoreJob", "Taken"]


@dataclass(frozen=True)
class Taken:
    """One merge to be taken off a tensor: what the tensor was before, and what the record holds of it.

    `seed` is that of rounding by chance, None where the merge rounded to nearest.
    """

    tensor: BaseTensor
    record: Path
    pieces: Mapping[str, Piece]
    seed: int | None = None

    def restorer(self) -> Restorer:
        """
        Raises:
            LoratoolsError: the record is damaged.
        """
        import numpy as np

        tensor = self.tensor
        data = self.pieces[f"tensor/{tensor.name}"].read()
        packed, item = -(-tensor.bits // 8), ITEM_BYTES[tensor.dtype]
        gaps = len(data) - packed - tensor.apart * item
        if gaps not in (4 * tensor.apart, 8 * tensor.apart):
            raise self._damaged()
        bits = np.unpackbits(np.frombuffer(data, np.uint8, packed))[: tensor.bits]
        width = "<u4" if gaps == 4 * tensor.apart else "<u8"
        places = np.cumsum(np.frombuffer(data, width, tensor.apart, packed).astype(np.int64))
        dtype = "uint16" if tensor.dtype == "bfloat16" else tensor.dtype
        values: Stored = np.frombuffer(data, dtype, tensor.apart, packed + gaps)
        if tensor.apart and not 0 <= int(places.min()) <= int(places[-1]) < math.prod(tensor.shape):
            raise self._damaged()
        rows = tensor.shape[0]
        columns = max(1, math.prod(tensor.shape) // max(1, rows))
        try:
            steps = Steps([_step(self.pieces, step, rows, columns) for step in tensor.steps])
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged() from error
        draws = None if self.seed is None else draws_of(self.seed, tensor.name)
        return Restorer(steps, tensor.dtype, columns, bits=bits, places=places, values=values, draws=draws)

    def whole(self) -> TensorSpec:
        """Where the record holds the tensor as it was. Raises LoratoolsError where it does not."""
        tensor = self.tensor
        piece = self.pieces[f"tensor/{tensor.name}"].spec
        size = math.prod(tensor.shape) * ITEM_BYTES.get(tensor.dtype, 0)
        if tensor.dtype in ITEM_BYTES and piece.bytes != size:
            raise self._damaged()
        return TensorSpec(tensor.name, tensor.dtype, tensor.shape, piece.bytes, piece.file, piece.offset)

    def _damaged(self) -> LoratoolsError:
        return LoratoolsError(
            "the undo record does not fit this tensor", file=self.record, tensor=self.tensor.name
        )


@dataclass(frozen=True)
class RestoreJob:
    """Takes merges off a tensor, the last first, and checks that what comes out is the base's.

    Args:
        source: the tensor of the merged checkpoint; None where it is not there any more.
        expected: the hash that the last merge gave it.
        target: where the base's is written.
        taken: merges, the last first; those from before one that replaced the tensor are enough.
        allow_modified: a tensor that was changed since the merge is copied as it is.
    """

    source: TensorSpec | None
    expected: str
    target: TensorSpec
    taken: tuple[Taken, ...]
    allow_modified: bool

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def bytes(self) -> int:
        return self.target.bytes

    @property
    def memory(self) -> int:
        """Bytes held at most: a block as stored and in wide numbers, three times, and what was kept."""
        if self.target.dtype not in ITEM_BYTES:
            return 2 * rows_of_block(self.target) * self.target.row_bytes
        elements = rows_of_block(self.target) * math.prod(self.target.shape[1:])
        wide = ITEM_BYTES[arithmetic_dtype(self.target.dtype)]
        return elements * (4 * wide + 2 * ITEM_BYTES[self.target.dtype]) + 4 * PART_BYTES + self.bytes // 4

    @property
    def cost(self) -> float:
        merges = sum(one.tensor.how == "interval" for one in self.taken)
        return self.bytes / COPY_RATE + merges * self.bytes / RESTORE_RATE

    @property
    def leaves(self) -> tuple[str, ...]:
        return ()

    def evidence(self, result: TensorFigures) -> Evidence:
        return of_tensor(result, self.source, self.target)

    def run(self, workspace: Path) -> TensorFigures:
        root = None
        if self.source is not None and self.allow_modified:
            root = self._source_root()
            if root != self.expected:
                return self._copied(workspace, root)
        intervals = []
        start = self.source
        for one in reversed(self.taken):  # the oldest first: a replaced tensor starts from the record
            if one.tensor.how == "interval":
                intervals.append(one)
            elif one.tensor.how == "whole":
                start = one.whole()
                break
        if start is None:
            raise LoratoolsError("the merged checkpoint lacks this tensor", tensor=self.name)
        if intervals and (start.dtype, start.shape) != (self.target.dtype, self.target.shape):
            raise self._other_form()
        restorers = [one.restorer() for one in reversed(intervals)]
        changed = 0
        with Source(readable(start)) as source, Target(self.target, workspace) as target:
            for first, count in blocks(readable(self.target)):
                block = stored(source.read(first, count))
                rows = self._restored(block, restorers, first)
                if restorers:
                    changed += differing(rows, block)
                target.write(rows.data if rows.flags.c_contiguous else rows.tobytes())
            found = target.root()
            if start is self.source:
                root = source.root()
        if root is None and self.source is not None:
            root = self._source_root()
        if not all(restorer.finished() for restorer in restorers):
            found = ""
        modified = root is not None and root != self.expected
        return TensorFigures(
            self.name,
            source_root=root,
            root=found,
            changed=changed,
            off=self.target.elements if modified else 0,
            source_name=self.name,
            foreign=1 if modified else 0,
        )

    def _restored(self, rows: Stored, restorers: list[Restorer], first: int) -> Stored:
        """Some rows before the merges."""
        for restorer in restorers if len(rows) else ():
            try:
                rows = restorer.rows(rows, first)
            except ValueError as error:
                raise LoratoolsError(
                    "the undo record does not fit this tensor",
                    file=self.taken[0].record,
                    tensor=self.name,
                ) from error
        return rows

    def _other_form(self) -> LoratoolsError:
        return LoratoolsError(
            "this tensor was given another shape or dtype since the merge",
            file=None if self.source is None else self.source.file,
            tensor=self.name,
            hint="use the merged checkpoint as it was written",
        )

    def _source_root(self) -> str:
        assert self.source is not None
        return tensor_root(readable(self.source))

    def _copied(self, workspace: Path, root: str | None) -> TensorFigures:
        source = self.source
        if source is None or (source.dtype, source.shape) != (self.target.dtype, self.target.shape):
            raise self._other_form()
        hasher = TensorHasher()
        with TensorReader(readable(source)) as reader, Target(self.target, workspace) as target:
            for first, count in blocks(readable(self.target)):
                data = reader.read(first, count).buffer
                hasher.update(data)
                target.write(data)
            target.root()
        return TensorFigures(
            self.name,
            source_root=root,
            root=hasher.root(),
            off=self.target.elements,
            source_name=self.name,
            foreign=1,
        )


def _step(pieces: Mapping[str, Piece], step: Any, rows: int, columns: int) -> Step:
    """One step as the record holds it, checked against the tensor's shape."""
    kind = step["kind"]
    if kind == "product":
        A, B = _array(pieces, step["A"]), _array(pieces, step["B"])
        left, right = (A.T, B.T) if step["transposed"] else (B, A)
        if left.ndim != 2 or left.shape[0] != rows or right.shape != (left.shape[1], columns):
            raise ValueError("factors of another shape")
        return Product(left, right, float(step["scaling"]))
    if kind == "added":
        value = _array(pieces, step["value"])
        return Added(value.reshape(rows, columns), float(step["scaling"]))
    if kind == "scaled":
        factor, axis = _array(pieces, step["factor"]), step["axis"]
        if axis not in (0, 1) or factor.shape != ((rows, columns)[axis],):
            raise ValueError("factors of another shape")
        return Scaled(factor, axis)
    raise ValueError(f"no step {kind!r}")


def _array(pieces: Mapping[str, Piece], name: str) -> NDArray[np.floating[Any]]:
    """A tensor of the record, in float32 or float64. Raises LoratoolsError where it is damaged."""
    import numpy as np

    from loratools.operations.precision import widened

    data, spec = pieces[name].read(), pieces[name].spec
    dtype = "uint16" if spec.dtype == "bfloat16" else spec.dtype
    values: Stored = np.frombuffer(data, dtype).reshape(spec.shape)
    return widened(values, spec.dtype, "float64" if spec.dtype == "float64" else "float32")
