"""Leading energies against LAPACK, and the chance with which their upper bounds may fail."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fixtures.spectra import matrix_of
from loratools.linalg.ceilings import _log_determinant_quantile, eigenvalue_ceilings
from loratools.linalg.energies import leading_energies
from loratools.linalg.krylov import gaussian_block
from loratools.linalg.lanczos import BlockLanczos

RANKS = (1, 2, 4, 8, 16)
SIDE = 720
SPECTRA = {
    "powers 0.25": [k**-0.25 for k in range(1, SIDE + 1)],
    "powers 0.5": [k**-0.5 for k in range(1, SIDE + 1)],
    "powers 2": [k**-2.0 for k in range(1, SIDE + 1)],
    "exponential": [math.exp(-k / 8) for k in range(SIDE)],
    "spikes over a floor": [200 / k**0.7 for k in range(1, 7)] + [1.0] * (SIDE - 6),
    "all equal": [1.0] * SIDE,
    "twenty orders": [10.0**-k for k in range(20)] + [1e-20] * (SIDE - 20),
    "rank 3": [3.0, 2.0, 1.0],
    "a cluster": [9.0, 5.0, 5.0, 5.0, 5.0] + [1 / k for k in range(1, 100)],
}


def exact(matrix: torch.Tensor) -> np.ndarray:
    """Sums of the leading squared singular values, by rank - 1."""
    return np.cumsum(np.linalg.svd(matrix.double().numpy(), compute_uv=False) ** 2)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_energies_lie_between_the_bounds_and_these_near(name: str) -> None:
    matrix = matrix_of(SPECTRA[name], (800, SIDE)).float()
    truth = exact(matrix)
    found = leading_energies(matrix, RANKS)
    assert found.passes > 0
    for rank in RANKS:
        assert found.low[rank] <= truth[rank - 1] * (1 + 1e-12) and truth[rank - 1] <= found.high[rank]
        value, off = found.root(rank)
        assert value == pytest.approx(math.sqrt(truth[rank - 1]), rel=0.01) and off <= 0.01


@pytest.mark.parametrize("shape", [(700, 650), (650, 1400)], ids=str)
def test_gaussian_matrices_whose_spectra_are_flat(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    truth = exact(matrix)
    found = leading_energies(matrix, RANKS)
    assert found.passes > 0 and found.largest >= math.sqrt(truth[0])
    assert found.norm == pytest.approx(float(matrix.double().norm()), rel=1e-6)
    for rank in RANKS:
        assert found.root(rank)[0] == pytest.approx(math.sqrt(truth[rank - 1]), rel=0.01)
        assert found.root(rank)[1] <= 0.01


@pytest.mark.parametrize("scale", [1e-15, 1e15])
def test_scale_does_not_matter(scale: float) -> None:
    matrix = matrix_of(SPECTRA["powers 0.5"], (SIDE, SIDE)).float()
    plain, scaled = leading_energies(matrix, RANKS), leading_energies(matrix * scale, RANKS)
    assert [scaled.root(rank)[0] for rank in RANKS] == pytest.approx(
        [scale * plain.root(rank)[0] for rank in RANKS], rel=1e-4
    )


def test_small_matrices_and_ranks_beyond_the_side_are_exact() -> None:
    matrix = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    found = leading_energies(matrix, (5, 30, 99))
    truth = exact(matrix)
    assert found.passes == 0
    assert [found.low[rank] for rank in (5, 30, 99)] == pytest.approx([truth[4], truth[-1], truth[-1]])
    zero = leading_energies(torch.zeros(30, 20), (1, 2))
    assert zero.root(1) == (0.0, 0.0) and zero.norm == 0.0


def test_the_determinants_quantile_against_draws() -> None:
    generator = np.random.default_rng(0)
    drawn = [
        np.linalg.slogdet((block := generator.standard_normal((3, 8))) @ block.T)[1] for _ in range(4000)
    ]
    for chance in (0.3, 0.05, 0.01):
        share = float(np.mean(np.array(drawn) < _log_determinant_quantile(3, 8, chance)))
        assert chance / 20 < share <= chance


def test_bounds_hold_at_every_look_and_are_not_idle() -> None:
    """With few passes and a chance of a half, so that they are as tight as they can be."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(60, 50, generator=generator, dtype=torch.float64)
    truth = np.linalg.svd(matrix.numpy(), compute_uv=False)[:3] ** 2
    worst = 0.0
    for seed in range(60):
        lanczos = BlockLanczos(matrix, gaussian_block(6, matrix, seed))
        lanczos.expand()
        for _ in range(3):
            lanczos.expand()
            ceilings = eigenvalue_ceilings(lanczos, (1, 2, 3), 0.5)
            assert np.all(ceilings.values >= truth)
            for rank, bound in ceilings.sums.items():
                assert truth[:rank].sum() <= bound <= ceilings.values[:rank].sum()
        worst = max(worst, ceilings.sums[3] / truth.sum())
    assert worst < 1.5


def test_lanczos_restricts_the_matrix_to_its_space() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(80, 60, generator=generator, dtype=torch.float64)
    deflated = torch.linalg.qr(torch.randn(60, 5, generator=generator, dtype=torch.float64))[0].T
    lanczos = BlockLanczos(matrix, gaussian_block(5, matrix, 7), deflated)
    for _ in range(11):
        lanczos.expand()
    rest = torch.eye(60, dtype=torch.float64) - deflated.T @ deflated
    whole = torch.linalg.eigvalsh(rest @ matrix.T @ matrix @ rest).flip(0)
    assert lanczos.size == 55
    torch.testing.assert_close(lanczos.ritz()[0], whole[:55], rtol=1e-9, atol=1e-9)
