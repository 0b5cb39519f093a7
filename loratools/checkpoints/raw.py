"""Positioned reads of a tensor's bytes, in blocks of rows, into reused buffers; never a memory map.

A file that shrinks while it is read is then an error with a name, not a dead process.
"""

from __future__ import annotations

import os
from types import TracebackType

from loratools.checkpoints.spec import ITEM_BYTES, RawTensor, TensorSpec
from loratools.errors import LoratoolsError


class TensorReader:
    """One handle on one tensor: opened once, read block by block, closed. Not shared between threads.

    Raises:
        LoratoolsError: the dtype cannot be read, the file cannot be opened, or it ends before the tensor does.
    """

    def __init__(self, spec: TensorSpec) -> None:
        if spec.dtype not in ITEM_BYTES:
            raise LoratoolsError(
                f"{spec.dtype} values cannot be read", file=spec.file, tensor=spec.name, hint="use an unquantised copy"
            )
        self.spec = spec
        try:
            self._handle = open(spec.file, "rb", buffering=0)
        except OSError as error:
            raise LoratoolsError(
                f"cannot open: {error.strerror}", file=spec.file, tensor=spec.name
            ) from error

    def read(self, first: int, count: int, *, into: bytearray | memoryview | None = None) -> RawTensor:
        """Rows `first:first + count`, row-major, in `into` (at least that large) or in a buffer of their own."""
        size = count * self.spec.row_bytes
        buffer = memoryview(bytearray(size) if into is None else into).cast("B")[:size]
        if len(buffer) < size:
            raise ValueError(f"a buffer of {len(buffer)} bytes cannot hold {size}")
        self._fill(buffer, self.spec.offset + first * self.spec.row_bytes)
        return RawTensor(self.spec, buffer, first, count)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._handle.fileno(), [buffer[done:]], offset + done)
            except OSError as error:
                raise LoratoolsError(
                    f"cannot read: {error.strerror}", file=self.spec.file, tensor=self.spec.name
                ) from error
            if got == 0:
                raise LoratoolsError(
                    "the file ends before the tensor does", file=self.spec.file, tensor=self.spec.name
                )
            done += got

    def close(self) -> None:
        self._handle.close()

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
