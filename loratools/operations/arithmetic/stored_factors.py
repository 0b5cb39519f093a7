"""Factors between files and arithmetic: read as float64 matrices and hashed, rounded once and written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loratools.adapters.peft_write import WEIGHTS
from loratools.adapters.values import finite_float64
from loratools.checkpoints.checkpoint import Checkpoint
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.parts import Entry, PartWriter, SafetensorsLayout
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import RawTensor, TensorSpec
from loratools.errors import LoratoolsError
from loratools.operations.precision import Stored, rounded, widened
from loratools.operations.rewrite_record import tensor_root

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
else:
    Matrix = Any

__all__ = [
    "Matrix",
    "Slot",
    "Written",
    "copy_tensor",
    "read_matrix",
    "slots_of",
    "write_matrix",
    "write_raw",
]

_PIECE = 4 * 2**20


@dataclass(frozen=True)
class Slot:
    """Where a tensor of the output stands in its file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Written:
    """Hashes: of what was read, by the adapter's place among the inputs and the key in it, and of what was
    written, by the key in the output."""

    read: Mapping[tuple[int, str], str]
    written: Mapping[str, str]

    @classmethod
    def all(cls, each: Iterable[Written]) -> Written:
        """Those of many jobs together."""
        read: dict[tuple[int, str], str] = {}
        written: dict[str, str] = {}
        for one in each:
            read.update(one.read)
            written.update(one.written)
        return cls(read, written)

    def of(self, place: int, opened: Checkpoint) -> dict[str, str]:
        """The hashes of all tensors of one input; what no job read is read for its hash alone."""
        return {key: self.read.get((place, key)) or tensor_root(opened[key]) for key in opened}


def slots_of(layout: SafetensorsLayout, entries: Iterable[Entry]) -> Mapping[str, Slot]:
    """The places of a layout's tensors, by key."""
    return {key: Slot(key, dtype, shape, layout.offset(key)) for key, dtype, shape in entries}


def read_matrix(spec: TensorSpec) -> tuple[Matrix, RawTensor, str]:
    """A factor as a float64 matrix (rows, all other axes in one), as it was stored, and its hash.

    Raises:
        LoratoolsError: the file cannot be read, or values are not finite.
    """
    with TensorReader(spec) as reader:
        raw = reader.read(0, spec.rows)
    hasher = TensorHasher()
    hasher.update(raw.buffer)
    return finite_float64(raw).reshape(spec.rows, -1), raw, hasher.root()


def write_matrix(folder: Path, slot: Slot, values: Matrix) -> tuple[Matrix, str]:
    """Rounds once into the slot's dtype and writes.

    Returns:
        What was stored, as float64 in the shape of `values`, and its hash.

    Raises:
        LoratoolsError: values are too large for the dtype; the disk refuses something.
    """
    import numpy as np

    written: Stored = np.ascontiguousarray(rounded(values, slot.dtype))
    back = widened(written, slot.dtype, "float64").astype(np.float64, copy=False)
    if not np.isfinite(back).all():
        raise LoratoolsError(
            f"the values do not fit into {slot.dtype}",
            tensor=slot.key,
            hint="save the adapter in float32 or bfloat16 first",
        )
    return back, write_raw(folder, slot, written.reshape(-1).view(np.uint8).data)


def write_raw(folder: Path, slot: Slot, data: bytes | bytearray | memoryview) -> str:
    """Writes a whole tensor's bytes; returns their hash."""
    hasher = TensorHasher()
    hasher.update(data)
    with PartWriter(folder / WEIGHTS) as writer:
        writer.write(slot.offset, data)
    return hasher.root()


def copy_tensor(folder: Path, slot: Slot, spec: TensorSpec) -> str:
    """Writes a tensor as it is, in pieces, and returns its hash, which is that of the source too.

    Raises:
        LoratoolsError: it cannot be read or written.
    """
    hasher, offset = TensorHasher(), slot.offset
    step = max(1, min(spec.rows, _PIECE // max(1, spec.row_bytes)))
    with TensorReader(spec) as reader, PartWriter(folder / WEIGHTS) as writer:
        for first in range(0, spec.rows, step):
            piece = reader.read(first, min(step, spec.rows - first)).buffer
            hasher.update(piece)
            writer.write(offset, piece)
            offset += piece.nbytes
    return hasher.root()
