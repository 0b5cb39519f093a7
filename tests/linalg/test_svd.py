"""Truncated SVD: what holds whichever way it ran, and the edges."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loratools.linalg import svd
from loratools.linalg.norms import distance_squared, frobenius_squared
from loratools.linalg.svd import Factorization, SvdMethod, truncated_svd

METHODS = list(SvdMethod)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def decaying(m: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Twelve directions that fade, over noise."""
    generator = torch.Generator().manual_seed(seed)
    left, right = torch.randn(m, 12, generator=generator), torch.randn(12, n, generator=generator)
    strengths = 0.7 ** torch.arange(12.0)
    delta = (left * strengths) @ right + 0.05 * torch.randn(m, n, generator=generator)
    return delta.to(dtype)


def product(found: Factorization) -> torch.Tensor:
    return (found.U.double() * found.S.double()) @ found.Vh.double()


def relative_residual(delta: torch.Tensor, found: Factorization) -> float:
    return float((delta.double() - product(found)).norm() / delta.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(400, 330), (330, 400), (900, 330)], ids=str)
def test_triplets_are_those_of_lapack(shape: tuple[int, int], method: SvdMethod, dtype: torch.dtype) -> None:
    delta = decaying(*shape, dtype=dtype)
    before = delta.clone()
    found = truncated_svd(delta, rank=8, method=method)
    values = np.linalg.svd(delta.double().numpy(), compute_uv=False)
    assert found.certificate.method == {"auto": "krylov", "exact": "exact"}[method.value]
    assert found.U.shape == (shape[0], 8) and found.S.shape == (8,) and found.Vh.shape == (8, shape[1])
    assert found.U.dtype == found.S.dtype == found.Vh.dtype == dtype
    assert found.U.is_contiguous() and found.Vh.is_contiguous()
    np.testing.assert_allclose(found.S.numpy(), values[:8], rtol=2e-3)
    tight = 1e-5 if dtype is torch.float32 else 1e-9
    for vectors in (found.U.T, found.Vh):
        np.testing.assert_allclose((vectors @ vectors.T).numpy(), np.eye(8), atol=tight)
    assert found.norm_squared == pytest.approx(float(np.sum(values**2)), rel=1e-6)
    optimum = math.sqrt(np.sum(values[8:] ** 2) / np.sum(values**2))
    assert relative_residual(delta, found) <= optimum * 1.001
    assert found.certificate.residual == pytest.approx(relative_residual(delta, found), rel=1e-4)
    assert found.certificate.energy == pytest.approx(1.0 - found.certificate.residual**2, abs=1e-9)
    assert torch.equal(delta, before)


@pytest.mark.parametrize("method", METHODS)
def test_the_largest_entry_of_a_left_vector_is_positive(method: SvdMethod) -> None:
    found = truncated_svd(decaying(400, 330), rank=6, method=method)
    largest = found.U.abs().argmax(0)
    assert (found.U.gather(0, largest[None]) > 0).all()


def test_the_same_seed_gives_the_same_bytes_and_another_the_same_matrix() -> None:
    delta = decaying(400, 330)
    first, again, other = (truncated_svd(delta, rank=6, seed=seed) for seed in (5, 5, 6))
    assert all(torch.equal(getattr(first, name), getattr(again, name)) for name in ("U", "S", "Vh"))
    assert first.certificate == again.certificate
    assert not torch.equal(first.U, other.U)
    np.testing.assert_allclose(product(first).numpy(), product(other).numpy(), atol=2e-2)


@given(
    m=st.integers(1, 40), n=st.integers(1, 40), seed=st.integers(0, 99), dtype=st.sampled_from(["32", "64"])
)
@settings(max_examples=60, deadline=None)
def test_full_rank_reproduces_the_delta(m: int, n: int, seed: int, dtype: str) -> None:
    delta = torch.randn(m, n, generator=torch.Generator().manual_seed(seed)).to(
        getattr(torch, f"float{dtype}")
    )
    found = truncated_svd(delta, rank=max(m, n) + 3)
    assert found.S.shape == (min(m, n),)
    assert relative_residual(delta, found) <= 1e-6
    assert found.certificate.excess_is_absolute
    assert found.certificate.excess is not None and found.certificate.excess <= 1e-6


@given(m=st.integers(1, 60), n=st.integers(1, 60), rank=st.integers(1, 8), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_transposing_exchanges_the_sides(m: int, n: int, rank: int, seed: int) -> None:
    delta = torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
    found, turned = truncated_svd(delta, rank=rank), truncated_svd(delta.T, rank=rank)
    np.testing.assert_allclose(found.S.numpy(), turned.S.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(product(found).numpy(), product(turned).T.numpy(), atol=1e-3)


@pytest.mark.parametrize("exponent", [-130, -60, -30, -3, 5, 40, 90])
@pytest.mark.parametrize("method", METHODS)
def test_powers_of_two_scale_the_values_and_nothing_else(method: SvdMethod, exponent: int) -> None:
    delta = decaying(400, 330)
    delta = delta / 2.0 ** math.frexp(float(delta.abs().max()))[1]  # where no scaling is needed
    plain = truncated_svd(delta, rank=4, method=method)
    half = exponent // 2
    scaled = truncated_svd(delta * 2.0**half * 2.0 ** (exponent - half), rank=4, method=method)
    exact = exponent > -100  # below, entries become subnormal and lose bits
    tolerance = {"rtol": 0.0 if exact else 1e-2, "atol": 0.0 if exact else 1e-3}
    np.testing.assert_allclose(scaled.U.numpy(), plain.U.numpy(), **tolerance)
    np.testing.assert_allclose(
        scaled.S.double().numpy() / 2.0**exponent, plain.S.double().numpy(), **tolerance
    )
    assert scaled.norm_squared == pytest.approx(
        plain.norm_squared * 4.0**exponent, rel=1e-6 if exact else 1e-2
    )


def test_float64_whose_squares_overflow_is_scaled_too() -> None:
    delta = decaying(40, 33, dtype=torch.float64)
    plain, large = truncated_svd(delta, rank=3), truncated_svd(delta * 2.0**600, rank=3)
    np.testing.assert_allclose(large.S.numpy(), plain.S.numpy() * 2.0**600, rtol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (400, 330)], ids=str)
@pytest.mark.parametrize("request_", [{"rank": 2}, {"energy": 0.9}], ids=str)
def test_a_zero_delta_has_no_triplets(shape: tuple[int, int], request_: dict[str, float]) -> None:
    found = truncated_svd(torch.zeros(shape), **request_)  # type: ignore[arg-type]
    assert found.U.shape == (shape[0], 0) and found.S.shape == (0,) and found.Vh.shape == (0, shape[1])
    assert found.certificate.method == "zero" and found.certificate.excess is None
    assert found.norm_squared == 0.0 and found.certificate.residual == 0.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 50), (50, 1), (1, 1), (1, 4000)], ids=str)
def test_one_row_or_one_column(shape: tuple[int, int], method: SvdMethod) -> None:
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = truncated_svd(delta, rank=16, method=method)
    assert found.S.shape == (1,)
    assert relative_residual(delta, found) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("true_rank", [1, 3])
def test_a_delta_of_lower_rank_than_asked(true_rank: int, method: SvdMethod) -> None:
    generator = torch.Generator().manual_seed(0)
    delta = torch.randn(400, true_rank, generator=generator) @ torch.randn(
        true_rank, 330, generator=generator
    )
    found = truncated_svd(delta, rank=8, method=method)
    assert found.certificate.method == {"auto": "krylov", "exact": "exact"}[method.value]
    assert found.S.shape == (8,)
    assert float(found.S[true_rank]) < 1e-5 * float(found.S[0])
    assert found.certificate.excess_is_absolute and relative_residual(delta, found) < 1e-6
    np.testing.assert_allclose((found.U.T @ found.U).numpy(), np.eye(8), atol=1e-5)
    np.testing.assert_allclose((found.Vh @ found.Vh.T).numpy(), np.eye(8), atol=1e-5)


def test_a_spectrum_too_steep_for_float32_goes_on_in_float64() -> None:
    """The residual (2e-5 of the norm) drowns in float32's rounding of the first direction."""
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(400, 330, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(330, 330, generator=generator, dtype=torch.float64))[0]
    delta = ((left * torch.arange(1.0, 331.0, dtype=torch.float64) ** -4) @ right).float()
    found = truncated_svd(delta, rank=12)
    optimum = float(torch.linalg.svdvals(delta.double())[12:].norm() / delta.double().norm())
    assert found.certificate.method == "krylov"
    assert found.certificate.excess is not None
    assert found.certificate.excess >= relative_residual(delta, found) / optimum - 1.0
    assert found.certificate.excess <= 1e-3


@pytest.mark.parametrize("energy", [0.05, 0.5, 0.9, 0.97, 0.999999, 1.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["decaying", "power", "noise"])
def test_energy_asks_for_the_least_rank_that_keeps_it(kind: str, method: SvdMethod, energy: float) -> None:
    delta = {
        "decaying": lambda: decaying(400, 330),
        "power": lambda: decaying(400, 330) * 0.01 + decaying(400, 330, seed=1) ** 3,
        "noise": lambda: torch.randn(400, 330, generator=torch.Generator().manual_seed(0)),
    }[kind]()
    squares = np.linalg.svd(delta.double().numpy(), compute_uv=False) ** 2
    least = int(np.flatnonzero(np.cumsum(squares) >= energy * np.sum(squares) * (1 - 1e-13))[0]) + 1
    found = truncated_svd(delta, energy=energy, method=method)
    assert found.S.numel() == least
    assert found.certificate.energy >= energy - 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_max_rank_caps_both(method: SvdMethod) -> None:
    delta = decaying(400, 330)
    assert truncated_svd(delta, energy=0.999, max_rank=5, method=method).S.numel() == 5
    assert truncated_svd(delta, rank=9, max_rank=5, method=method).S.numel() == 5
    assert truncated_svd(delta, energy=0.1, max_rank=5, method=method).S.numel() == 1


def test_small_matrices_and_large_ranks_go_to_lapack() -> None:
    assert truncated_svd(decaying(100, 60), rank=4).certificate.method == "exact"
    assert truncated_svd(decaying(400, 330), rank=100).certificate.method == "exact"


def test_a_search_without_budget_ends_in_lapack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(svd, "_lapack_cost", lambda rows, columns: 0.0)
    found = truncated_svd(decaying(400, 330), rank=4)
    assert found.certificate.method == "exact"
    assert found.certificate.excess is not None and found.certificate.excess < 1e-6


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e30], ids=str)
def test_a_norm_that_is_known_changes_nothing(scale: float) -> None:
    delta = decaying(400, 350) * scale
    known = frobenius_squared(delta)  # at the outer scales zero and infinite
    told = truncated_svd(delta, rank=5, norm_squared=known)
    asked = truncated_svd(delta, rank=5)
    assert told.certificate == asked.certificate and told.norm_squared == asked.norm_squared
    assert all(
        torch.equal(*pair)
        for pair in zip((told.U, told.S, told.Vh), (asked.U, asked.S, asked.Vh), strict=True)
    )


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf")])
def test_entries_that_are_not_finite_are_counted(wrong: float) -> None:
    delta = decaying(40, 30)
    delta[3, 4] = delta[5, 6] = wrong
    with pytest.raises(ValueError, match="2 of 1200 entries"):
        truncated_svd(delta, rank=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one"),
        ({"rank": 2, "energy": 0.5}, "exactly one"),
        ({"rank": 0}, "rank must be at least 1"),
        ({"rank": 2, "max_rank": 0}, "max_rank must be at least 1"),
        ({"energy": 0.0}, "share in"),
        ({"energy": 1.5}, "share in"),
        ({"rank": 2, "tolerance": 0.0}, "tolerance"),
        ({"rank": 2, "failure_probability": 0.0}, "failure_probability"),
    ],
    ids=str,
)
def test_requests_without_sense_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        truncated_svd(decaying(20, 10), **options)  # type: ignore[arg-type]


def test_only_matrices_of_two_dtypes_are_taken() -> None:
    with pytest.raises(ValueError, match="matrix that is not empty"):
        truncated_svd(torch.ones(3), rank=1)
    with pytest.raises(ValueError, match="matrix that is not empty"):
        truncated_svd(torch.ones(3, 0), rank=1)
    with pytest.raises(TypeError, match="bfloat16"):
        truncated_svd(torch.ones(3, 3, dtype=torch.bfloat16), rank=1)


@pytest.mark.parametrize("transposed", [False, True])
def test_distances_in_blocks(transposed: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    rows, columns = (1500, 900) if not transposed else (900, 1500)
    stored = torch.randn(1500, 900, generator=generator)
    matrix = stored.T if transposed else stored
    left = torch.randn(rows, 3, generator=generator)
    right = torch.randn(3, columns, generator=generator)
    expected = float((matrix.double() - left.double() @ right.double()).square().sum())
    assert distance_squared(matrix, left, right) == pytest.approx(expected, rel=1e-6)
    assert distance_squared(matrix, left.double(), right.double()) == pytest.approx(expected, rel=1e-13)
