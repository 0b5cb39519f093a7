"""A single number in a file, read without numpy: what adapter formats keep beside their factors."""

from __future__ import annotations

import struct

from loratools.checkpoints.raw import TensorReader
from loratools.checkpoints.spec import TensorSpec

_FORMATS = {
    "float64": "<d",
    "float32": "<f",
    "float16": "<e",
    "int64": "<q",
    "int32": "<i",
    "int16": "<h",
    "int8": "<b",
    "uint8": "<B",
}


def read_scalar(spec: TensorSpec) -> float | None:
    """The value of a tensor of one element; None if it has more, or no dtype that a number is kept in."""
    if spec.elements != 1 or spec.dtype not in (*_FORMATS, "bfloat16"):
        return None
    with TensorReader(spec) as reader:
        data = bytes(reader.read(0, spec.rows).buffer)
    if spec.dtype == "bfloat16":
        return float(struct.unpack("<f", b"\0\0" + data)[0])
    return float(struct.unpack(_FORMATS[spec.dtype], data)[0])
