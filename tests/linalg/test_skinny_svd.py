"""Decompositions of products of skinny factors, against the dense product."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.linalg.factors import difference_norm
from loratools.linalg.skinny_svd import product_svd, rounding_norm, sum_norm, weighted_sum

sides = st.integers(1, 40)


def factors(m: int, n: int, r: int, seed: int, spread: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """lora_A and lora_B; `spread`: decades between the first and the last direction of each."""
    generator = np.random.default_rng(seed)
    scale = 10.0 ** -np.linspace(0.0, spread, r)
    return scale[:, None] * generator.standard_normal((r, n)), generator.standard_normal((m, r)) * scale


@settings(max_examples=80, deadline=None)
@given(m=sides, n=sides, r=st.integers(1, 12), rank=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_truncations_are_those_of_the_dense_product(m: int, n: int, r: int, rank: int, seed: int) -> None:
    A, B = factors(m, n, r, seed)
    dense = B @ A
    found, values = product_svd(A, B), np.linalg.svd(dense, compute_uv=False)
    size = np.linalg.norm(dense)
    assert np.allclose(found.S, values[: found.S.size], atol=1e-12 * size)
    lora_A, lora_B = found.folded(rank)
    assert lora_A.shape == (rank, n) and lora_B.shape == (m, rank)
    optimum = np.linalg.norm(values[rank:])
    assert np.linalg.norm(dense - lora_B @ lora_A) == pytest.approx(optimum, abs=1e-11 * size)
    assert found.beyond(rank) == pytest.approx(optimum, abs=1e-11 * size)


@pytest.mark.parametrize("spread", [0.0, 3.0, 6.0])
def test_ill_conditioned_factors_keep_their_product(spread: float) -> None:
    A, B = factors(200, 150, 8, seed=1, spread=spread)
    found = product_svd(A, B)
    lora_A, lora_B = found.folded(8)
    assert difference_norm((A, B), (lora_A, lora_B)) < 1e-9 * found.norm


@pytest.mark.parametrize("scale", [1e-160, 1e160])
def test_extreme_scales(scale: float) -> None:
    A, B = factors(30, 20, 4, seed=2)
    found, plain = product_svd(A * scale, B / scale), product_svd(A, B)
    assert np.allclose(found.S, plain.S, rtol=1e-12)


def test_a_product_of_zero_has_no_directions() -> None:
    found = product_svd(np.zeros((3, 10)), np.ones((8, 3)))
    assert found.S.size == 0 and found.norm == 0.0
    assert not any(factor.any() for factor in found.folded(2))


@settings(max_examples=50, deadline=None)
@given(
    m=sides,
    n=sides,
    r=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    dtype=st.sampled_from(["float32", "float16"]),
)
def test_what_rounding_cost(m: int, n: int, r: int, seed: int, dtype: str) -> None:
    A, B = factors(m, n, r, seed)
    stored = A.astype(dtype).astype(np.float64), B.astype(dtype).astype(np.float64)
    wanted = np.linalg.norm(B @ A - stored[1] @ stored[0])
    assert rounding_norm((A, B), stored) == pytest.approx(wanted, rel=1e-6, abs=1e-13)


def test_nothing_was_rounded() -> None:
    A, B = factors(9, 7, 3, seed=0)
    assert rounding_norm((A, B), (A, B)) == 0.0


@pytest.mark.parametrize("difference", [1.0, 1e-3, 1e-9, 0.0])
def test_norms_of_sums_that_cancel(difference: float) -> None:
    (A, B), (more, _) = factors(40, 30, 4, seed=0), factors(40, 30, 4, seed=1)
    found = sum_norm(*weighted_sum([(1.0, (A + difference * more, B)), (-1.0, (A, B))]))
    wanted = difference * np.linalg.norm(B @ more)
    assert found == pytest.approx(wanted, rel=1e-6, abs=1e-13 * np.linalg.norm(B @ A))


def test_a_weighted_sum_is_one_product() -> None:
    one, two = factors(9, 7, 3, seed=0), factors(9, 7, 5, seed=1)
    A, B = weighted_sum([(0.5, one), (-2.0, two)])
    assert np.allclose(B @ A, 0.5 * one[1] @ one[0] - 2.0 * two[1] @ two[0])
    with pytest.raises(ValueError, match="different shapes"):
        weighted_sum([(1.0, one), (1.0, factors(9, 8, 3, seed=0))])
