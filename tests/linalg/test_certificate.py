"""The certificate against LAPACK: never below the truth, on spectra that fool randomized methods."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from loratools.linalg import search, svd
from loratools.linalg.certificate import leading_eigenvalue_bounds, state_excess
from loratools.linalg.krylov import BlockKrylov, gaussian_block
from loratools.linalg.norms import Measured
from loratools.linalg.svd import truncated_svd
from loratools.linalg.tail import tail_bound

RANK = 6
SEEDS = 12


def gaussian_spectrum(n: int) -> np.ndarray:
    return np.linalg.svd(np.random.default_rng(5).standard_normal((n, n)), compute_uv=False) / math.sqrt(n)


def spikes(n: int, count: int, noise: float) -> np.ndarray:
    values = noise * gaussian_spectrum(n)
    values[:count] = np.linspace(1.0, 0.3, count)
    return np.sort(values)[::-1]


# What each does to a randomized method: nothing to find, nothing between neighbours, a tie at the cut, ...
SPECTRA: dict[str, Callable[[int], np.ndarray]] = {
    "noise": gaussian_spectrum,
    "flat": lambda n: np.ones(n),
    "nearly-flat": lambda n: 1.0 - 0.1 * np.arange(n) / n,
    "power-0.3": lambda n: np.arange(1.0, n + 1) ** -0.3,
    "power-0.5": lambda n: np.arange(1.0, n + 1) ** -0.5,
    "power-1": lambda n: np.arange(1.0, n + 1) ** -1.0,
    "power-2": lambda n: np.arange(1.0, n + 1) ** -2.0,
    "exponential-8": lambda n: np.exp(-np.arange(n) / 8.0),
    "exponential-40": lambda n: np.exp(-np.arange(n) / 40.0),
    "step-at-the-cut": lambda n: np.where(np.arange(n) < RANK, 1.0, 0.3),
    "cluster-across-the-cut": lambda n: np.where(
        np.arange(n) < 2, 2.0, np.where(np.arange(n) < 20, 1.0, 0.1)
    ),
    "two-scales": lambda n: np.where(np.arange(n) < 4, 1e3, 1.0) * np.arange(1.0, n + 1) ** -0.5,
    "rank-1-and-a-floor": lambda n: np.where(np.arange(n) < 1, 1.0, 1e-2),
    "fewer-spikes-than-the-rank": lambda n: spikes(n, 3, 0.05),
    "as-many-spikes-as-the-rank": lambda n: spikes(n, RANK, 0.05),
    "more-spikes-than-the-rank": lambda n: spikes(n, 20, 0.02),
}


def matrix_with(values: np.ndarray, rows: int, seed: int, dtype: torch.dtype) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    left = np.linalg.qr(generator.standard_normal((rows, values.size)))[0]
    right = np.linalg.qr(generator.standard_normal((values.size, values.size)))[0]
    return torch.from_numpy((left * values) @ right.T).to(dtype)


def optimal_residual(delta: torch.Tensor, rank: int) -> float:
    values = np.linalg.svd(delta.double().numpy(), compute_uv=False)
    return float(np.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2)))


def true_residual(delta: torch.Tensor, found: svd.Factorization) -> float:
    exact = delta.double()
    product = (found.U.double() * found.S.double()) @ found.Vh.double()
    return float((exact - product).norm() / exact.norm())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Matrices this small are slower on two threads than on one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def always_krylov(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices go to LAPACK by default, where there is nothing to test."""
    monkeypatch.setattr(svd, "krylov_pays", lambda side, rank, energy: True)


def check(delta: torch.Tensor, rank: int, tolerance: float, seed: int, optimum: float) -> str:
    found = truncated_svd(delta, rank=rank, tolerance=tolerance, seed=seed)
    certificate = found.certificate
    residual = true_residual(delta, found)
    assert certificate.excess is not None
    noise = 1e-14 / optimum  # of the reference itself
    assert residual == pytest.approx(certificate.residual, rel=1e-4, abs=1e-7)
    if certificate.excess_is_absolute:
        assert certificate.excess >= residual - optimum - 1e-14
    else:
        assert certificate.excess >= residual / optimum - 1.0 - noise
        assert certificate.excess <= tolerance
    return certificate.method


@pytest.mark.usefixtures("always_krylov")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spectrum", sorted(SPECTRA))
def test_the_bound_is_never_below_the_truth(spectrum: str, dtype: torch.dtype) -> None:
    """16 spectra, 2 dtypes, 3 tolerances, 12 seeds: 1,152 runs; loose tolerances test the bound hardest."""
    delta = matrix_with(SPECTRA[spectrum](160), 192, seed=1, dtype=dtype)
    optimum = optimal_residual(delta, RANK)
    ran = Counter(
        check(delta, RANK, tolerance, seed, optimum)
        for tolerance in (0.3, 0.02, 1e-3)
        for seed in range(SEEDS)
    )
    assert ran.total() == 3 * SEEDS
    assert ran["krylov"] >= 2 * SEEDS, ran


@pytest.mark.usefixtures("always_krylov")
@pytest.mark.parametrize("shape", [(160, 160), (320, 96), (96, 320)], ids=str)
@pytest.mark.parametrize("spectrum", ["noise", "power-0.5", "exponential-8", "cluster-across-the-cut"])
def test_it_holds_for_tall_and_wide_deltas_and_other_ranks(spectrum: str, shape: tuple[int, int]) -> None:
    side = min(shape)
    delta = matrix_with(SPECTRA[spectrum](side), max(shape), seed=2, dtype=torch.float32)
    delta = delta if shape[0] >= shape[1] else delta.T
    for rank in (1, 3, 17):
        check(delta, rank, 1e-2, 0, optimal_residual(delta, rank))


@pytest.mark.usefixtures("always_krylov")
@pytest.mark.parametrize("spectrum", ["nearly-flat", "noise"])
def test_a_norm_that_is_not_bounded_from_above_is_found_out(
    spectrum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative: with the plain power iteration's norm the very same check fails. It can, then."""
    monkeypatch.setattr(search, "tail_bound", lambda chain, chance: float(chain.ritz()[0][0]))
    monkeypatch.setattr(search, "_CHAIN_WIDTH", 1)
    delta = matrix_with(SPECTRA[spectrum](160), 192, seed=1, dtype=torch.float64)
    optimum = optimal_residual(delta, 1)
    with pytest.raises(AssertionError):
        for seed in range(40):
            check(delta, 1, 0.3, seed, optimum)


@pytest.mark.parametrize("spectrum", ["nearly-flat", "noise", "power-0.5", "step-at-the-cut"])
@pytest.mark.parametrize("width", [1, 4])
def test_the_tail_is_exceeded_no_more_often_than_stated(spectrum: str, width: int) -> None:
    """At a stated chance of 0.2, 300 starts: the share that fails may exceed it by three deviations."""
    delta = matrix_with(SPECTRA[spectrum](80), 80, seed=3, dtype=torch.float64)
    truth = float(torch.linalg.matrix_norm(delta, 2)) ** 2
    for passes in (1, 3):
        failures = 0
        for seed in range(300):
            chain = BlockKrylov(delta, gaussian_block(width, delta, seed))
            for _ in range(passes):
                chain.expand()
            failures += tail_bound(chain, 0.2) < truth * (1 - 1e-12)
        assert failures / 300 <= 0.2 + 3 * math.sqrt(0.16 / 300)


def test_the_tail_bound_comes_down_with_passes() -> None:
    delta = matrix_with(gaussian_spectrum(120), 120, seed=3, dtype=torch.float64)
    truth = float(torch.linalg.matrix_norm(delta, 2)) ** 2
    chain = BlockKrylov(delta, gaussian_block(24, delta, 0))
    bounds = []
    for _ in range(4):
        chain.expand()
        bounds.append(tail_bound(chain, 1e-9) / truth)
    assert bounds == sorted(bounds, reverse=True)
    assert 1.0 <= bounds[-1] < 1.2


def test_the_tail_of_a_complete_subspace_is_nothing() -> None:
    delta = torch.zeros(20, 12, dtype=torch.float64)
    chain = BlockKrylov(delta, gaussian_block(4, delta, 0))
    chain.expand()
    assert tail_bound(chain, 1e-9) == 0.0


@pytest.mark.parametrize("spectrum", sorted(SPECTRA))
def test_eigenvalue_bounds_lie_above_the_eigenvalues_for_any_subspace(spectrum: str) -> None:
    """Deterministic, given the exact tail: any space will do, however bad."""
    delta = matrix_with(SPECTRA[spectrum](60), 60, seed=4, dtype=torch.float64)
    squares = torch.linalg.svdvals(delta) ** 2
    for passes in (1, 2, 4):
        krylov = BlockKrylov(delta, gaussian_block(9, delta, passes))
        for _ in range(passes):
            krylov.expand()
        ritz, coordinates = krylov.ritz()
        left = delta - (delta @ krylov.basis.T) @ krylov.basis
        tail = float(torch.linalg.matrix_norm(left, 2)) ** 2
        for count in (1, 3, 8):
            bounds = leading_eigenvalue_bounds(
                ritz, krylov.coupling @ coordinates[-9:], tail * (1 + 1e-12), count, 0.0
            )
            assert (bounds >= squares[:count] * (1 - 1e-10)).all()


@pytest.mark.parametrize(
    ("residual", "excess_energy", "expected"),
    [
        (1.0, 0.0, (0.0, False)),
        (1.0, 0.75, (1.0, False)),
        (1.0, 1.0, (math.inf, False)),
        (1e-13, 1e-13, (math.sqrt(1e-13), True)),  # the optimum may be nothing: a difference
        (4e-12, 3e-12, (1.0, False)),  # between: the ratio, which is the larger
    ],
)
def test_how_an_excess_is_stated(residual: float, excess_energy: float, expected: tuple[float, bool]) -> None:
    excess, absolute = state_excess(Measured(residual, 0.0), excess_energy, 1.0)
    assert absolute is expected[1]
    assert excess == pytest.approx(expected[0], rel=1e-9)


def test_an_error_of_measurement_widens_the_claim() -> None:
    sharp, _ = state_excess(Measured(1.0, 0.0), 0.1, 4.0)
    blunt, _ = state_excess(Measured(1.0, 0.01), 0.1, 4.0)
    assert blunt > sharp
