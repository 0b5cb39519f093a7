"""What headers tell of a tensor, and a tensor's bytes: the two smallest types of the house."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

ITEM_BYTES: dict[str, int] = {
    "float64": 8,
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "int8": 1,
    "uint64": 8,
    "uint32": 4,
    "uint16": 2,
    "uint8": 1,
    "bool": 1,
}
"""Bytes of one element, by the names that numpy and torch give to dtypes: everything that can be read."""

FLOATING: frozenset[str] = frozenset({"float64", "float32", "float16", "bfloat16"})
"""The dtypes that an adapter can be extracted from or merged into."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The stored bytes that a torch tensor (perhaps among others) looks into, and their CRC-32."""

    offset: int
    bytes: int
    crc32: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What is known of a tensor from headers alone.

    `dtype` is a key of `ITEM_BYTES`, or the file format's own word for one that can be listed but not
    computed with (`F8_E4M3`). `bytes` is the size of the values, `offset` the absolute place of the first
    in `file`. `strides` (in elements) is set only where the values do not lie row by row, `storage` wherever
    there is a checksum (both: torch files).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    file: Path
    offset: int
    strides: tuple[int, ...] | None = None
    storage: Storage | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def floating(self) -> bool:
        return self.dtype in FLOATING

    @property
    def rows(self) -> int:
        """Length of the leading axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return self.bytes // self.rows if self.rows else 0


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A spec and a row-major buffer of its bytes: the whole tensor, or rows `first:first + count` of it.

    The buffer may be reused by the reader that was given it: whoever needs the values longer copies them.
    """

    spec: TensorSpec
    buffer: memoryview
    first: int
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what the buffer holds: (count, ...) or () for a scalar."""
        return (self.count, *self.spec.shape[1:]) if self.spec.shape else ()

    def numpy(self) -> np.ndarray:
        """The values without a copy; bfloat16 as its bit patterns in uint16."""
        import numpy as np

        dtype = "uint16" if self.spec.dtype == "bfloat16" else self.spec.dtype
        return np.frombuffer(self.buffer, dtype=dtype).reshape(self.shape)

    def float32(self) -> np.ndarray:
        """The values as a float32 array of its own; bfloat16 by shifting its bits, without torch."""
        import numpy as np

        from loratools.linalg.rounding import bfloat16_to_float32

        values = self.numpy()
        if self.spec.dtype == "bfloat16":
            return bfloat16_to_float32(values)
        return values.astype(np.float32)

    def torch(self) -> torch.Tensor:
        """The values as a torch tensor that shares the buffer (which must therefore be writable)."""
        import torch

        dtype: torch.dtype = getattr(torch, self.spec.dtype)
        if not len(self.buffer):
            return torch.empty(self.shape, dtype=dtype)
        return torch.frombuffer(self.buffer, dtype=dtype).reshape(self.shape)
