"""What bits tell of a number's predecessors: wherever they tell, it is what float64 finds, and all alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from loratools.linalg.brackets import bracketed, lone
from loratools.linalg.predecessors import Doubt, Maps, Predecessors, keys_of, values_of
from loratools.linalg.rounding import float32_to_bfloat16, ulp
from loratools.linalg.stochastic import DRAWN, Draws, stochastic

WIDE = {"bfloat16": "float32", "float16": "float32", "float32": "float64"}
TERMS = 16
COUNT = 60_000


class Merged(NamedTuple):
    """Elements before and after, and what an update did to them; `middle` in the merge's arithmetic."""

    before: Any
    y: Any
    maps: Maps
    middle: Any
    half: Any
    draws: Any


def merged(dtype: str, size: float, scale: float, *, by_chance: bool, seed: int = 0) -> Merged:
    """Gaussian weights of many magnitudes and an update, merged in the wide arithmetic of the dtype."""
    rng = np.random.default_rng(seed)
    wide = WIDE[dtype]
    magnitudes = 0.02 * 2.0 ** rng.integers(-20, 3, COUNT)
    weights = (magnitudes * rng.standard_normal(COUNT)).astype(np.float32)
    weights[:2000] = np.exp2(rng.integers(-12, 2, 2000)) * rng.choice([-1, 1], 2000)  # powers of two
    before = _stored(weights, dtype)
    w = values_of(keys_of(before, dtype), dtype)
    shift = size * 0.02 * rng.standard_normal(COUNT)
    after = (scale * w.astype(wide) + shift.astype(wide)).astype(wide)
    draws = Draws(seed).at(0, COUNT) if by_chance else None
    y = _stored(after, dtype) if draws is None else stochastic(after, draws, dtype)
    value = values_of(keys_of(y, dtype), dtype)
    gap = ulp(value, dtype)
    share = 0.5 if draws is None else draws / DRAWN
    middle = value + (0.5 - share) * gap * np.sign(value)
    maps = Maps(np.full(COUNT, scale), shift, np.abs(shift), TERMS)
    return Merged(
        before,
        y,
        maps,
        ((middle - shift) / scale).astype(wide),
        (0.5 * gap / abs(scale)).astype(wide),
        draws,
    )


def _stored(values: Any, dtype: str) -> Any:
    return float32_to_bfloat16(values) if dtype == "bfloat16" else values.astype(dtype)


@pytest.mark.parametrize("by_chance", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("scale", [1.0, 1.3, -0.8])
@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("dtype", WIDE)
def test_where_bits_tell_float64_finds_the_same(
    dtype: str, size: float, scale: float, by_chance: bool
) -> None:
    case = merged(dtype, size, scale, by_chance=by_chance)
    exact = Predecessors.of(case.y, case.maps, dtype, WIDE[dtype], case.draws)
    doubt = Doubt.of(2, TERMS, WIDE[dtype])
    error = doubt.bound(case.half * abs(scale), case.maps.size, dtype) / abs(scale)
    found = bracketed(
        case.y,
        case.middle,
        case.half,
        error.astype(case.half.dtype),
        dtype,
        inwards=np.asarray(0.5 if case.draws is None else case.draws / DRAWN),
        flipped=np.asarray(scale < 0),
    )
    sure = found.clear
    assert not exact.doubtful[sure].any()
    assert np.array_equal(found.first[sure], exact.first[sure])
    assert np.array_equal(found.count[sure], exact.count[sure])
    ordinary = np.abs(case.middle) > np.maximum(1e-3, 0.25 * case.maps.size)
    assert sure[ordinary].mean() > 0.9, "or it is of no use"


@pytest.mark.parametrize("by_chance", [False, True], ids=["nearest", "stochastic"])
@pytest.mark.parametrize("size", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize("dtype", WIDE)
def test_who_is_alone_is_the_only_one(dtype: str, size: float, by_chance: bool) -> None:
    case = merged(dtype, size, 1.0, by_chance=by_chance)
    exact = Predecessors.of(case.y, case.maps, dtype, WIDE[dtype], case.draws)
    doubt = Doubt.of(1, TERMS, WIDE[dtype])
    w = values_of(keys_of(case.before, dtype), dtype)
    distance = np.abs(w - case.middle).astype(WIDE[dtype])
    alone = lone(case.before, case.y, distance, case.maps.size, doubt, dtype)
    if by_chance:  # the sums that become zero lie on both sides of it: not for this to tell
        alone &= keys_of(case.y, dtype) != 0
    assert not exact.doubtful[alone].any() and np.all(exact.count[alone] == 1)
    assert np.array_equal(exact.first[alone], keys_of(case.before, dtype)[alone])
    assert not alone[keys_of(case.before, dtype) == 0].any()
    assert alone.mean() > 0.02, "or it is of no use"


@pytest.mark.parametrize("dtype", WIDE)
def test_nothing_is_told_of_zeros_subnormal_numbers_and_what_is_not_finite(dtype: str) -> None:
    least = {"bfloat16": 0x80, "float16": 0x400, "float32": 0x800000}[dtype]
    infinite = {"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F800000}[dtype]
    bits = np.array([0, 1, least - 1, least, infinite, infinite + 1])
    sign = {"float32": 2**31}.get(dtype, 2**15)
    y = np.append(bits, bits | sign).astype("uint32" if dtype == "float32" else "uint16")
    y = y if dtype == "bfloat16" else y.view(dtype)
    value = values_of(keys_of(y, dtype), dtype)
    with np.errstate(invalid="ignore"):
        middle = value.astype(WIDE[dtype])
        half = 0.5 * ulp(value, dtype).astype(WIDE[dtype])
        found = bracketed(
            y, middle, half, 0 * half, dtype, inwards=np.asarray(0.5), flipped=np.asarray(False)
        )
    assert not found.clear.any()


@pytest.mark.parametrize("size", [0.25, 4.0, 100.0])
@pytest.mark.parametrize("dtype", WIDE)
def test_close_to_an_end_neither_tells_more_than_float64_does(dtype: str, size: float) -> None:
    """Unit by unit of the wide arithmetic around an interval's end: nothing that `Predecessors` doubts."""
    wide = np.dtype(WIDE[dtype]).type
    gap, unit = float(ulp(1.0, dtype)), float(np.finfo(wide).eps)
    steps = np.arange(-3000, 3000)
    w, y = 1.0 + 6 * gap, 1.25
    c = (w + 0.5 * gap + steps * unit).astype(wide)
    maps = Maps(np.ones(len(c)), y - c.astype(np.float64), np.full(len(c), size), TERMS)
    before, became = (_stored(np.full(len(c), one, np.float32), dtype) for one in (w, y))
    exact = Predecessors.of(became, maps, dtype, WIDE[dtype])
    doubt = Doubt.of(1, TERMS, WIDE[dtype])
    alone = lone(before, became, np.abs(c - wide(w)), size, doubt, dtype)
    assert not exact.doubtful[alone].any() and np.all(exact.count[alone] == 1)
    assert alone.any() or size > 50
    assert exact.doubtful.any() if dtype == "float32" else np.ptp(exact.first) > 0
    half = np.full(len(c), 0.5 * gap, wide)
    error = doubt.bound(half, np.asarray(size), dtype)
    found = bracketed(became, c, half, error, dtype, inwards=np.asarray(0.5), flipped=np.asarray(False))
    assert not exact.doubtful[found.clear].any()
    assert np.array_equal(found.count[found.clear], exact.count[found.clear])
    assert np.array_equal(found.first[found.clear], exact.first[found.clear])
