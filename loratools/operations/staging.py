"""Two host buffers used in turn: while the one is on its way to or from a device, the other is worked on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from loratools.checkpoints.hashing import TensorHasher
from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec
from loratools.engine.lease import Lease

if TYPE_CHECKING:
    import torch

__all__ = ["BLOCK_ELEMENTS", "Incoming", "Stage", "rows_at_once"]

BLOCK_ELEMENTS = 2**23
"""Elements of a block on a device: 32 MiB of float32, so that starting a transfer is little beside it."""


def rows_at_once(spec: TensorSpec, lease: Lease) -> int:
    """Rows of a block on a device; fixed by shape alone, unless memory ran out."""
    columns = max(1, spec.elements // max(1, spec.rows))
    return max(1, min(spec.rows, BLOCK_ELEMENTS // lease.divisor // columns))


class Stage:
    """The buffers, each of `size` bytes.

    Args:
        lease: what copies from and to them.
    """

    def __init__(self, lease: Lease, size: int) -> None:
        self._lease = lease
        self._buffers = [lease.buffer(max(1, size)) for _ in range(2)]
        self._free: list[Callable[[], None] | None] = [None, None]
        self._turn = 0

    def next(self) -> torch.Tensor:
        """The other buffer, (size,) uint8, once what was last copied from or to it is there."""
        self._turn = 1 - self._turn
        wait = self._free[self._turn]
        if wait is not None:
            wait()
        return self._buffers[self._turn]

    def sent(self) -> Callable[[], None]:
        """Notes that copies of the current buffer were enqueued; gives what waits for them."""
        mark = self._lease.mark()
        self._free[self._turn] = mark
        return mark


class Incoming:
    """Rows of a stored tensor, read in order, hashed, and sent to a device; hashing runs beside the copy."""

    def __init__(self, spec: TensorSpec, lease: Lease, rows: int) -> None:
        self.spec = spec
        self._lease, self._rows = lease, rows
        self._stage = Stage(lease, rows * spec.row_bytes)
        self._reader = TensorReader(spec)
        self._hasher = TensorHasher()
        self._next = 0

    def next(self, count: int) -> torch.Tensor:
        """The next rows (count, ...) as stored, on the device; a scalar is one row."""
        buffer = self._stage.next()[: count * self.spec.row_bytes]
        raw = self._reader.read(self._next, count, into=buffer.numpy().data)
        sent = self._lease.up(raw.torch().reshape(count, *self.spec.shape[1:]))
        self._stage.sent()
        self._hasher.update(raw.buffer)
        self._next += count
        return sent

    def peek(self, first: int, count: int) -> torch.Tensor:
        """Any rows, not hashed: for a first pass."""
        raw = self._reader.read(first, count)
        return raw.torch().reshape(count, *self.spec.shape[1:]).to(self._lease.device)

    def root(self) -> str:
        """The hash of the whole tensor; rows that nobody asked for are read for it."""
        while self._next < self.spec.rows:
            count = min(self._rows, self.spec.rows - self._next)
            self._hasher.update(self._reader.read(self._next, count).buffer)
            self._next += count
        return self._hasher.root()

    def close(self) -> None:
        self._reader.close()
