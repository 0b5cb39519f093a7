"""Variances of rounding by row and by column, against sums over every element in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fixtures.rounded_deltas import RoundedDelta
from loratools.linalg.noise_grid import recognise
from loratools.linalg.noise_profile import NoiseProfile, profile_noise
from loratools.linalg.rounding import ulp


def profile(values: torch.Tensor) -> NoiseProfile:
    return profile_noise(values, recognise(values))


def weights(shape: tuple[int, int] = (300, 200), **changes: str) -> torch.Tensor:
    return RoundedDelta(shape, 0, 1.0, **changes).make()[0]


@pytest.mark.parametrize("storage", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("scale", [1e-30, 1.0])
def test_sums_are_those_of_squared_units_over_twelve(storage: str, scale: float) -> None:
    values = weights(storage=storage)
    if scale != 1.0 and storage == "float16":
        pytest.skip("float16 has no such numbers")
    values = (values.float() * scale).to(values.dtype)
    squares = ulp(values.double().numpy(), storage) ** 2 / 12.0
    found = profile(values)
    np.testing.assert_allclose(found.variances.rows, squares.sum(1), rtol=1e-5)
    np.testing.assert_allclose(found.variances.columns, squares.sum(0), rtol=1e-5)
    assert found.units_squared == pytest.approx(12.0 * squares.sum(), rel=1e-5)
    assert found.largest == pytest.approx(0.5 * np.sqrt(12.0 * squares.max()), rel=1e-6)


def test_rows_and_columns_of_their_own_scale_are_a_product() -> None:
    values = weights((640, 480)).float()
    values[100:200] *= 9.0
    values[:, 50:70] *= 30.0
    assert profile(values.to(torch.bfloat16)).product


def test_a_block_of_its_own_scale_and_heavy_tails_are_none() -> None:
    values = weights((640, 480)).float()
    values[:200, :150] *= 9.0
    assert not profile(values.to(torch.bfloat16)).product
    assert not profile(weights((640, 480), tails="student")).product


def test_zeros_have_next_to_no_noise() -> None:
    assert profile(torch.zeros(20, 30)).variances.total < 1e-60
