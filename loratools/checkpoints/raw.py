"""Positioned reads of a tensor's bytes, in blocks of rows, into reused buffers; never a memory map.

A file that shrinks while it is read is then an error with a name, not a dead process.
"""

from __future__ import annotations

import contextlib
import zlib
from types import TracebackType

from loratools.checkpoints import system
from loratools.checkpoints.files import again, close_handle, open_regular, read_into
from loratools.checkpoints.spec import ITEM_BYTES, RawTensor, Storage, TensorSpec
from loratools.checkpoints.strided import StridedLayout
from loratools.errors import LoratoolsError

_CHUNK_BYTES = 4 * 2**20

_intact: set[tuple[int, int, int, int, int]] = set()
"""Storages whose CRC held in this process: (device, inode, size, mtime, offset). Never holds a failure."""


class TensorReader:
    """One handle on one tensor: opened once, read block by block, closed. Not shared between threads.

    The first reader of a torch storage streams it once to check its CRC-32, so a flipped bit in a torch file
    is an error (torch itself loads it in silence); later readers in the process trust that.

    Raises:
        LoratoolsError: the dtype cannot be read, the file cannot be opened or read, it ends before the tensor
            does, or its bytes are not those that were written.
    """

    def __init__(self, spec: TensorSpec) -> None:
        if spec.dtype not in ITEM_BYTES:
            raise LoratoolsError(
                f"{spec.dtype} values cannot be read",
                file=spec.file,
                tensor=spec.name,
                hint="use an unquantised copy",
            )
        self.spec = spec
        self._layout = None if spec.strides is None else StridedLayout.of(spec)
        self._span: tuple[range, bytearray] | None = None
        try:
            self._handle = open_regular(spec.file)
        except OSError as error:
            raise self._error(f"cannot open: {error.strerror}") from error
        if spec.storage is not None:
            try:
                self._check_crc(spec.storage)
            except BaseException:
                self.close()
                raise

    def read(self, first: int, count: int, *, into: bytearray | memoryview | None = None) -> RawTensor:
        """Rows `first:first + count`, row-major, in `into` (large enough) or in a buffer of their own."""
        if not 0 <= first <= first + count <= self.spec.rows:
            raise ValueError(f"rows {first}:{first + count} of a tensor of {self.spec.rows}")
        size = count * self.spec.row_bytes
        buffer = memoryview(bytearray(size) if into is None else into).cast("B")[:size]
        if len(buffer) < size:
            raise ValueError(f"a buffer of {len(buffer)} bytes cannot hold {size}")
        if self._layout is None:
            self._fill(buffer, self.spec.offset + first * self.spec.row_bytes)
        elif size:
            self._gather(self._layout, first, count, buffer)
        return RawTensor(self.spec, buffer, first, count)

    def _gather(self, layout: StridedLayout, first: int, count: int, buffer: memoryview) -> None:
        """Reads the span of the file that the rows lie in, and picks their elements from it, row-major."""
        span = layout.span(first, count)
        if self._span is None or self._span[0] != span:
            held = bytearray(len(span))
            self._fill(memoryview(held), self.spec.offset + span.start)
            self._span = (span, held)
        layout.pick(self._span[1], span, first, count, buffer)

    def _fill(self, buffer: memoryview, offset: int) -> None:
        try:
            got = read_into(self._handle, buffer, offset)
        except OSError as error:
            raise self._error(f"cannot read: {error.strerror}") from error
        if got < len(buffer):
            raise self._error("the file ends before the tensor does")

    def _check_crc(self, storage: Storage) -> None:
        try:
            status = again(system.calls.fstat, self._handle)
        except OSError as error:
            raise self._error(f"cannot read: {error.strerror}") from error
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, storage.offset)
        if key in _intact:
            return
        crc = 0
        scratch = memoryview(bytearray(min(_CHUNK_BYTES, storage.bytes)))
        for done in range(0, storage.bytes, _CHUNK_BYTES):
            piece = scratch[: storage.bytes - done]
            self._fill(piece, storage.offset + done)
            crc = zlib.crc32(piece, crc)
        if crc != storage.crc32:
            raise self._error("damaged: its bytes do not have the checksum they were written with")
        _intact.add(key)

    def _error(self, message: str) -> LoratoolsError:
        return LoratoolsError(message, file=self.spec.file, tensor=self.spec.name)

    def close(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            with contextlib.suppress(OSError):  # nothing was written that could be lost
                close_handle(handle)

    def __enter__(self) -> TensorReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
