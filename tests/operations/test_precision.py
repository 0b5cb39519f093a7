"""The precision of a merge: which arithmetic, one rounding, overflows, neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from loratools.errors import LoratoolsError
from loratools.linalg.rounding_torch import round_once
from loratools.operations.precision import (
    Rounding,
    arithmetic_dtype,
    differing,
    largest_gap,
    least_gap,
    rounded,
    widened,
)

DTYPES = ("bfloat16", "float16", "float32", "float64")


def held(tensor: torch.Tensor) -> Any:
    """A tensor's values as the module has them: bfloat16 as bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype is torch.bfloat16 else tensor.numpy()


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("bfloat16", "bfloat16"), "float32"),
        (("float16", "bfloat16"), "float32"),
        (("bfloat16", "float32"), "float64"),
        (("float32", "bfloat16"), "float64"),
        (("float64", "float64"), "float64"),
    ],
    ids=str,
)
def test_arithmetic_has_at_least_twice_the_digits(dtypes: tuple[str, ...], expected: str) -> None:
    assert arithmetic_dtype(*dtypes) == expected


def some(dtype: str) -> torch.Tensor:
    """Ordinary, subnormal and extreme numbers, and both zeros."""
    kind = getattr(torch, dtype)
    info = torch.finfo(kind)
    special = [0.0, -0.0, 1.0, -1.0, 2.0, info.tiny, -info.tiny, info.max, info.min]
    ordinary = torch.randn(1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([torch.tensor(special, dtype=kind), ordinary.to(kind), (ordinary * info.tiny).to(kind)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("arithmetic", ["float32", "float64"])
def test_wide_and_back_is_what_torch_gives(dtype: str, arithmetic: str) -> None:
    if (dtype, arithmetic) == ("float64", "float32"):
        pytest.skip("no wide arithmetic for it")
    values = some(dtype)
    wide = widened(held(values), dtype, arithmetic)
    assert wide.dtype == arithmetic
    assert np.array_equal(wide, values.to(getattr(torch, arithmetic)).numpy())
    assert np.array_equal(rounded(wide, dtype), held(values))
    more = wide * 0.9987
    expected = round_once(torch.from_numpy(more.astype(arithmetic)), values.dtype)
    assert np.array_equal(rounded(more.astype(arithmetic), dtype), held(expected))


def test_what_does_not_fit_is_counted_and_refused() -> None:
    rounding = Rounding("t", "float16", "float16")
    wide = np.array([[1.0, 65519.0], [65520.0, -1e30]], dtype=np.float32)
    result = rounding.round(wide, np.zeros((2, 2), dtype=np.float16))
    assert result.tolist() == [[1.0, 65504.0], [float("inf"), -float("inf")]]
    with pytest.raises(LoratoolsError, match="2 values do not fit into float16"):
        rounding.refuse_overflow()


def test_what_was_not_finite_before_is_told_apart() -> None:
    rounding = Rounding("t", "bfloat16", "bfloat16")
    before = torch.tensor([[float("nan")], [float("inf")], [1.0]], dtype=torch.bfloat16)
    wide = np.concatenate([before.float().numpy(), np.full((1, 1), np.nan, dtype=np.float32)])
    rounding.round(wide, held(before))
    assert (rounding.nonfinite, rounding.overflown) == (2, 1)


def test_bits_differ_or_do_not() -> None:
    one = torch.tensor([0.0, 1.0, float("nan"), 2.0], dtype=torch.bfloat16)
    other = torch.tensor([-0.0, 1.0, float("nan"), 2.015625], dtype=torch.bfloat16)
    assert differing(held(one), held(other)) == 2
    assert differing(one.double().numpy(), other.double().numpy()) == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_gaps_are_the_distances_to_the_neighbours(dtype: str) -> None:
    values = some(dtype)
    values = values[values.double().abs() < torch.finfo(values.dtype).max]
    up = torch.full_like(values, float("inf"))
    if dtype == "float16":  # torch has no nextafter of it
        ends = [torch.from_numpy(np.nextafter(values.numpy(), end.numpy())) for end in (-up, up)]
    else:
        ends = [torch.nextafter(values, end) for end in (-up, up)]
    distances = np.stack([(end.double() - values.double()).abs().numpy() for end in ends])
    assert np.array_equal(least_gap(held(values), dtype), distances.min(axis=0))
    assert np.array_equal(largest_gap(held(values), dtype), distances.max(axis=0))
    assert np.isinf(largest_gap(held(up[:1]), dtype)).all()
