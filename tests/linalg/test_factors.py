"""Folding singular values into factors, and norms of products that are never formed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.linalg.factors import Fold, difference_norm, fold, product_norm, residual_norm


def factors(seed: int, m: int = 30, n: int = 20, r: int = 4) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((r, n)), generator.standard_normal((m, r))


@pytest.mark.parametrize("where", list(Fold))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_product_of_the_factors_is_the_matrix(where: Fold, dtype: type) -> None:
    delta = np.random.default_rng(0).standard_normal((12, 9)).astype(dtype)
    U, S, Vh = np.linalg.svd(delta, full_matrices=False)
    lora_A, lora_B = fold(U, S, Vh, where)
    assert lora_A.dtype == lora_B.dtype == dtype
    assert lora_A.flags.c_contiguous and lora_B.flags.c_contiguous
    np.testing.assert_allclose(lora_B @ lora_A, delta, atol=20 * np.finfo(dtype).eps)


def test_where_the_singular_values_go() -> None:
    U, S, Vh = np.linalg.svd(np.random.default_rng(0).standard_normal((12, 9)), full_matrices=False)
    norms = {
        where: [np.linalg.norm(f, axis=a) for f, a in zip(fold(U, S, Vh, where), (1, 0), strict=True)]
        for where in Fold
    }
    np.testing.assert_allclose(norms[Fold.SQRT], [np.sqrt(S), np.sqrt(S)])
    np.testing.assert_allclose(norms[Fold.A], [S, np.ones(9)])
    np.testing.assert_allclose(norms[Fold.B], [np.ones(9), S])


def test_factors_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        fold(np.ones((4, 2)), np.ones(3), np.ones((2, 5)))
    with pytest.raises(ValueError, match="cannot be multiplied"):
        product_norm(np.ones((2, 4)), np.ones((4, 3)))
    with pytest.raises(ValueError, match="different shapes"):
        difference_norm((np.ones((1, 4)), np.ones((4, 1))), (np.ones((1, 5)), np.ones((4, 1))))


@given(seed=st.integers(0, 10**6), r=st.integers(0, 30), exponent=st.integers(-150, 150))
def test_the_norm_of_a_product(seed: int, r: int, exponent: int) -> None:
    lora_A, lora_B = factors(seed, r=r)
    lora_A = lora_A * 2.0**exponent
    assert product_norm(lora_A, lora_B) == pytest.approx(np.linalg.norm(lora_B @ lora_A), rel=1e-12)


def test_a_product_that_cancels_keeps_its_digits() -> None:
    """A trace of Gram matrices loses half of the digits here: 1e-12 beside 1 becomes noise."""
    lora_A, lora_B = factors(0, r=2)
    lora_A = np.concatenate([lora_A, lora_A * (1 + 1e-12)])
    lora_B = np.concatenate([lora_B, -lora_B], axis=1)
    assert product_norm(lora_A, lora_B) == pytest.approx(np.linalg.norm(lora_B @ lora_A), rel=1e-2)


def test_the_difference_of_two_products() -> None:
    first, second = factors(1, r=4), factors(2, r=7)
    formed = np.linalg.norm(first[1] @ first[0] - second[1] @ second[0])
    assert difference_norm(first, second) == pytest.approx(formed, rel=1e-12)
    assert difference_norm(first, first) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("stored", [np.float16, np.float32])
def test_the_residual_of_factors_as_stored(stored: type) -> None:
    delta = np.random.default_rng(0).standard_normal((40, 30))
    U, S, Vh = np.linalg.svd(delta, full_matrices=False)
    exact = fold(U[:, :8], S[:8], Vh[:8])
    rounded = exact[0].astype(stored), exact[1].astype(stored)
    truth = np.linalg.norm(delta - rounded[1].astype(np.float64) @ rounded[0].astype(np.float64))
    remainder = float(np.linalg.norm(S[8:]))
    assert residual_norm(remainder, exact, rounded) == pytest.approx(truth, rel=1e-7)
