"""The job of `verify`: one tensor read once, in blocks, hashed and looked through for what is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from loratools.adapters.update import rows_of_block
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.rates import READ_RATE
from loratools.operations.rewrite_layout import readable

__all__ = ["Seen", "TensorJob"]

PIECE_BYTES = 2**20
"""Bytes that are read, looked at and hashed at a time: they stay in the cache in between."""


@dataclass(frozen=True)
class Seen:
    """What reading a tensor told: its root, how many elements are not finite (None where its dtype has no
    arithmetic here), or why it could not be read."""

    root: str | None
    nonfinite: int | None = None
    error: LoratoolsError | None = None


@dataclass(frozen=True)
class TensorJob:
    """Reads one tensor of a reference, or of one of its undo records, which `part` names; what is wrong with
    it is a result, not a failure. `numbers`: whether its elements have to be finite."""

    reference: str
    part: str
    spec: TensorSpec
    numbers: bool = True

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def bytes(self) -> int:
        return self.spec.bytes

    @property
    def memory(self) -> int:
        return 2 * PIECE_BYTES

    @property
    def cost(self) -> float:
        return self.bytes / READ_RATE

    def run(self, workspace: Path) -> Seen:
        try:
            return self._read()
        except LoratoolsError as error:
            return Seen(None, error=error)

    def _read(self) -> Seen:
        from loratools.linalg.finite import NonFinite

        spec = _flat(readable(self.spec))
        step = rows_of_block(spec) if spec.strides else PIECE_BYTES // ITEM_BYTES[spec.dtype]
        buffer = bytearray(max(1, min(step, spec.rows) * spec.row_bytes))
        finite = NonFinite(spec.dtype, len(buffer)) if self.numbers and NonFinite.knows(spec.dtype) else None
        hasher = TensorHasher()
        with TensorReader(spec) as reader:
            for first, count in _steps(spec.rows, step):
                block = reader.read(first, count, into=buffer).buffer
                hasher.update(block)
                if finite is not None:
                    finite.look(block)
        known = finite is not None or self.spec.dtype in ITEM_BYTES
        return Seen(hasher.root(), (finite.count if finite is not None else 0) if known else None)


def _flat(spec: TensorSpec) -> TensorSpec:
    """The same bytes as one long axis, so that a block has the size that is wanted, whatever the shape."""
    return spec if spec.strides else replace(spec, shape=(spec.elements,))


def _steps(rows: int, step: int) -> Iterator[tuple[int, int]]:
    for first in range(0, rows, step):
        yield first, min(step, rows - first)
