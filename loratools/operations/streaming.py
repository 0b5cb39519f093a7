"""Streams of one tensor: its rows come from one file and go to another in blocks, hashed on the way.

Blocks have a size fixed by the shape of what is written, so that neither the machine nor the number of
workers can change a bit of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from loratools.adapters.update import Update, rows_of_block
from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.parts import Buffer, PartWriter
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import RawTensor, TensorSpec
from loratools.engine.kept import kept_array
from loratools.operations.evidence import Evidence, of_tensor
from loratools.operations.precision import Stored, Wide, stored, stored_dtype, widened
from loratools.operations.rates import COPY_RATE

if TYPE_CHECKING:
    from loratools.operations.undo.kept import Kept


def blocks(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    """(first, count) of the blocks of rows in which a tensor of this shape is streamed, in order."""
    if not spec.elements:
        return
    step = rows_of_block(spec)
    for first in range(0, spec.rows, step):
        yield first, min(step, spec.rows - first)


PART_BYTES = 512 * 2**10
"""Bytes of wide numbers at a time where temporaries come and go: they stay in the cache (measured)."""


_TO_DISK_BYTES = 8 * 2**20
"""Bytes that are written before the disk is told to take them: it works while the next are computed."""

_WORTH_BYTES = 2**20
"""The least that is worth the call, at a tensor's end."""


def parts(block: Wide, size: int | None = None) -> Iterator[slice]:
    """Slices of a block's rows, each of about `size` bytes (`PART_BYTES`) and at least one row."""
    step = max(1, (size or PART_BYTES) * len(block) // max(1, block.nbytes))
    for first in range(0, len(block), step):
        yield slice(first, min(first + step, len(block)))


class Source:
    """Rows of a tensor of the input, read in order, once, into one buffer, and hashed."""

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self._reader = TensorReader(spec)
        self._hasher = TensorHasher()
        self._buffer = bytearray()
        self._next = 0

    def read(self, first: int, count: int) -> RawTensor:
        """The next rows; valid until the next call."""
        if first != self._next:
            raise ValueError(f"row {first} of {self.spec.name} was asked for where {self._next} comes next")
        size = count * self.spec.row_bytes
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        block = self._reader.read(first, count, into=self._buffer)
        self._hasher.update(block.buffer)
        self._next += count
        return block

    def peek(self, first: int, count: int) -> RawTensor:
        """Any rows, in a buffer of their own and not hashed: for a first pass."""
        return self._reader.read(first, count)

    def root(self) -> str:
        """The hash of the whole tensor; rows that nobody asked for are read for it."""
        for first, count in blocks(self.spec):
            end = first + count
            if end > self._next:
                self.read(self._next, end - self._next)
        return self._hasher.root()

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()


class Target:
    """A tensor of the output, written in order at its final offset, and hashed while it is in the cache.

    Args:
        spec: what is written, `file` relative to `workspace`.
        workspace: the folder of the unpublished output, in which the file exists at its full size.
    """

    def __init__(self, spec: TensorSpec, workspace: Path) -> None:
        self.spec = spec
        self._writer = PartWriter(workspace / spec.file)
        self._hasher = TensorHasher()
        self._done = 0
        self._on_its_way = 0

    def write(self, data: Buffer) -> None:
        view = memoryview(data)
        self._writer.write(self.spec.offset + self._done, view)
        self._hasher.update(view)
        self._done += view.nbytes
        waiting = self._done - self._on_its_way
        if waiting >= (_TO_DISK_BYTES if self._done < self.spec.bytes else _WORTH_BYTES):
            self._writer.begin_flush(self.spec.offset + self._on_its_way, waiting)
            self._on_its_way = self._done

    def root(self) -> str:
        """The hash of what was written. Raises ValueError (a bug) unless that was all of the tensor."""
        if self._done != self.spec.bytes:
            raise ValueError(f"{self._done} of {self.spec.bytes} bytes of {self.spec.name} were written")
        return self._hasher.root()

    def __enter__(self) -> Target:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


class Rows:
    """Rows of the input in the arithmetic's dtype, padded where the output has more of them.

    Scalars are taken as one row. Where the shapes differ in more than rows, or there is no input, all rows
    are zeros: only a replacement, which does not look at them, can be meant. With `reuse`, a block is valid
    until the next one.
    """

    def __init__(
        self, source: Source | None, target: TensorSpec, arithmetic: str, *, reuse: bool = False
    ) -> None:
        self._source = source
        self._reuse = reuse
        self._columns = target.shape[1:]
        self._arithmetic = arithmetic
        self._dtype = target.dtype if source is None else source.spec.dtype
        fits = source is not None and source.spec.shape[1:] == target.shape[1:]
        self._available = source.spec.rows if fits and source is not None else 0

    def next(self, first: int, count: int) -> tuple[Stored, Wide]:
        """(the input's rows as stored, `count` rows in the arithmetic's dtype).

        The first may have fewer rows, and is valid until the next call; the second is free to be changed.
        """
        known = self._known(first, count)
        if known == 0 or self._source is None:
            return self._nothing(), self._zeros(count)
        original = stored(self._source.read(first, known))
        if known < count or not self._reuse:
            return original, self._padded(original, count)
        block = kept_array("block", original.shape, self._arithmetic)
        return original, widened(original, self._dtype, self._arithmetic, out=block)

    def reader(self, updates: tuple[Update, ...]) -> Callable[[int, int], Wide]:
        """Reads rows for a first pass, with `updates` applied."""

        def read(first: int, count: int) -> Wide:
            known = self._known(first, count)
            block = self._zeros(count)
            if known and self._source is not None:
                block = self._padded(stored(self._source.peek(first, known)), count)
            for update in updates:
                block = update.apply(block, first)
            return block

        return read

    def _known(self, first: int, count: int) -> int:
        return max(0, min(count, self._available - first))

    def _padded(self, original: Stored, count: int) -> Wide:
        block = widened(original, self._dtype, self._arithmetic)
        if len(block) == count:
            return block
        import numpy as np

        return np.concatenate([block, self._zeros(count - len(block))])

    def _zeros(self, count: int) -> Wide:
        import numpy as np

        return np.zeros((count, *self._columns), dtype=self._arithmetic)

    def _nothing(self) -> Stored:
        import numpy as np

        return np.empty((0, *self._columns), dtype=stored_dtype(self._dtype))


@dataclass(frozen=True, slots=True)
class TensorFigures:
    """What a job says of the tensor that it wrote.

    `source_root` is the hash of the input's tensor, None where there was none; `root` that of what was
    written; `changed` counts the elements that differ, bit by bit, from the input in the output's dtype;
    `norm` is the Frobenius norm of what was added, `rounding_error` that of what rounding made of it, over
    it. `nonfinite` counts elements that were NaN or infinite in the input already. `off` counts the elements
    that unmerging may not have restored, `largest_difference` bounds by how much; `foreign` counts those that
    no merge of these adapters can have made. `source_name` is what the input calls the tensor, `undo` what
    was kept of it for an undo record.
    """

    name: str
    source_root: str | None
    root: str
    changed: int = 0
    norm: float | None = None
    rounding_error: float | None = None
    nonfinite: int = 0
    off: int | None = None
    largest_difference: float | None = None
    foreign: int = 0
    source_name: str | None = None
    undo: Kept | None = None


@dataclass(frozen=True)
class CopyJob:
    """Copies a tensor's values, row by row. What is read is what is written, so one hash is that of both."""

    source: TensorSpec
    target: TensorSpec

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def bytes(self) -> int:
        return self.source.bytes

    @property
    def memory(self) -> int:
        return rows_of_block(self.target) * self.target.row_bytes

    @property
    def cost(self) -> float:
        return self.bytes / COPY_RATE

    @property
    def leaves(self) -> tuple[str, ...]:
        return ()

    def evidence(self, result: TensorFigures) -> Evidence:
        return of_tensor(result, self.source, self.target)

    def run(self, workspace: Path) -> TensorFigures:
        buffer = bytearray(self.memory)
        with TensorReader(self.source) as reader, Target(self.target, workspace) as target:
            for first, count in blocks(self.target):
                target.write(reader.read(first, count, into=buffer).buffer)
            root = target.root()
        return TensorFigures(self.name, source_root=root, root=root, source_name=self.source.name)
