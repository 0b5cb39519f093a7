"""Skinny products added in pieces: the bits of the whole product, and close to float64's."""

from __future__ import annotations

import numpy as np
import pytest

from loratools.engine.blas import one_thread
from loratools.linalg.products import add_product

SHAPES = [(1, 5000), (29, 64), (257, 63), (300, 1001), (256, 2048), (513, 2048), (37, 14336), (3, 70001)]


def factors(
    rows: int, columns: int, rank: int, dtype: str, *, transposed: bool
) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng([rows, columns, rank])
    left = generator.standard_normal((rows, rank)).astype(dtype)
    right = generator.standard_normal((rank, columns)).astype(dtype)
    left[::3] = 0
    return (np.asfortranarray(left), np.asfortranarray(right)) if transposed else (left, right)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [1, 2, 7, 16, 33])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_pieces_have_the_bits_of_the_whole(
    rows: int, columns: int, rank: int, dtype: str, transposed: bool
) -> None:
    left, right = factors(rows, columns, rank, dtype, transposed=transposed)
    block = np.random.default_rng(0).standard_normal((rows, columns)).astype(dtype)
    block[0] = -0.0  # which a product of zeros leaves, or makes 0, by its sign
    exact = block.astype(np.float64) + left.astype(np.float64) @ right.astype(np.float64)
    with one_thread():
        whole = block + left @ right
        add_product(block, left, right)
    assert np.array_equal(block.view(f"uint{8 * block.itemsize}"), whole.view(f"uint{8 * block.itemsize}"))
    size = np.abs(left.astype(np.float64)) @ np.abs(right.astype(np.float64)) + np.abs(exact)
    assert np.all(np.abs(block - exact) <= (rank + 2) * np.finfo(dtype).eps * size)


def test_nothing_is_added_to_nothing() -> None:
    block = np.zeros((0, 8), np.float32)
    add_product(block, np.zeros((0, 4), np.float32), np.ones((4, 8), np.float32))
    assert block.shape == (0, 8)
