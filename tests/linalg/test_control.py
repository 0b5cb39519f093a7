"""The random control: drawn from blocks, it must be what whole random matrices give, at its stated rate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, ks_2samp

from loratools.linalg.control import COVERAGE, _drawn, draw_grids, random_control
from loratools.linalg.subspaces import expected_similarity, right_directions, similarity_grid

SHAPES = [
    (4, 8, 192),
    (8, 64, 192),
    (16, 16, 2048),
    (3, 3, 7),
    (4, 3, 6),
    (5, 5, 5),
    (1, 1, 2),
    (6, 2, 6),
    (5, 11, 40),
]


def drawn(first: int, second: int, dimension: int, draws: int, seed: int = 99) -> np.ndarray:
    return np.concatenate(list(draw_grids(first, second, dimension, draws, np.random.default_rng(seed))))


def whole(first: int, second: int, dimension: int, draws: int, seed: int = 7) -> np.ndarray:
    """The same the long way: factors of the full width, decomposed and compared."""
    generator = np.random.default_rng(seed)
    return np.array(
        [
            similarity_grid(
                right_directions(generator.standard_normal((first, dimension))),
                right_directions(generator.standard_normal((second, dimension))),
            )
            for _ in range(draws)
        ]
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_drawn_mean_is_the_closed_form(shape: tuple[int, int, int]) -> None:
    grids = drawn(*shape, 2000)
    error = grids.std(axis=0) / np.sqrt(len(grids))
    off = np.abs(grids.mean(axis=0) - expected_similarity(*shape))
    assert np.all(off <= 5.0 * error + 1e-12)
    control = random_control(*shape)
    error = grids.std(axis=0) / np.sqrt(control.draws)
    assert np.all(np.abs(control.mean - expected_similarity(*shape)) <= 5.0 * error + 1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_drawn_variance_is_the_closed_form(shape: tuple[int, int, int]) -> None:
    """What brings the cells to one scale."""
    first, second, n = shape
    i, j = np.arange(1, first + 1)[:, None], np.arange(1, second + 1)[None, :]
    expected = 2 * i * j * (n - i) * (n - j) / (n**2 * (n - 1) * (n + 2)) / np.minimum(i, j) ** 2
    np.testing.assert_allclose(drawn(*shape, 4000).var(axis=0), expected, rtol=0.25, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 5, 24), (5, 3, 24), (3, 3, 5)], ids=str)
def test_blocks_are_distributed_as_those_of_whole_matrices(shape: tuple[int, int, int]) -> None:
    short, long = drawn(*shape, 1500), whole(*shape, 1500)
    for i, j in [(0, 0), (1, 2), (2, 2)]:
        assert ks_2samp(short[:, i, j], long[:, i, j]).pvalue > 1e-4
    # not only cell by cell: two cells together
    np.testing.assert_allclose(
        np.corrcoef(short[:, 0, 0], short[:, 2, 2])[0, 1],
        np.corrcoef(long[:, 0, 0], long[:, 2, 2])[0, 1],
        atol=0.12,
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_band_holds_fresh_grids_at_its_rate(shape: tuple[int, int, int]) -> None:
    """Of bands and grids together: one band may be a little wide or narrow, so many are drawn."""
    bands, each = 10, 200
    held = sum(
        random_control(*shape, seed).holds(grid)
        for seed in range(bands)
        for grid in drawn(*shape, each, seed=1000 + seed)
    )
    # the quantile of a band rests on its own draws: its rate varies as Beta(990, 10) does
    assert binom.ppf(1e-3, bands * each, COVERAGE - 0.002) <= held
    assert held <= binom.ppf(1 - 1e-3, bands * each, COVERAGE + 0.002) or not _varies(shape)


def _varies(shape: tuple[int, int, int]) -> bool:
    """Whether more than spans that are the whole space is compared."""
    return min(shape[:2]) < shape[2]


def test_200_independent_pairs_of_real_factors_lie_in_the_band_at_its_rate() -> None:
    control = random_control(8, 16, 96)
    held = sum(control.holds(grid) for grid in whole(8, 16, 96, 200))
    assert binom.ppf(1e-4, 200, COVERAGE) <= held <= 200


def test_what_is_shared_lies_outside() -> None:
    generator = np.random.default_rng(0)
    A = generator.standard_normal((8, 96))
    near = A + 0.5 * generator.standard_normal((8, 96))
    grid = similarity_grid(right_directions(A), right_directions(near))
    assert not random_control(8, 8, 96).holds(grid)


def test_spans_that_are_the_whole_space_are_certain() -> None:
    control = random_control(3, 5, 5)
    np.testing.assert_allclose(control.mean[:, -1], 1.0)
    np.testing.assert_allclose(control.low[:, -1], 1.0, atol=1e-8)


def test_the_same_arguments_give_the_same_control() -> None:
    before = random_control(4, 6, 50, 3)
    _drawn.cache_clear()
    random_control(7, 8, 50, 3)  # whatever was drawn before
    np.testing.assert_array_equal(random_control(4, 6, 50, 3).high, before.high)
    assert np.any(random_control(4, 6, 50, 4).high != before.high)
    random_control(2, 2, 9, -1)  # any integer is a seed


def test_ranks_share_drawings() -> None:
    _drawn.cache_clear()
    for first in range(9, 17):
        for second in range(33, 65):
            random_control(first, second, 96)
    assert _drawn.cache_info().misses == 1


def test_the_band_surrounds_the_mean_and_stays_in_range() -> None:
    control = random_control(7, 5, 64)
    assert np.all((control.low <= control.mean) & (control.mean <= control.high))
    assert control.low.min() >= 0.0 and control.high.max() <= 1.0


@pytest.mark.parametrize("shape", [(0, 3, 9), (3, 10, 9)], ids=str)
def test_ranks_that_the_space_does_not_have_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="directions in 9 dimensions"):
        random_control(*shape)
