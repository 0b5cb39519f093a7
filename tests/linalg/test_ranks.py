"""Ranks from energies, and where factors stop paying."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.linalg.ranks import breakeven_rank, rank_for_energy


@pytest.mark.parametrize(
    ("share", "rank"),
    [(0.0, 0), (1e-9, 1), (0.5, 1), (0.64, 1), (0.65, 2), (0.8, 2), (0.81, 3), (0.95, 3), (1.0, 4)],
)
def test_the_least_rank_that_keeps_a_share(share: float, rank: int) -> None:
    values = np.sqrt([64.0, 16.0, 15.0, 5.0])
    assert rank_for_energy(values, 100.0, share) == rank


def test_values_that_do_not_reach_the_share_decide_nothing() -> None:
    assert rank_for_energy([8.0, 4.0], 100.0, 0.81) is None


def test_a_zero_matrix_needs_no_direction() -> None:
    assert rank_for_energy([0.0, 0.0], 0.0, 1.0) == 0


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share of energy"):
        rank_for_energy([1.0], 1.0, share)


def test_a_matrix_of_singular_values_is_refused() -> None:
    with pytest.raises(ValueError, match="one-dimensional"):
        rank_for_energy(np.ones((2, 2)), 4.0, 0.5)


@given(
    values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40),
    share=st.floats(0.01, 1.0),
)
def test_one_direction_less_would_not_do(values: list[float], share: float) -> None:
    squares = np.sort(np.square(values))[::-1]
    rank = rank_for_energy(np.sqrt(squares), float(np.sum(squares)), share)
    assert rank is not None and rank >= 1
    assert np.sum(squares[:rank]) >= share * np.sum(squares) * (1 - 1e-12)
    assert np.sum(squares[: rank - 1]) < share * np.sum(squares)


@given(rows=st.integers(1, 5000), columns=st.integers(1, 5000))
def test_break_even_is_the_last_rank_that_saves(rows: int, columns: int) -> None:
    rank = breakeven_rank(rows, columns)
    assert rank * (rows + columns) < rows * columns
    assert (rank + 1) * (rows + columns) >= rows * columns


def test_sides_must_be_positive() -> None:
    with pytest.raises(ValueError, match="positive sides"):
        breakeven_rank(0, 4)
