"""Counting what is NaN or infinite by the bits of numbers: at the speed of memory, for bfloat16 too."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["NonFinite"]

_INFINITY: dict[str, np.unsignedinteger[Any]] = {
    "float64": np.uint64(0x7FF0000000000000),
    "float32": np.uint32(0x7F800000),
    "float16": np.uint16(0x7C00),
    "bfloat16": np.uint16(0x7F80),
}
"""The bits of infinity, above whose magnitude are those of NaN alone."""


class NonFinite:
    """Counts the elements of one floating dtype that are not finite, over blocks of raw bytes.

    Args:
        dtype: a key of `FLOATING`.
        most: bytes of the largest block.
    """

    def __init__(self, dtype: str, most: int) -> None:
        self.count = 0
        self._infinity = _INFINITY[dtype]
        self._sign = np.iinfo(self._infinity.dtype).max >> 1
        self._magnitudes: NDArray[Any] = np.empty(
            max(1, most // self._infinity.dtype.itemsize), self._infinity.dtype
        )

    @staticmethod
    def knows(dtype: str) -> bool:
        """Whether numbers of this dtype can be other than finite, and their bits are known here."""
        return dtype in _INFINITY

    def look(self, block: memoryview) -> None:
        """Some elements, as they are stored."""
        bits = np.frombuffer(block, self._infinity.dtype)
        magnitudes = self._magnitudes[: bits.size]
        np.bitwise_and(bits, self._infinity.dtype.type(self._sign), out=magnitudes)
        if bits.size and magnitudes.max() >= self._infinity:
            self.count += int(np.count_nonzero(magnitudes >= self._infinity))
