"""Figures of spectra, and bounds from their leading values, held against whole spectra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.linalg.spectra import SHARES, Bounds, spectral_figures


def effective_rank(values: np.ndarray) -> float:
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def energies(values: np.ndarray) -> np.ndarray:
    return np.cumsum(np.square(values)) / np.sum(np.square(values))


@st.composite
def spectra(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """A whole spectrum, smooth, steep, flat or with steps and zeros, and how many of its values are known."""
    count = draw(st.integers(2, 40))
    generator = np.random.default_rng(draw(st.integers(0, 10**6)))
    values = np.abs(generator.standard_normal(count)) ** draw(st.sampled_from([0.1, 1.0, 3.0, 8.0]))
    known = draw(st.integers(1, count - 1))
    values = np.sort(values)[::-1]
    tail = draw(st.sampled_from(["as it is", "zeros and largest", "all largest", "one", "none"]))
    beyond = {
        "as it is": values[known:],
        "zeros and largest": values[known - 1] * generator.integers(0, 2, count - known),
        "all largest": np.full(count - known, values[known - 1]),
        "one": values[known - 1] * (np.arange(count - known) == 0) * generator.random(),
        "none": np.zeros(count - known),
    }[tail]
    return np.sort(np.concatenate([values[:known], beyond]))[::-1], known


@given(case=spectra(), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_the_whole_spectrum_lies_within_the_bounds_of_its_leading_values(
    case: tuple[np.ndarray, int], scale: float
) -> None:
    values, known = case
    values = values * scale
    ranks = sorted({1, known, known + 1, values.size})
    found = spectral_figures(values[:known], float(np.sum(values**2)), values.size, ranks=ranks)
    assert found.effective_rank is not None
    low, high = found.effective_rank.low, found.effective_rank.high
    assert low * (1 - 1e-7) <= effective_rank(values) <= high * (1 + 1e-7)
    for rank, energy in found.energy_at_rank.items():
        assert energy is not None
        assert energy.low - 1e-9 <= energies(values)[rank - 1] <= energy.high + 1e-9
    for share, rank in found.rank_at_energy.items():
        true = int(np.flatnonzero(energies(values) >= share * (1 - 1e-13))[0]) + 1
        assert rank.low <= true <= rank.high
    assert found.stable_rank == pytest.approx(np.sum(values**2) / values[0] ** 2)


@given(case=spectra())
def test_a_whole_spectrum_decides_every_figure(case: tuple[np.ndarray, int]) -> None:
    values, _ = case
    found = spectral_figures(values, float(np.sum(values**2)), values.size, ranks=[1, 2])
    assert found.effective_rank is not None
    assert found.effective_rank.value == pytest.approx(effective_rank(values), rel=1e-12)
    assert all(bounds is not None and bounds.value is not None for bounds in found.energy_at_rank.values())
    assert all(bounds.value is not None for bounds in found.rank_at_energy.values())


@pytest.mark.parametrize("others", [1, 5, 300])
def test_the_bounds_of_the_effective_rank_are_reached(others: int) -> None:
    """From above by a flat tail; from below by one that is as large as it may be, and then nothing."""
    known = np.array([5.0, 3.0, 1.0])
    flat = np.concatenate([known, np.full(others, 0.25)])
    found = spectral_figures(known, float(np.sum(flat**2)), 3 + others)
    assert found.effective_rank is not None
    assert found.effective_rank.high == pytest.approx(effective_rank(flat), rel=1e-12)
    steep = np.concatenate([known, np.ones((others + 1) // 2), np.zeros(others // 2)])
    found = spectral_figures(known, float(np.sum(steep**2)), 3 + others)
    assert found.effective_rank is not None
    assert found.effective_rank.low == pytest.approx(effective_rank(steep), rel=1e-12)


def test_ranks_that_the_values_do_not_reach_have_sharp_bounds() -> None:
    """4 of energy is missing: at least 4 values of at most 1, at most all of 16 values of 1/2."""
    found = spectral_figures([2.0, 1.0], 9.0, 18, shares=[0.5, 1.0])
    assert found.rank_at_energy == {0.5: Bounds(2, 2), 1.0: Bounds(6, 18)}
    assert found.rank_at_energy[1.0].value is None


def test_a_rank_may_be_decided_without_the_values() -> None:
    """One value is left, and it is needed."""
    assert spectral_figures([2.0, 1.0], 6.0, 3, shares=[0.99]).rank_at_energy[0.99].value == 3


def test_an_error_of_the_norm_widens_the_bounds() -> None:
    values = np.array([3.0, 2.0, 1.0])
    tight = spectral_figures(values, 15.0, 40).effective_rank
    wide = spectral_figures(values, 15.0, 40, error=0.5).effective_rank
    assert tight is not None and wide is not None
    assert wide.low < tight.low and tight.high < wide.high


def test_a_zero_matrix_has_rank_zero_and_no_distribution() -> None:
    for values in ([], [0.0, 0.0]):
        found = spectral_figures(values, 0.0, len(values), ranks=[1])
        assert found.effective_rank is None and found.stable_rank is None
        assert found.energy_at_rank == {1: None}
        assert found.rank_at_energy == {share: Bounds(0, 0) for share in SHARES}


@pytest.mark.parametrize(
    ("values", "count"), [([1.0, 2.0], 4), ([1.0, -1.0], 4), ([], 3), ([2.0, 1.0], 1)], ids=str
)
def test_values_that_make_no_spectrum_are_refused(values: list[float], count: int) -> None:
    with pytest.raises(ValueError, match="singular values"):
        spectral_figures(values, 5.0, count)
