"""Bounds on the angles of leading directions, against directions by LAPACK."""

from __future__ import annotations

import math

import pytest
import torch

from fixtures.spectra import matrix_of
from loratools.linalg.directions import GUARD, Directions, leading_directions
from loratools.linalg.svd import SvdMethod, truncated_svd

RANKS = (1, 2, 3, 4, 6, 8)
SIDE = 600
NOISE = [0.01 * (1 - k / SIDE) for k in range(SIDE - 12)]
SPECTRA = {
    "powers 1": [1 / k for k in range(1, SIDE + 1)],
    "powers 0.25": [k**-0.25 for k in range(1, SIDE + 1)],
    "a cluster of 4": [9.0, 8.0, 5.0, 5.0, 5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.2, *NOISE],
    "nearly equal": [9.0, 8.99, 7.0, 6.99, 5.0, 4.999, 4.0, 3.99, 2.0, 1.0, 0.5, 0.2, *NOISE],
    "rank 4": [4.0, 3.0, 2.0, 1.0],
}
# Equal but for the rounding to float32, which LAPACK may tell apart and need not.
UNDEFINED = {"a cluster of 4": {3, 4}, "rank 4": {6, 8}}


def sines(one: torch.Tensor, other: torch.Tensor) -> float:
    """Root of the summed squares of the sines between two spans of orthonormal columns."""
    outside = one - other @ (other.T @ one)
    return float(outside.norm())


def found_directions(matrix: torch.Tensor, wanted: float) -> Directions:
    found = truncated_svd(matrix, rank=max(RANKS) + GUARD)
    assert found.certificate.method == "krylov"
    return leading_directions(matrix, found, dict.fromkeys(RANKS, wanted))


@pytest.mark.parametrize("transposed", [False, True], ids=["tall", "wide"])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_sines_are_bounds_and_as_small_as_was_wanted(name: str, transposed: bool) -> None:
    matrix = matrix_of(SPECTRA[name], (SIDE + 100, SIDE))
    matrix = matrix.T.float() if transposed else matrix.float()
    U, _, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    found = found_directions(matrix, 1e-4)
    assert found.U.shape == (matrix.shape[0], 8) and found.Vh.shape == (8, matrix.shape[1])
    for rank in RANKS:
        assert found.sine(rank) <= 1e-4 or rank in UNDEFINED.get(name, ()), rank
        right = sines(found.Vh[:rank].double().T, Vh[:rank].T)
        left = sines(found.U[:, :rank].double(), U[:, :rank])
        assert max(left, right) <= found.sine(rank) + 1e-14, rank


def test_triplets_in_float64_are_no_lapacks() -> None:
    """They are refined like others: a search that ended by its residual knows directions of noise loosely."""
    spikes = matrix_of([9.0, 5.0], (SIDE + 100, SIDE))
    noise = torch.randn(SIDE + 100, SIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    matrix = spikes.double() + 0.05 * noise
    found = found_directions(matrix, 1e-4)
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    for rank in RANKS:
        off = max(sines(found.Vh[:rank].T, Vh[:rank].T), sines(found.U[:, :rank], U[:, :rank]))
        assert off <= found.sine(rank) <= 1e-4, rank


def test_float64_where_float32_cannot_tell() -> None:
    matrix = matrix_of(SPECTRA["powers 1"], (1300, 1100)).float()
    found = found_directions(matrix, 1e-8)
    _, _, Vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    for rank in RANKS:
        assert sines(found.Vh[:rank].double().T, Vh[:rank].T) <= found.sine(rank) <= 1e-8


def test_lapacks_own_are_known_to_the_last_digits_of_their_gaps() -> None:
    matrix = matrix_of([5.0, 4.0, 4.0 - 1e-6, 2.0, 2.0, 1.0], (40, 30))
    found = truncated_svd(matrix, rank=6, method=SvdMethod.EXACT)
    directions = leading_directions(matrix, found, dict.fromkeys((1, 2, 3, 4, 6), 1e-6))
    assert directions.sine(1) < 1e-13 and directions.sine(2) < 1e-7
    assert math.isinf(directions.sine(4))
    assert directions.sine(6) < 1e-12
