"""Blocks as a merge rounds them: what is written, what rounding added, and what did not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loratools.checkpoints.spec import ITEM_BYTES, TensorSpec
from loratools.errors import LoratoolsError
from loratools.linalg.rounding import bfloat16_to_float32
from loratools.operations.precision import Rounding, stored_dtype, widened
from loratools.operations.rounded import Rounder

SHAPE = (700, 512)


def spec(dtype: str, shape: tuple[int, ...] = SHAPE) -> TensorSpec:
    size = int(np.prod(shape)) * ITEM_BYTES[dtype]
    return TensorSpec("t", dtype, shape, size, Path("t.safetensors"), 0)


def rounder(dtype: str, source: str | None = None) -> tuple[Rounding, Rounder]:
    rounding = Rounding("t", source or dtype, dtype)
    return rounding, Rounder(rounding, spec(dtype), None)


def values(arithmetic: str, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(0).standard_normal(SHAPE)).astype(arithmetic)


def as_torch(stored: np.ndarray, dtype: str) -> torch.Tensor:
    tensor = torch.from_numpy(stored.copy())
    return tensor.view(torch.bfloat16) if dtype == "bfloat16" else tensor


CASES = [
    ("bfloat16", "float32"),
    ("float16", "float32"),
    ("bfloat16", "float64"),
    ("float32", "float64"),
]


@pytest.mark.parametrize(("dtype", "arithmetic"), CASES)
def test_what_is_written_and_what_is_lost_are_torch_s(dtype: str, arithmetic: str) -> None:
    after = values(arithmetic)
    original = np.zeros(SHAPE, stored_dtype(dtype))
    result, steps = rounder(dtype)[1].round(after, original, first=40)
    kind = getattr(torch, dtype)
    expected = torch.from_numpy(after).to(kind)
    assert len(steps) > 1
    if (dtype, arithmetic) != ("bfloat16", "float64"):  # which torch rounds twice
        assert torch.equal(as_torch(result, dtype), expected)
    row = 40
    for step in steps:
        assert step.first == row
        assert step.finite
        error = as_torch(step.result, dtype).double().numpy() - step.after.astype(np.float64)
        assert np.array_equal(step.error, error)
        assert step.lost == pytest.approx(float(np.square(error).sum()), rel=1e-5)
        low, high = step.largest_between(dtype)
        assert low <= float(np.abs(step.after).max()) <= high <= low * 1.02
        row += len(step.after)
    assert row == 40 + len(after)


def test_the_largest_may_be_negative() -> None:
    after = np.full(SHAPE, -3.0, np.float32)
    after[0, 0] = 2.0
    _, steps = rounder("bfloat16")[1].round(after, np.zeros(SHAPE, np.uint16), 0)
    low, high = steps[0].largest_between("bfloat16")
    assert (low, high) == (3.0 - 2**-6, 3.0 + 2**-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_does_not_fit_or_is_no_number_is_counted(dtype: str) -> None:
    rounding, rounds = rounder(dtype)
    after = values("float32")
    after[3, 5], after[600, 7], after[601, 8] = 3.4e38, np.nan, -np.inf
    original = np.zeros(SHAPE, stored_dtype(dtype))
    original[601, 8] = np.array(0xFF80, np.uint16) if dtype == "bfloat16" else -np.inf
    result, steps = rounds.round(after, original, 0)
    assert (rounding.overflown, rounding.nonfinite) == (2, 1)
    wide = widened(result, dtype, "float64")
    assert np.isnan(wide[600, 7])
    assert wide[3, 5] == np.inf
    assert wide[601, 8] == -np.inf
    assert [step.finite for step in steps] == [False] + [True] * (len(steps) - 2) + [False]
    assert all(np.isfinite(step.lost) for step in steps)
    with pytest.raises(LoratoolsError, match=f"2 values do not fit into {dtype}"):
        rounding.refuse_overflow()


def test_a_nan_whose_bits_would_carry_over_stays_one() -> None:
    """Of float16's NaN 0x7FFF all bits that bfloat16 keeps are set, and some below."""
    nan = np.array([0x7FFF, 0xFFFF], np.uint16).view(np.float16)
    after = np.zeros(SHAPE, np.float32)
    after[0, :2] = nan
    original = np.zeros(SHAPE, np.float16)
    original[0, :2] = nan
    rounding, rounds = rounder("bfloat16", "float16")
    result, _ = rounds.round(after, original, 0)
    assert np.isnan(bfloat16_to_float32(result[0, :2])).all()
    assert (rounding.overflown, rounding.nonfinite) == (0, 2)
