"""Writing safetensors files at known offsets: a layout from names, dtypes and shapes, then positioned writes.

The layout is a function of its entries and metadata alone, and is the one that the safetensors package itself
writes: larger element types first, then names, so that every tensor is aligned and there are no holes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

from loratools.checkpoints import system
from loratools.checkpoints.disk import disk_errors
from loratools.checkpoints.files import again, close_handle, open_handle, write_all
from loratools.checkpoints.flushing import allocate, begin_flush
from loratools.checkpoints.safetensors import BITS, DTYPES, HEADER_BYTES
from loratools.errors import LoratoolsError

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes-like: anything with a contiguous buffer, numpy arrays included."""

Entry: TypeAlias = tuple[str, str, tuple[int, ...]]
"""A tensor to be written: name, dtype (a key of `ITEM_BYTES` or the format's own word), shape."""

_WORDS = {dtype: word for word, dtype in DTYPES.items()}
"""The format's words for the dtypes that we name as numpy and torch do."""

_ORDER = (
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ",
    "F8_E5M2FNUZ", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
)  # fmt: skip
"""The package's own order of dtypes: data is laid out from the last of them up to the first."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's bytes stand: `offset` counts from the start of the file."""

    offset: int
    bytes: int


@dataclass(frozen=True)
class SafetensorsLayout:
    """A safetensors file before its data: the header's bytes, every tensor's place, and the file's size."""

    header: bytes
    places: Mapping[str, Place]
    size: int

    @classmethod
    def of(cls, entries: Iterable[Entry], metadata: Mapping[str, str] | None = None) -> SafetensorsLayout:
        """Lays tensors out; `metadata` goes into the header beside `"format": "pt"`, its keys sorted.

        Raises:
            LoratoolsError: a dtype that the format has no word for, or a header too long for the format.
            ValueError: a name that comes twice or is the format's own (a bug, not a user's error).
        """
        header: dict[str, object] = {
            "__metadata__": dict(sorted({**(metadata or {}), "format": "pt"}.items()))
        }
        spans: dict[str, tuple[int, int]] = {}
        end = 0
        for name, word, shape in _in_order(entries):
            if name in header:
                raise ValueError(f"{name} cannot be laid out twice")
            start, end = end, end + _bytes(name, word, shape)
            header[name] = {"dtype": word, "shape": list(shape), "data_offsets": [start, end]}
            spans[name] = (start, end)
        text = _header_text(header)
        data = 8 + len(text)
        places = {name: Place(data + start, stop - start) for name, (start, stop) in spans.items()}
        return cls(len(text).to_bytes(8, "little") + text, places, data + end)

    def offset(self, name: str) -> int:
        """Where the tensor's first byte stands, from the start of the file."""
        return self.places[name].offset

    def create(self, path: Path) -> None:
        """Creates the file with its header and at its full size, reserved where the file system can.

        Raises:
            LoratoolsError: the file exists, or the disk has no room for all of it.
        """
        with disk_errors(path, "create"):
            handle = open_handle(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try:
                allocate(handle, self.size)
                write_all(handle, memoryview(self.header), 0)
            finally:
                close_handle(handle)


class PartWriter:
    """Positioned writes into a file that a layout created. One handle, which threads may share.

    The file never grows: a write beyond its end is a ValueError (a bug, not a user's error).

    Raises:
        LoratoolsError: the file cannot be opened or written; names the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with disk_errors(path, "open"):
            self._handle = open_handle(path, os.O_RDWR | system.NO_LINK)
            try:
                self._size = again(system.calls.fstat, self._handle).st_size
            except BaseException:
                with suppress(OSError):  # the first error is the one to tell
                    close_handle(self._handle)
                raise

    def write(self, offset: int, data: Buffer) -> None:
        """Writes all of `data` at `offset`, in bytes from the start of the file."""
        view = memoryview(data)
        if not view.nbytes:
            return
        if offset < 0 or offset + view.nbytes > self._size:
            raise ValueError(
                f"{view.nbytes} bytes at {offset} do not fit into the {self._size} of {self.path}"
            )
        with disk_errors(self.path):
            write_all(self._handle, view.cast("B"), offset)

    def begin_flush(self, offset: int, size: int) -> None:
        """Lets the disk take these bytes, which were written; waits for nothing and never fails."""
        begin_flush(self._handle, offset, size)

    def close(self) -> None:
        if self._handle >= 0:
            handle, self._handle = self._handle, -1
            with disk_errors(self.path):
                close_handle(handle)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def write_at(path: Path, offset: int, data: Buffer) -> None:
    """One positioned write into a file that a layout created."""
    with PartWriter(path) as writer:
        writer.write(offset, data)


def write_safetensors(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...], Buffer]],
    metadata: Mapping[str, str] | None = None,
) -> SafetensorsLayout:
    """Writes a whole file of tensors that are in memory: name -> (dtype, shape, row-major bytes)."""
    layout = SafetensorsLayout.of(
        ((name, dtype, shape) for name, (dtype, shape, _) in tensors.items()), metadata
    )
    for name, (dtype, shape, data) in tensors.items():
        if memoryview(data).nbytes != layout.places[name].bytes:
            raise ValueError(f"{memoryview(data).nbytes} bytes are no {dtype} of shape {shape} ({name})")
    layout.create(path)
    with PartWriter(path) as writer:
        for name, place in layout.places.items():
            writer.write(place.offset, tensors[name][2])
    return layout


def stored_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes that a tensor takes in a safetensors file; `dtype` is ours or the format's own word."""
    return _bytes("", _WORDS.get(dtype, dtype), shape)


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    """The entries with the format's words for dtypes, in the order of their data."""
    worded = [(name, _WORDS.get(dtype, dtype), tuple(shape)) for name, dtype, shape in entries]
    return sorted(worded, key=lambda entry: (-_rank(entry[1]), entry[0]))


def _header_text(header: Mapping[str, object]) -> bytes:
    """The header's JSON, padded so that data begins at a multiple of 8 bytes."""
    try:
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise LoratoolsError("names or metadata hold half of a character, which UTF-8 cannot") from error
    text += b" " * (-len(text) % 8)
    if len(text) > HEADER_BYTES:
        raise LoratoolsError(
            f"a header of {len(text):,} bytes, above the format's {HEADER_BYTES:,}",
            hint="write more and smaller shards",
        )
    return text


def _rank(word: str) -> int:
    return _ORDER.index(word) if word in _ORDER else -1


def _bytes(name: str, word: str, shape: tuple[int, ...]) -> int:
    if word not in BITS or word not in _ORDER:
        raise LoratoolsError(f"safetensors has no dtype {word}", tensor=name or None)
    bits = BITS[word] * math.prod(shape)
    if bits % 8:
        raise LoratoolsError(
            f"a {word} tensor of shape {list(shape)} fills no whole bytes", tensor=name or None
        )
    return bits // 8
