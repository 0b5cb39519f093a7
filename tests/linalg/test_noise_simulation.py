"""Norms that are bracketed, and floors that are drawn, against LAPACK."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fixtures.rounded_deltas import RoundedDelta, ulps
from loratools.linalg.noise_grid import recognise
from loratools.linalg.noise_simulation import drawn_floor, flipped_floor, largest_singular_value, reaches
from loratools.linalg.svd import truncated_svd


def noise(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(100, 60), (500, 400), (350, 900)], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1.0])
def test_a_norm_is_found_from_above(shape: tuple[int, int], scale: float) -> None:
    matrix = scale * noise(shape)
    exact = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert exact * (1.0 - 1e-6) <= largest_singular_value(matrix, 0) <= 1.1 * exact


def test_a_level_is_reached_or_not() -> None:
    matrix = noise((500, 400))
    exact = float(torch.linalg.matrix_norm(matrix.double(), 2))
    assert reaches(matrix, 0.9 * exact, 0)
    assert not reaches(matrix, 1.15 * exact, 0)
    assert not reaches(torch.zeros(500, 400), 1e-9, 0)


def test_under_heavy_tails_the_drawn_floor_is_above_what_is_drawn() -> None:
    case = RoundedDelta((400, 350), 0, 1.0, tails="student")
    values = case.make()[0]
    units = ulps(values, "bfloat16").numpy()
    generator = np.random.default_rng(0)
    norms = [np.linalg.norm(units * generator.uniform(-0.5, 0.5, units.shape), 2) for _ in range(25)]
    floor = drawn_floor([(values, recognise(values))], 1.5 * float(np.sqrt(np.mean(units**2))), 0)
    assert max(norms) <= 1.01 * floor
    assert floor <= 0.5 * units.max() + 1.5 * np.median(norms)


def test_random_signs_leave_sizes_and_take_structure() -> None:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(400, 350, generator=generator)
    errors = 0.1 * torch.randn(400, 350, generator=generator)
    pattern = 0.02 * torch.outer(torch.ones(400), torch.ones(350))
    found = truncated_svd(errors + pattern, rank=4)
    floor = flipped_floor(base, base + errors + pattern, found, 0, 0)
    assert float(found.S[0]) > 1.4 * floor  # the pattern, which is no noise
    assert floor == pytest.approx(float(torch.linalg.matrix_norm(errors, 2)), rel=0.08)
