"""Formats and roundings, against exact rational arithmetic and against torch where torch is right."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loratools.linalg.rounding import (
    bfloat16_to_float32,
    float32_to_bfloat16,
    float64_to_bfloat16,
    float64_to_float16,
    nearest_bfloat16,
    ulp,
    widen_bfloat16,
)
from loratools.linalg.rounding_torch import round_once

PRECISION = {"bfloat16": (7, -126), "float16": (10, -14)}

# A tie of the narrow format that the value is just beside: float32 in between lands on the tie.
JUST_BESIDE_A_TIE = {
    "bfloat16": [s * (1 + 2.0**-8 + d) for s in (1.0, -1.0) for d in (2.0**-40, -(2.0**-40))],
    "float16": [s * (1 + 2.0**-11 + d) for s in (1.0, -1.0) for d in (2.0**-40, -(2.0**-40))],
}
EDGES = [0.0, -0.0, 5e-324, -5e-324, 1e-45, 2.0**-134, -(2.0**-134) * 1.5, 2.0**-25, 2.0**-25 * (1 + 1e-12)]
EDGES += [
    65504.0,
    65519.999999999,
    65520.0,
    3.3895e38,
    3.3961e38,
    3.5e38,
    -1e300,
    float("inf"),
    float("-inf"),
]


def nearest(value: float, dtype: str) -> Fraction:
    """Round to nearest, ties to even, in exact arithmetic (no overflow)."""
    fraction_bits, least = PRECISION[dtype]
    exact = Fraction(value)
    exponent = max(int(np.frexp(value)[1]) - 1, least)
    unit = Fraction(2) ** (exponent - fraction_bits)
    return round(exact / unit) * unit


def as_float64(values: np.ndarray, dtype: str) -> np.ndarray:
    bits = values if dtype == "float16" else bfloat16_to_float32(values)
    return bits.astype(np.float64)


ROUND = {"bfloat16": float64_to_bfloat16, "float16": float64_to_float16}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@given(value=st.floats(-60000.0, 60000.0) | st.floats(-1e-4, 1e-4) | st.floats(-1e-38, 1e-38))
def test_float64_is_rounded_once(dtype: str, value: float) -> None:
    rounded = as_float64(ROUND[dtype](np.array([value])), dtype)
    assert Fraction(float(rounded[0])) == nearest(value, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_values_beside_a_tie_need_one_rounding(dtype: str) -> None:
    values = np.array(JUST_BESIDE_A_TIE[dtype])
    expected = [float(nearest(value, dtype)) for value in values]
    assert as_float64(ROUND[dtype](values), dtype).tolist() == expected
    twice = torch.from_numpy(values).float().to(getattr(torch, dtype)).double().tolist()
    assert twice != expected  # else the case would prove nothing
    assert round_once(torch.from_numpy(values), getattr(torch, dtype)).double().tolist() == expected


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_torch_and_numpy_round_alike(dtype: str) -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate(
        [EDGES, generator.standard_normal(70_000), 2.0 ** generator.uniform(-160, 130, 70_000), [np.nan]]
    ).reshape(-1, 1)
    ours = as_float64(ROUND[dtype](values), dtype)
    theirs = round_once(torch.from_numpy(values), getattr(torch, dtype)).double().numpy()
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours[:-1]), np.signbit(theirs[:-1]))  # a NaN's may differ
    assert ours.shape == values.shape


def test_numpy_rounds_float64_to_float16_once_by_itself() -> None:
    values = np.concatenate([JUST_BESIDE_A_TIE["float16"], np.random.default_rng(0).standard_normal(10_000)])
    np.testing.assert_array_equal(values.astype(np.float16), float64_to_float16(values))


def test_every_bfloat16_survives_the_way_there_and_back() -> None:
    bits = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)
    values = bfloat16_to_float32(bits)
    back = float32_to_bfloat16(values)
    nan = np.isnan(values)
    np.testing.assert_array_equal(back[~nan], bits[~nan])
    assert np.isnan(bfloat16_to_float32(back[nan])).all()
    assert nan.sum() == 2 * 127


@given(bits=st.integers(0, 2**32 - 1))
def test_float32_to_bfloat16_is_what_torch_does(bits: int) -> None:
    value = np.array([bits], dtype=np.uint32).view(np.float32)
    ours = bfloat16_to_float32(float32_to_bfloat16(value))
    np.testing.assert_array_equal(ours, torch.from_numpy(value).to(torch.bfloat16).float().numpy())


def test_into_arrays_that_are_there_it_is_the_same() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2**32, (300, 700), dtype=np.uint32).view(np.float32)
    bits, back = np.full((300, 700), 9, np.uint16), np.full((300, 700), np.nan, np.float32)
    nearest_bfloat16(values, bits, back)
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(back - values)
    assert not finite[~np.isfinite(values)].any()  # whoever looks there finds what is no number
    too_large = np.isfinite(values) & ~np.isfinite(bfloat16_to_float32(bits))
    assert not finite[too_large].any()
    assert (finite | too_large | ~np.isfinite(values)).all()
    assert np.array_equal(bits[finite], float32_to_bfloat16(values)[finite])
    assert np.array_equal(back[finite].view(np.uint32), bfloat16_to_float32(bits)[finite].view(np.uint32))
    widen_bfloat16(bits, back)
    assert np.array_equal(back.view(np.uint32), bfloat16_to_float32(bits).view(np.uint32))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_float32_is_rounded_by_torch_itself(dtype: torch.dtype) -> None:
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(round_once(values, dtype), values.to(dtype))


def test_round_once_takes_more_than_one_block_and_any_layout() -> None:
    values = torch.randn(700, 800, generator=torch.Generator().manual_seed(0), dtype=torch.float64).T
    rounded = round_once(values, torch.bfloat16)
    assert rounded.shape == values.shape
    whole = float64_to_bfloat16(values.numpy())
    np.testing.assert_array_equal(rounded.float().numpy(), bfloat16_to_float32(whole))


def test_other_dtypes_are_refused() -> None:
    with pytest.raises(TypeError):
        round_once(torch.ones(2, dtype=torch.float16), torch.bfloat16)
    with pytest.raises(TypeError):
        round_once(torch.ones(2), torch.int8)
    with pytest.raises(TypeError):
        bfloat16_to_float32(np.ones(2, dtype=np.int16))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        float32_to_bfloat16(np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        float64_to_bfloat16(np.ones(2, dtype=np.float32))  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_units_in_the_last_place_are_numpys_spacing(dtype: str) -> None:
    values = np.concatenate([[0.0], 2.0 ** np.random.default_rng(0).uniform(-30, 15, 1000)]).astype(dtype)
    np.testing.assert_array_equal(ulp(values, dtype), np.spacing(values).astype(np.float64))


def test_units_of_bfloat16() -> None:
    expected = [2.0**-7, 2.0**-7, 2.0**-8, 2.0**-133, 2.0**-133, 2.0**120]
    assert ulp([1.0, -1.99, 0.99, 0.0, 1e-40, 3e38], "bfloat16").tolist() == expected
    assert np.isnan(ulp([np.nan, np.inf], "bfloat16")).all()
    with pytest.raises(ValueError, match="no floating-point format"):
        ulp([1.0], "int8")
