"""Indices as bits, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.linalg.packing import pack, unpack, widths


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 2**24), st.floats(0, 1, exclude_max=True)), max_size=40))
def test_indices_come_back_from_their_bits(cases: list[tuple[int, float]]) -> None:
    counts = np.array([count for count, _ in cases], dtype=np.int64)
    indices = np.array([int(count * part) for count, part in cases], dtype=np.int64)
    width = widths(counts)
    assert all(
        2 ** int(bits) >= count > 2 ** (int(bits) - 1) or count == 1
        for bits, count in zip(width, counts, strict=True)
    )
    bits = pack(indices, width)
    assert len(bits) == width.sum()
    assert np.array_equal(unpack(bits, width), indices * (width > 0))


def test_bits_that_are_missing_are_an_error() -> None:
    with pytest.raises(ValueError, match="bits where 3 are needed"):
        unpack(np.zeros(2, np.uint8), np.array([3]))
