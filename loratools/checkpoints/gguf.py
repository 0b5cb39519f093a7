"""GGUF, as far as its header tells: enough to say what a file holds. Its weights are never read here.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, BinaryIO

from loratools.checkpoints.checkpoint import Checkpoint, Kind
from loratools.checkpoints.claims import check_name, check_shape, regular_file
from loratools.checkpoints.files import is_file, read_bytes, reading
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError

MAGIC = b"GGUF"

_MOST_ENTRIES = 200_000
"""Tensors, or entries of metadata: some hundred times those of any model."""

_MOST_ITEMS = 3_000_000
"""Strings that arrays of metadata hold together: each is stepped over on its own. Vocabularies and their
merges have up to a million."""

_TEXT_BYTES = 64_000_000
"""Bytes of the texts that are kept: all metadata but arrays."""

_MOST_DIMENSIONS = 4
"""ggml's own limit."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

_TYPES: dict[int, tuple[str, int, int]] = {
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 30: ("bfloat16", 1, 2), 28: ("float64", 1, 8),
    24: ("int8", 1, 1), 25: ("int16", 1, 2), 26: ("int32", 1, 4), 27: ("int64", 1, 8),
    2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22), 7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110), 12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292), 16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50), 20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136), 29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66), 39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}  # fmt: skip
"""ggml's tensor types: name, elements of a block, bytes of a block."""


def is_gguf(path: Path) -> bool:
    """Whether a file begins as GGUF does; False for what is no readable regular file."""
    try:
        return is_file(path) and read_bytes(path, 4) == MAGIC
    except OSError:
        return False


def read_gguf(path: Path) -> Checkpoint:
    """The listing of a GGUF file: a `Checkpoint` of format `gguf` whose tensors are not to be read.

    `config` is the file's metadata without its arrays. Shapes are row-major, as everywhere here (ggml writes
    them the other way round).

    Raises:
        LoratoolsError: the header is broken, of an unknown version, or claims more than the file could hold.
    """
    size = regular_file(path).st_size
    try:
        with reading(path) as file:
            header = _Header(file, size, path)
            metadata, tensors = header.read()
    except OSError as error:
        raise LoratoolsError(f"cannot read: {error.strerror}", file=path) from error
    adapter = metadata.get("general.type") == "adapter"
    return Checkpoint(
        reference=str(path),
        root=path,
        kind=Kind.ADAPTER if adapter else Kind.CHECKPOINT,
        format="gguf",
        tensors=tensors,
        shards=(path,),
        config=metadata,
    )


class _Header:
    """A cursor over the header; nothing is believed to be longer than the rest of the file."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self._left = size
        self._path = path
        self._items = _MOST_ITEMS
        self._text = _TEXT_BYTES

    def read(self) -> tuple[dict[str, Any], dict[str, TensorSpec]]:
        magic, version = self._take(4), self._number("I")
        if magic != MAGIC or version not in (2, 3):
            raise self._broken("of an unknown version")
        tensor_count, entry_count = self._count(), self._count()
        metadata = {}
        keys: set[str] = set()
        for _ in range(entry_count):
            key = self._string()
            if key in keys:
                raise LoratoolsError(f"the key {key!r} stands in the header twice", file=self._path)
            keys.add(key)
            value = self._value(self._number("I"))
            if value is not None:
                metadata[key] = value
        tensors: dict[str, TensorSpec] = {}
        for _ in range(tensor_count):
            spec = self._tensor()
            if spec.name in tensors:
                raise LoratoolsError("a tensor stands in the header twice", file=self._path, tensor=spec.name)
            tensors[spec.name] = spec
        return metadata, tensors

    def _tensor(self) -> TensorSpec:
        name = check_name(self._string(), self._path)
        count = self._number("I")
        if count > _MOST_DIMENSIONS:
            raise LoratoolsError(f"a shape of {count:,} sizes", file=self._path, tensor=name)
        dimensions = [self._number("Q") for _ in range(count)]
        kind, offset = self._number("I"), self._number("Q")
        if kind not in _TYPES:
            raise LoratoolsError(f"the unknown tensor type {kind}", file=self._path, tensor=name)
        dtype, block, block_bytes = _TYPES[kind]
        shape = check_shape(tuple(reversed(dimensions)), 64, file=self._path, tensor=name)
        return TensorSpec(name, dtype, shape, math.prod(shape) // block * block_bytes, self._path, offset)

    def _value(self, kind: int) -> Any:
        """A metadata value; None for an array, which is passed over."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(self._scalar(kind))
        item, count = self._number("I"), self._number("Q")
        if item == _STRING:
            self._skip_strings(count)
        else:
            self._skip(struct.calcsize("<" + self._scalar(item)) * count)
        return None

    def _scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._broken("with an unknown type of metadata")
        return _SCALARS[kind]

    def _skip_strings(self, count: int) -> None:
        if count * 8 > self._left:
            raise self._broken("cut short")
        self._items -= count
        if self._items < 0:
            raise self._broken(f"with more than {_MOST_ITEMS:,} strings in its arrays")
        for _ in range(count):
            self._skip(self._number("Q"))

    def _skip(self, size: int) -> None:
        if size > self._left:
            raise self._broken("cut short")
        self._left -= size
        self._file.seek(size, 1)

    def _take(self, size: int) -> bytes:
        data = self._file.read(size) if size <= self._left else b""
        if len(data) < size:
            raise self._broken("cut short")
        self._left -= size
        return data

    def _number(self, format: str) -> Any:
        return struct.unpack("<" + format, self._take(struct.calcsize("<" + format)))[0]

    def _count(self) -> int:
        count: int = self._number("Q")
        if count > _MOST_ENTRIES:
            raise self._broken(f"with {count:,} entries")
        return count

    def _string(self) -> str:
        size = self._number("Q")
        if size > self._text:
            raise self._broken(f"with more than {_TEXT_BYTES:,} bytes of text")
        self._text -= size
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._broken("whose strings are not UTF-8") from error

    def _broken(self, how: str) -> LoratoolsError:
        return LoratoolsError(f"a GGUF file {how}", file=self._path, hint="copy or download it again")
