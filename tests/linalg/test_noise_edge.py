"""The largest singular value of independent entries, against closed forms and against drawn matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from loratools.linalg.noise_edge import _tracy_widom, fluctuation, largest_of_noise
from loratools.linalg.noise_profile import Variances

Matrix = NDArray[np.float64]


def variances(profile: Matrix) -> Variances:
    return Variances(profile.sum(1), profile.sum(0))


def drawn(profile: Matrix, count: int, seed: int = 0) -> Matrix:
    """Largest singular values, by LAPACK, of matrices of uniform entries with these variances."""
    generator = np.random.default_rng(seed)
    widths = np.sqrt(12.0 * profile)
    noise = (widths * generator.uniform(-0.5, 0.5, profile.shape) for _ in range(count))
    return np.array([np.linalg.norm(matrix, 2) for matrix in noise])


@pytest.mark.parametrize("shape", [(400, 400), (900, 300), (50, 2000)])
def test_equal_variances_end_where_marchenko_and_pastur_say(shape: tuple[int, int]) -> None:
    spread = variances(np.full(shape, 0.25))
    edge = largest_of_noise(spread, 0.0, 0.05) / fluctuation(spread, 0.05)
    assert edge == pytest.approx(0.5 * (math.sqrt(shape[0]) + math.sqrt(shape[1])), rel=1e-3)


@pytest.mark.parametrize(("probability", "quantile"), [(0.01, 2.0234), (0.005, 2.4224), (0.001, 3.2724)])
def test_quantiles_are_those_of_tracy_and_widom(probability: float, quantile: float) -> None:
    """Table of F_1: M. Prähofer's, as quoted by I. Johnstone (2001) and by A. Bejan (2005)."""
    assert _tracy_widom(probability) == pytest.approx(quantile, abs=0.15)


SHAPES = [(16, 64), (64, 64), (200, 30), (300, 200)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_white_noise_exceeds_the_quantile_as_seldom_as_it_says(shape: tuple[int, int]) -> None:
    profile = np.full(shape, 1.0 / 12.0)
    norms = drawn(profile, 200)
    exceeded = float((norms > largest_of_noise(variances(profile), 0.5, 0.05)).mean())
    assert exceeded <= 0.08
    assert norms.max() > 0.9 * largest_of_noise(variances(profile), 0.5, 1e-3)


@pytest.mark.parametrize(("spread", "slack"), [(0.3, 1.1), (0.7, 1.2), (1.0, 1.3)])
def test_rows_and_columns_of_their_own_scale(spread: float, slack: float) -> None:
    """Where a few rows hold most of the noise the law of white noise of so few rows overstates its spread."""
    generator = np.random.default_rng(3)
    rows = np.exp(2.0 * spread * generator.normal(size=(300, 1)))
    columns = np.exp(spread * generator.normal(size=(1, 200)))
    profile = rows * columns / 12.0
    norms = drawn(profile, 40)
    floor = largest_of_noise(variances(profile), 0.0, 1e-3)
    assert norms.max() <= 1.01 * floor
    assert floor <= slack * np.median(norms)


def test_a_single_large_entry_stands_out_by_the_formula_of_spikes() -> None:
    profile = np.full((300, 200), 1.0 / 12.0)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, profile.shape)
    noise[5, 7] = 30.0
    floor = largest_of_noise(variances(profile), 30.0, 1e-3)
    assert np.linalg.norm(noise, 2) == pytest.approx(floor, rel=0.01)


def test_no_noise_has_no_floor() -> None:
    assert largest_of_noise(Variances(np.zeros(3), np.zeros(4)), 0.0, 1e-3) == 0.0


def test_a_rarer_excess_needs_a_higher_floor() -> None:
    spread = variances(np.full((60, 40), 1.0))
    floors = [largest_of_noise(spread, 0.0, probability) for probability in (1e-2, 1e-3, 1e-5, 1e-8)]
    assert floors == sorted(floors)
    assert floors[-1] < 1.3 * floors[0]
