"""Which numbers may have become another one: against all of them, tried with exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.linalg.predecessors import Maps, Predecessors, bits_of, keys_of, values_of

DTYPES = ("bfloat16", "float16", "float32")
LARGEST = {"bfloat16": 0x7F7F, "float16": 0x7BFF, "float32": 0x7F7FFFFF}


def number(key: int, dtype: str) -> Fraction:
    return Fraction(float(values_of(np.array([key]), dtype)[0]))


def nearest_even(value: Fraction, dtype: str) -> int:
    """The key of the number nearest to a fraction."""
    key = _key_of(float(value), dtype)
    while number(key, dtype) > value:
        key -= 1
    while number(key + 1, dtype) <= value:
        key += 1
    below, above = value - number(key, dtype), number(key + 1, dtype) - value
    if below == above:
        return key if key % 2 == 0 else key + 1
    return key if below < above else key + 1


def by_draw(value: Fraction, draw: int, dtype: str) -> int:
    """The key of the neighbour that a draw chooses: away from zero if the fraction and the draw make 1."""
    key = _key_of(float(value), dtype)
    while number(key, dtype) > value:
        key -= 1
    while number(key + 1, dtype) <= value:
        key += 1
    if number(key, dtype) == value:
        return key
    below, above = number(key, dtype), number(key + 1, dtype)
    inner, outer = (key, key + 1) if below >= 0 else (key + 1, key)
    fraction = (abs(value) - abs(number(inner, dtype))) / (above - below)
    return outer if fraction + Fraction(draw, 2**32) >= 1 else inner


@settings(max_examples=200, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    draw=st.none() | st.integers(0, 2**32 - 1),
    exponent=st.integers(-6, 6),
    mantissa=st.integers(0, 2**20),
    negative=st.booleans(),
    size=st.floats(-3.0, 3.0),
    scale=st.sampled_from([1.0, 0.75, 1.25, 3.0, -1.5]),
)
def test_the_numbers_between_the_ends_are_those_that_round_to_it(
    dtype: str, draw: int | None, exponent: int, mantissa: int, negative: bool, size: float, scale: float
) -> None:
    """In float64 arithmetic, where nothing is widened by more than rounding of the ends."""

    def became(sum_: Fraction) -> int:
        return nearest_even(sum_, dtype) if draw is None else by_draw(sum_, draw, dtype)

    w = Fraction(mantissa + 2**20, 2**20) * Fraction(2) ** exponent * (-1 if negative else 1)
    shift = Fraction(float(Fraction(size) * abs(w)))
    w_key = nearest_even(w, dtype)
    y_key = became(Fraction(scale) * number(w_key, dtype) + shift)
    maps = Maps(np.array([scale]), np.array([float(shift)]), np.array([abs(float(shift))]), 1)
    drawn = None if draw is None else np.array([draw], np.uint32)
    found = Predecessors.of(bits_of(np.array([y_key]), dtype), maps, dtype, "float64", drawn)
    first, count = int(found.first[0]), int(found.count[0])
    assert first <= w_key < first + count or found.doubtful[0]
    if found.doubtful[0] or count > 64:
        return
    for key in range(first - 2, first + count + 2):
        gives = became(Fraction(scale) * number(key, dtype) + shift) == y_key
        if gives and not first <= key < first + count:
            pytest.fail(f"{key} becomes {y_key}, and is not in {first} + {count}")
        inside = first < key < first + count - 1
        assert gives or not inside, (key, first, count)


def _key_of(value: float, dtype: str) -> int:
    wide = np.array([value], dtype=np.float32)
    if dtype == "bfloat16":
        return int(keys_of((wide.view(np.uint32) >> 16).astype(np.uint16), dtype)[0])
    return int(keys_of(wide.astype(dtype), dtype)[0])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_keys_are_in_the_order_of_the_numbers_and_come_back(dtype: str) -> None:
    largest = LARGEST[dtype]
    keys = np.arange(-largest - 1, largest + 2)  # from one infinity to the other
    values = values_of(keys, dtype)
    assert np.all(np.diff(values) > 0) and np.isinf(values[[0, -1]]).all()
    assert np.array_equal(keys_of(bits_of(keys, dtype), dtype), keys)
