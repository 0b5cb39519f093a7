"""Directions of skinny factors and the similarity of their spans, against numpy's own decompositions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.linalg.subspaces import (
    DirectionSet,
    expected_similarity,
    left_directions,
    product_directions,
    right_directions,
    similarity_grid,
)

Pair = tuple[np.ndarray, np.ndarray]


def factors(seed: int, rank: int = 6, *, m: int = 40, n: int = 70, condition: float = 30.0) -> Pair:
    """lora_A (r, n) and lora_B (m, r) whose singular values fall geometrically."""
    generator = np.random.default_rng(seed)
    fall = np.geomspace(1.0, 1.0 / condition, rank)
    A = np.linalg.qr(generator.standard_normal((rank, rank)))[0] @ np.diag(fall)
    A = A @ np.linalg.qr(generator.standard_normal((n, rank)))[0].T
    B = np.linalg.qr(generator.standard_normal((m, rank)))[0] @ np.diag(fall)
    return A, B @ np.linalg.qr(generator.standard_normal((rank, rank)))[0]


def definition(U1: np.ndarray, U2: np.ndarray) -> np.ndarray:
    """Equation 4, cell by cell."""
    grid = np.empty((U1.shape[1], U2.shape[1]))
    for i in range(1, U1.shape[1] + 1):
        for j in range(1, U2.shape[1] + 1):
            grid[i - 1, j - 1] = np.linalg.norm(U1[:, :i].T @ U2[:, :j]) ** 2 / min(i, j)
    return grid


def right_of(matrix: np.ndarray, rank: int) -> np.ndarray:
    return np.linalg.svd(matrix, full_matrices=False)[2][:rank].T


def left_of(matrix: np.ndarray, rank: int) -> np.ndarray:
    return np.linalg.svd(matrix, full_matrices=False)[0][:, :rank]


@pytest.mark.parametrize("condition", [1.0001, 30.0, 1e3, 1e5], ids=lambda c: f"condition {c:g}")
@pytest.mark.parametrize(("first", "second"), [(6, 6), (4, 9), (1, 12)])
def test_grids_of_factors_are_those_of_the_definition(first: int, second: int, condition: float) -> None:
    A1, B1 = factors(1, first, condition=condition)
    A2, B2 = factors(2, second, condition=condition)
    A2[:first] += A1[: len(A2)]  # something is shared
    in_A = similarity_grid(right_directions(A1), right_directions(A2))
    np.testing.assert_allclose(in_A, definition(right_of(A1, first), right_of(A2, second)), atol=1e-10)
    in_B = similarity_grid(left_directions(B1), left_directions(B2))
    np.testing.assert_allclose(in_B, definition(left_of(B1, first), left_of(B2, second)), atol=1e-10)


@pytest.mark.parametrize("condition", [3.0, 100.0])
def test_grids_of_products_are_those_of_the_products_formed(condition: float) -> None:
    A1, B1 = factors(1, 5, condition=condition)
    A2, B2 = factors(2, 7, condition=condition)
    right1, left1 = product_directions(A1, B1)
    right2, left2 = product_directions(A2, B2)
    P1, P2 = B1 @ A1, B2 @ A2
    np.testing.assert_allclose(
        similarity_grid(right1, right2), definition(right_of(P1, 5), right_of(P2, 7)), atol=1e-10
    )
    np.testing.assert_allclose(
        similarity_grid(left1, left2), definition(left_of(P1, 5), left_of(P2, 7)), atol=1e-10
    )
    np.testing.assert_allclose(right1.values, np.linalg.svd(P1)[1][:5], rtol=1e-9)


@pytest.mark.parametrize("condition", [2.0, 1e4], ids=["through Gram", "through QR"])
def test_directions_are_orthonormal_and_point_as_numpys(condition: float) -> None:
    A, B = factors(3, condition=condition)
    for found, reference in (
        (right_directions(A), right_of(A, 6)),
        (left_directions(B), left_of(B, 6)),
    ):
        assert (found.dimension, found.count) == (reference.shape[0], 6)
        np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(6), atol=1e-9)
        np.testing.assert_allclose(np.abs(np.diag(found.vectors.T @ reference)), 1.0, atol=1e-10)


def test_an_adapter_beside_itself_has_ones_on_the_diagonal() -> None:
    A, B = factors(4)
    for one in (right_directions(A), left_directions(B), *product_directions(A, B)):
        np.testing.assert_allclose(np.diag(similarity_grid(one, one)), 1.0, atol=1e-12)


def test_whole_spans_agree_where_the_product_mixes_them() -> None:
    """A's row space is that of BA where B has full column rank; the order of directions in it is not."""
    A, B = factors(5, condition=8.0)
    of_product, _ = product_directions(A, B)
    grid = similarity_grid(right_directions(A), of_product)
    assert grid[-1, -1] == pytest.approx(1.0)
    assert grid[0, 0] < 0.9


@given(seed=st.integers(0, 10**6), exponent=st.integers(-40, 40))
def test_scale_changes_no_direction(seed: int, exponent: int) -> None:
    A, _ = factors(seed)
    grid = similarity_grid(right_directions(A), right_directions(A * 2.0**exponent))
    np.testing.assert_allclose(np.diag(grid), 1.0, atol=1e-9)


@given(seed=st.integers(0, 10**6))
def test_another_split_of_the_product_changes_directions_of_factors_alone(seed: int) -> None:
    """(B R) (R^-1 A) is the same product for every invertible R."""
    A, B = factors(seed, condition=5.0)
    R = np.diag(np.geomspace(1.0, 20.0, 6)) @ np.linalg.qr(np.random.default_rng(seed).normal(size=(6, 6)))[0]
    other_A, other_B = np.linalg.solve(R, A), B @ R
    for one, other in zip(product_directions(A, B), product_directions(other_A, other_B), strict=True):
        np.testing.assert_allclose(np.diag(similarity_grid(one, other)), 1.0, atol=1e-8)
    grid = similarity_grid(right_directions(A), right_directions(other_A))
    assert grid[-1, -1] == pytest.approx(1.0) and grid[0, 0] < 0.999


@given(seed=st.integers(0, 10**6))
def test_a_grid_is_the_other_ones_transposed(seed: int) -> None:
    one, other = right_directions(factors(seed, 3)[0]), right_directions(factors(seed + 1, 5)[0])
    grid = similarity_grid(one, other)
    assert grid.shape == (3, 5) and grid.min() >= 0.0 and grid.max() <= 1.0
    np.testing.assert_allclose(grid, similarity_grid(other, one).T, atol=1e-14)


def test_only_directions_that_exist_are_there() -> None:
    A, B = factors(6)
    A[3:] = A[:3] + A[1]  # rank 3
    assert right_directions(A).count == 3
    assert left_directions(np.zeros((40, 6))).count == 0
    assert [one.count for one in product_directions(A, B)] == [3, 3]
    assert [one.count for one in product_directions(A, np.zeros((40, 6)))] == [0, 0]
    B[:, 2] = 0.0
    assert left_directions(B).count == 5
    assert similarity_grid(left_directions(B), left_directions(B)).shape == (5, 5)


def test_more_columns_than_rows() -> None:
    """A rank above the width of the layer: only as many directions as the space has."""
    wide = np.random.default_rng(0).standard_normal((9, 5))  # lora_A with r = 9, n = 5
    found = right_directions(wide)
    assert (found.dimension, found.count) == (5, 5)
    np.testing.assert_allclose(similarity_grid(found, found)[-1, -1], 1.0)
    right, left = product_directions(wide, np.random.default_rng(1).standard_normal((7, 9)))
    assert (right.count, left.count) == (5, 5)


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_scales_whose_squares_do_not_fit_into_float64(scale: float) -> None:
    A, _ = factors(7)
    grid = similarity_grid(right_directions(A * scale), right_directions(A))
    np.testing.assert_allclose(np.diag(grid), 1.0, atol=1e-9)


def test_the_leading_ones_are_the_first() -> None:
    found = right_directions(factors(8)[0])
    np.testing.assert_array_equal(found.leading(2).vectors, found.vectors[:, :2])
    assert found.leading(99).count == found.count == 6


def test_values_that_coincide_are_ties() -> None:
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 4)))[0]
    equal = DirectionSet(basis, np.eye(4), np.array([3.0, 2.0, 2.0, 1.0]))
    assert equal.ties(0.0) == (2,)
    assert equal.ties(1.5) == (1, 2, 3)
    assert right_directions(basis.T).ties(0.0) == (1, 2, 3)  # orthonormal rows: every order is as good
    assert right_directions(factors(9)[0]).ties(0.0) == ()


def test_spaces_of_different_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="70 and 40"):
        similarity_grid(right_directions(factors(0)[0]), left_directions(factors(0)[1]))


def test_the_expectation_of_a_pair_of_spans() -> None:
    expected = expected_similarity(2, 3, 12)
    np.testing.assert_allclose(expected, np.array([[1, 2, 3], [2, 2, 3]]) / 12)
