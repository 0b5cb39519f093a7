"""The safetensors container: its header, parsed with the standard library and believed in nothing.

Layout: 8 bytes little-endian length N, N bytes of a JSON object (name -> dtype, shape, data_offsets; plus
`__metadata__`, strings by strings), then the data, which the offsets must cover without hole or overlap.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

from loratools.checkpoints.claims import check_name, check_shape, regular_file
from loratools.checkpoints.files import reading
from loratools.checkpoints.jsonfile import parse_object
from loratools.checkpoints.spec import TensorSpec
from loratools.errors import LoratoolsError

HEADER_BYTES = 100_000_000
"""The format's own cap on a header."""

HUB_HEADER_BYTES = 25_000_000
"""The hub's cap: larger headers are read, with a warning."""

DTYPES: dict[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
"""The format's words for the dtypes that can be read, and the house's (those of numpy and torch)."""

BITS: dict[str, int] = {
    "F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16,
    "I16": 16, "U16": 16, "I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip


_FIELDS = frozenset({"dtype", "shape", "data_offsets"})


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: dict[str, TensorSpec]
    metadata: Mapping[str, str]
    warnings: tuple[str, ...]


def looks_like_safetensors(start: bytes) -> bool:
    """Whether the first 9 bytes of a file can begin a safetensors header."""
    return len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40


def read_header(path: Path) -> Header:
    """Opens a safetensors file from its header; the data is not read.

    Raises:
        LoratoolsError: the file cannot be read, or its header breaks one of the format's rules.
    """
    size = regular_file(path).st_size
    header = _header_bytes(path, size)
    entries, length = parse_object(header, path), len(header)
    del header
    metadata = _metadata(entries.pop("__metadata__", {}), path)
    start = 8 + length
    tensors = {check_name(name, path): _spec(name, entry, path, start) for name, entry in entries.items()}
    _check_cover(tensors, start, size, path)
    return Header(tensors, metadata, tuple(_header_warnings(path, length)))


def read_start(path: Path) -> bytes:
    """The bytes before a safetensors file's data: the header's length and the header.

    Raises:
        LoratoolsError: the file cannot be read, or does not begin as one.
    """
    header = _header_bytes(path, regular_file(path).st_size)
    return len(header).to_bytes(8, "little") + header


def _header_bytes(path: Path, size: int) -> bytes:
    try:
        with reading(path) as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > size - 8:
                raise LoratoolsError(
                    "too short for a safetensors file", file=path, hint="copy or download it again"
                )
            if length > HEADER_BYTES:
                raise LoratoolsError(
                    f"a header of {length:,} bytes, above the format's {HEADER_BYTES:,}", file=path
                )
            header = file.read(length)
    except OSError as error:
        raise LoratoolsError(f"cannot read: {error.strerror}", file=path) from error
    if len(header) < length or not header.startswith(b"{"):
        raise LoratoolsError("no safetensors header", file=path)
    return header


def _metadata(metadata: Any, path: Path) -> Mapping[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise LoratoolsError("__metadata__ must be strings by strings", file=path)
    return metadata


def _spec(name: str, entry: Any, path: Path, start: int) -> TensorSpec:
    """The tensor that one header entry describes, checked in itself: size against shape, place aligned."""
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise LoratoolsError(
            "a header entry must have dtype, shape and data_offsets, and no more", file=path, tensor=name
        )
    word, offsets = entry["dtype"], entry["data_offsets"]
    if not isinstance(word, str) or word not in BITS:
        raise LoratoolsError(f"unknown dtype {word!r}", file=path, tensor=name)
    bits = BITS[word]
    shape = check_shape(entry["shape"], bits, file=path, tensor=name)
    if not isinstance(offsets, list) or len(offsets) != 2:
        raise LoratoolsError("data_offsets must be two integers", file=path, tensor=name)
    begin, end = offsets
    if type(begin) is not int or type(end) is not int:
        raise LoratoolsError("data_offsets must be two integers", file=path, tensor=name)
    if not 0 <= begin <= end:
        raise LoratoolsError("data_offsets run backwards", file=path, tensor=name)
    if math.prod(shape) * bits != (end - begin) * 8:
        raise LoratoolsError(
            f"{end - begin:,} bytes cannot be {word} of shape {list(shape)}", file=path, tensor=name
        )
    if begin % max(1, bits // 8):
        raise LoratoolsError(
            f"{word} data at the misaligned offset {begin}",
            file=path,
            tensor=name,
            hint="save the file again",
        )
    return TensorSpec(name, DTYPES.get(word, word), shape, end - begin, path, start + begin)


def _check_cover(tensors: Mapping[str, TensorSpec], start: int, size: int, path: Path) -> None:
    """The tensors must cover the data from `start` to the file's end, each byte once."""
    reached = start
    for spec in sorted(tensors.values(), key=attrgetter("offset", "bytes")):
        if spec.offset != reached:
            what = "overlaps the tensor before it" if spec.offset < reached else "leaves a hole before it"
            raise LoratoolsError(f"the data {what}", file=path, tensor=spec.name)
        reached += spec.bytes
        if reached > size:
            raise LoratoolsError(
                "the data runs past the end of the file", file=path, tensor=spec.name,
                hint="copy or download it again",
            )  # fmt: skip
    if reached < size:
        raise LoratoolsError(f"{size - reached:,} bytes after the last tensor", file=path)


def _header_warnings(path: Path, length: int) -> list[str]:
    if length > HUB_HEADER_BYTES:
        return [f"{path.name}: a header of {length:,} bytes, above the hub's {HUB_HEADER_BYTES:,}"]
    return []
