"""Where the elements of a tensor lie that is not stored row by row: a transposed or sliced view."""

from __future__ import annotations

from dataclasses import dataclass

from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec


@dataclass(frozen=True)
class StridedLayout:
    """Shape, strides and item size of a view; positions are bytes from the view's first element.

    Where a step along the leading axis is the longest one, a block of rows lies in a span of its own.
    Elsewhere (transposed) each block is spread over the whole view, whose span is then the same for every
    block, so that a reader can hold it.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    item_bytes: int
    dtype: str

    @classmethod
    def of(cls, spec: TensorSpec) -> StridedLayout:
        """The layout of a spec whose `strides` are set."""
        if spec.strides is None:
            raise ValueError(f"{spec.name} is row-major")
        dtype = "uint16" if spec.dtype == "bfloat16" else spec.dtype
        return cls(spec.shape, spec.strides, ITEM_BYTES[spec.dtype], dtype)

    def span(self, first: int, count: int) -> range:
        """The bytes that must be read for rows `first:first + count` (count at least 1)."""
        row = 1 + sum(
            (size - 1) * stride for size, stride in zip(self.shape[1:], self.strides[1:], strict=True)
        )
        if self.strides[0] < row:
            first, count = 0, self.shape[0]
        start = first * self.strides[0]
        return range(start * self.item_bytes, (start + (count - 1) * self.strides[0] + row) * self.item_bytes)

    def pick(self, held: bytearray, span: range, first: int, count: int, into: memoryview) -> None:
        """Writes rows `first:first + count` from `held` (the bytes of `span`) to `into`, row-major."""
        import numpy as np

        shape = (count, *self.shape[1:])
        view = np.ndarray(
            shape,
            dtype=self.dtype,
            buffer=held,
            offset=first * self.strides[0] * self.item_bytes - span.start,
            strides=[stride * self.item_bytes for stride in self.strides],
        )
        np.ndarray(shape, dtype=self.dtype, buffer=into)[...] = view
