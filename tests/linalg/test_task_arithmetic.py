"""Pruning, election of signs and sums, by their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from loratools.linalg.task_arithmetic import (
    MajoritySign,
    disjoint_mean,
    keep_at_random,
    keep_largest,
    majority_mask,
    task_sum,
)

matrices = arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.integers(-4, 4))


@given(array=matrices, density=st.floats(0.01, 1.0))
def test_the_largest_stay_and_of_equals_the_first(array: np.ndarray, density: float) -> None:
    found = keep_largest(array, density)
    count = array.size if density >= 1.0 else int(density * array.size)
    order = sorted(range(array.size), key=lambda at: (-abs(array.flat[at]), at))
    wanted = np.zeros(array.size)
    for at in order[:count]:
        wanted[at] = array.flat[at]
    assert np.array_equal(found.reshape(-1), wanted)


def test_what_stays_by_chance_keeps_the_mean() -> None:
    array = np.full((200, 200), 3.0)
    found = keep_at_random(array, 0.25, np.random.default_rng(0))
    assert set(np.unique(found)) == {0.0, 12.0}
    assert np.count_nonzero(found) / array.size == pytest.approx(0.25, abs=0.01)
    assert keep_at_random(array, 1.0, np.random.default_rng(0)) is array


def test_signs_by_sum_and_by_number() -> None:
    stacked = np.array([[[-5.0, 1.0, 0.0]], [[1.0, -1.0, 0.0]], [[1.0, 0.0, -2.0]]])
    by_sum = majority_mask(stacked, MajoritySign.TOTAL)
    assert by_sum[:, 0].tolist() == [[True, True, False], [False, False, False], [False, False, True]]
    by_number = majority_mask(stacked, MajoritySign.FREQUENCY)
    assert by_number[:, 0].tolist() == [[False, True, False], [True, False, False], [True, False, True]]


def test_the_mean_is_over_those_that_agree() -> None:
    weighted = np.array([[4.0, 1.0], [2.0, 5.0], [-9.0, 7.0]])
    mask = np.array([[True, False], [True, False], [False, False]])
    assert disjoint_mean(weighted, mask).tolist() == [3.0, 0.0]


def test_a_sum_with_weights() -> None:
    stacked = np.arange(12.0).reshape(2, 2, 3)
    assert np.array_equal(task_sum(stacked, np.array([2.0, -1.0])), 2.0 * stacked[0] - stacked[1])
