"""Rounding by chance: against exact fractions, and against what the probabilities say over many draws."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.linalg.predecessors import keys_of, values_of
from loratools.linalg.stochastic import Draws, stochastic

PAIRS = (
    ("float32", "bfloat16"),
    ("float32", "float16"),
    ("float64", "float32"),
    ("float64", "bfloat16"),
    ("float64", "float16"),
)
LARGEST = {"bfloat16": 2.0**128 - 2.0**120, "float16": 65504.0, "float32": 2.0**128 - 2.0**104}


def rounded(values: Any, draws: Any, wide: str, dtype: str) -> Any:
    """The values after rounding, in float64."""
    result = stochastic(np.asarray(values, wide), np.asarray(draws, np.uint32), dtype)
    return values_of(keys_of(result, dtype), dtype)


def neighbours(value: float, dtype: str) -> tuple[Fraction, Fraction]:
    """The numbers of the format at or next to a value: towards zero, and away from it."""
    key = int(keys_of(stochastic(np.array([value]), np.zeros(1, np.uint32), dtype), dtype)[0])
    around = values_of(np.arange(key - 2, key + 3), dtype)
    finite = [Fraction(float(one)) for one in around if np.isfinite(one)]
    numbers = [one for one in finite if one * Fraction(value) >= 0]
    inner = max((one for one in numbers if abs(one) <= abs(Fraction(value))), key=abs)
    outer = min((one for one in numbers if abs(one) > abs(inner)), key=abs)
    return inner, outer


@settings(max_examples=300, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    exponent=st.integers(-160, 15),
    mantissa=st.integers(0, 2**52),
    negative=st.booleans(),
    draw=st.integers(0, 2**32 - 1),
)
def test_the_draw_decides_between_the_two_neighbours(
    pair: tuple[str, str], exponent: int, mantissa: int, negative: bool, draw: int
) -> None:
    wide, dtype = pair
    value = np.ldexp(1.0 + mantissa / 2**52, exponent) * (-1 if negative else 1)
    with np.errstate(under="ignore"):
        value = float(np.asarray(value, wide))
    inner, outer = neighbours(value, dtype)
    fraction = (abs(Fraction(value)) - abs(inner)) / (abs(outer) - abs(inner))
    expected = outer if fraction + Fraction(draw, 2**32) >= 1 else inner
    assert Fraction(float(rounded([value], [draw], wide, dtype)[0])) == expected


@pytest.mark.parametrize(("wide", "dtype"), PAIRS)
def test_what_the_format_holds_stays_bit_by_bit(wide: str, dtype: str) -> None:
    """All 16-bit numbers, zeros of both signs, subnormal numbers and infinities; a draw just short of 1."""
    if dtype == "float32":
        rng = np.random.default_rng(0)
        stored = np.append(rng.integers(0, 2**32, 70_000, dtype=np.uint32), [0, 1 << 31, 1, 0x7F800000])
        stored = stored.astype(np.uint32).view(np.float32)
        with np.errstate(invalid="ignore"):
            values = stored.astype(np.float64)
    else:
        bits = np.arange(2**16, dtype=np.uint16)
        stored = bits if dtype == "bfloat16" else bits.view(np.float16)
        wider = (bits.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else stored
        with np.errstate(invalid="ignore"):
            values = wider.astype(wide)
    known = ~np.isnan(values)
    result = stochastic(values, np.full(values.shape, 2**32 - 1, np.uint32), dtype)
    integers = f"uint{8 * stored.itemsize}"
    assert np.array_equal(result.view(integers)[known], stored.view(integers)[known])
    nan = values_of(keys_of(result[~known], dtype), dtype)
    assert nan.size and np.isnan(nan).all()


@pytest.mark.parametrize(("wide", "dtype"), PAIRS)
def test_beyond_the_largest_number_it_is_the_nearest(wide: str, dtype: str) -> None:
    largest = LARGEST[dtype]
    gap = largest - float(
        values_of(keys_of(stochastic(np.array([largest]), np.zeros(1, np.uint32), dtype), dtype) - 1, dtype)[
            0
        ]
    )
    beyond = np.array([largest + 0.49 * gap, -largest - 0.49 * gap, largest + 0.51 * gap, -2.0 * largest])
    with np.errstate(over="ignore"):
        values = beyond.astype(wide)
    for draw in (0, 2**32 - 1):
        assert rounded(values, [draw] * 4, wide, dtype).tolist() == [largest, -largest, np.inf, -np.inf]


def test_zero_and_least_numbers_keep_their_sign() -> None:
    tiny = np.array([0.0, -0.0, 1e-30, -1e-30])
    result = stochastic(tiny, np.zeros(4, np.uint32), "float16")
    assert result.view(np.uint16).tolist() == [0, 0x8000, 0, 0x8000]
    result = stochastic(tiny.astype(np.float32), np.zeros(4, np.uint32), "bfloat16")
    assert (result >> 15).tolist() == [0, 1, 0, 1]


def test_a_dtype_that_is_not_narrower_is_an_error() -> None:
    with pytest.raises(ValueError, match="float32 is not rounded to float32"):
        stochastic(np.zeros(2, np.float32), np.zeros(2, np.uint32), "float32")


@settings(max_examples=60, deadline=None)
@given(
    pair=st.sampled_from(PAIRS),
    draw=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([1.0, 1e-5, 6e-5, 1e-39]),
    seed=st.integers(0, 100),
)
def test_one_draw_keeps_the_order(pair: tuple[str, str], draw: int, scale: float, seed: int) -> None:
    """Rounding with a given draw is monotone: what becomes a number lies in an interval."""
    wide, dtype = pair
    rng = np.random.default_rng(seed)
    values = np.sort(scale * rng.standard_normal(500)).astype(wide)
    assert np.all(np.diff(rounded(values, np.full(500, draw), wide, dtype)) >= 0)


def philox(key: int, count: int) -> list[int]:
    """Four 64-bit integers of Philox4x64-10, as Salmon et al. (2011) define it, in Python's integers."""
    mask = 2**64 - 1
    words = [(count >> (64 * place)) & mask for place in range(4)]
    keys = [key & mask, (key >> 64) & mask]
    for _ in range(10):
        one, two = 0xD2E7470EE14C6C93 * words[0], 0xCA5A826395121157 * words[2]
        words = [two >> 64 ^ words[1] ^ keys[0], two & mask, one >> 64 ^ words[3] ^ keys[1], one & mask]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & mask, (keys[1] + 0xBB67AE8584CAA73B) & mask]
    return words


def test_draws_are_philox_in_counter_mode() -> None:
    key = 0x0123456789ABCDEF_F00DF00D12345678
    expected = [
        half
        for count in range(40)
        for word in philox(key, count)
        for half in (word & (2**32 - 1), word >> 32)
    ]
    assert Draws(key).at(0, 320).tolist() == expected
    far = 8 * (2**64 - 1)  # the count goes beyond its first word
    assert Draws(key).at(far, 8).tolist()[:2] == [
        philox(key, 2**64 - 1)[0] & (2**32 - 1),
        philox(key, 2**64 - 1)[0] >> 32,
    ]


@pytest.mark.parametrize(("first", "count"), [(0, 1), (1, 7), (7, 9), (8, 8), (13, 300), (999, 1), (5, 0)])
def test_draws_belong_to_places(first: int, count: int) -> None:
    everything = Draws(7).at(0, 1000)
    assert np.array_equal(Draws(7).at(first, count), everything[first : first + count])
    assert not np.array_equal(Draws(8).at(0, 1000), everything)


@pytest.mark.parametrize(("wide", "dtype"), PAIRS)
def test_the_mean_is_the_value_and_the_variance_that_of_a_coin(wide: str, dtype: str) -> None:
    """400 seeds, 500 elements of every binade down to subnormal numbers.

    Each element's ups are binomial with p = f: no mean is off by more than 6 standard deviations (a false
    alarm for one of 500 in 1 of 10^6 runs; the seeds are fixed, so it is the same in every run), and the sum
    of squared deviations, over its expectation p (1 - p), is within 6 of its own (chi-squared with 500
    degrees of freedom has a deviation of sqrt(1000) / 500).
    """
    rng = np.random.default_rng(1)
    values = (np.exp(-rng.uniform(0, 14, 500)) * rng.choice([-1, 1], 500)).astype(wide)
    if dtype == "bfloat16" or dtype == "float32":
        values[:50] *= 1e-38
    low = rounded(values, np.zeros(500), wide, dtype)
    high = rounded(values, np.full(500, 2**32 - 1), wide, dtype)
    p = (np.abs(values.astype(np.float64)) - np.abs(low)) / np.where(high == low, 1.0, np.abs(high - low))
    seeds = 400
    ups = np.zeros(500)
    for seed in range(seeds):
        ups += rounded(values, Draws(seed).at(0, 500), wide, dtype) == high
    open_ = (p * seeds > 10) & ((1 - p) * seeds > 10)
    assert open_.sum() > 300
    z = (ups - seeds * p)[open_] / np.sqrt(seeds * p * (1 - p))[open_]
    assert np.abs(z).max() < 6
    assert abs(np.mean(z**2) - 1) < 6 * np.sqrt(2 / open_.sum())
