"""Rows that differ, by their bits, beside the comparison of values."""

from __future__ import annotations

import pytest
import torch

from loratools.linalg.bitwise import rows_that_differ

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(40, 5), (40,), (40, 3, 2)], ids=str)
def test_rows(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    one = torch.randint(0, 2, shape, generator=generator).to(dtype)
    other = one.clone()
    other[::7] = torch.randint(0, 2, other[::7].shape, generator=generator).to(dtype)
    other[3] = 1 - one[3].to(torch.uint8)
    expected = (one != other).reshape(40, -1).any(dim=1)
    assert 0 < int(expected.sum()) < 40
    assert torch.equal(rows_that_differ(one, other), expected)


@pytest.mark.parametrize("dtype", DTYPES[:4], ids=str)
def test_both_zeros_are_one_value(dtype: torch.dtype) -> None:
    one = torch.tensor([[0.0, 1.0], [0.0, 1.0], [-0.0, 1.0]], dtype=dtype)
    other = torch.tensor([[-0.0, 1.0], [0.0, -1.0], [torch.finfo(dtype).tiny, 1.0]], dtype=dtype)
    assert rows_that_differ(one, other).tolist() == [False, True, True]


def test_two_dtypes() -> None:
    one, other = torch.tensor([[0.5], [0.1], [0.0]]), torch.tensor([[0.5], [0.1], [-0.0]]).bfloat16()
    assert rows_that_differ(one, other).tolist() == [False, True, False]
