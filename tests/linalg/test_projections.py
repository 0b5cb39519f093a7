"""||U'WV|| against the formula, its error's bound against rotated directions, and the random closed form."""

from __future__ import annotations

import pytest
import torch

from fixtures.spectra import orthonormal
from loratools.linalg.projections import Projection, project, random_projection

ROWS, COLUMNS, COUNT = 700, 90, 6


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


def projected(weight: torch.Tensor, U: torch.Tensor, V: torch.Tensor) -> Projection:
    return project(weight, U, V, largest=float(torch.linalg.matrix_norm(weight.double(), 2)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("exact", [False, True])
def test_every_leading_block(dtype: torch.dtype, exact: bool, generator: torch.Generator) -> None:
    weight = torch.randn(ROWS, COLUMNS, generator=generator).to(dtype)
    U, V = orthonormal(ROWS, COUNT, generator), orthonormal(COLUMNS, COUNT, generator)
    found = project(weight, U, V, largest=40.0, exact=exact)
    for rank in range(1, COUNT + 1):
        plain = torch.linalg.norm(U[:, :rank].T @ weight.double() @ V[:, :rank])
        assert found.at(rank) == pytest.approx(float(plain), abs=rank * found.rounding)
        assert exact is False or abs(found.at(rank) - float(plain)) < 1e-12
    torch.testing.assert_close(
        found.left, (weight.double() @ V).T @ (weight.double() @ V), rtol=1e-5, atol=1e-4
    )


def test_rotated_directions_move_the_figure_by_no_more_than_was_said(generator: torch.Generator) -> None:
    weight = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    U, V = orthonormal(ROWS, COUNT, generator), orthonormal(COLUMNS, COUNT, generator)
    found = projected(weight, U, V)
    worst = 0.0
    for _ in range(200):
        angle = 0.02
        away = [orthonormal(side, COUNT, generator) for side in (ROWS, COLUMNS)]
        turned = [
            torch.linalg.qr(one + angle / COUNT**0.5 * other)[0]
            for one, other in zip((U, V), away, strict=True)
        ]
        sine = max(
            float((one - other @ (other.T @ one)).norm()) for one, other in zip((U, V), turned, strict=True)
        )
        moved = abs(float((turned[0].T @ weight @ turned[1]).norm()) - found.at(COUNT))
        assert moved <= found.error(COUNT, sine)
        worst = max(worst, moved / found.error(COUNT, sine))
    assert worst > 0.02


def test_the_worst_rotation_comes_near_the_bound(generator: torch.Generator) -> None:
    """Turned towards W V C', which is what the slope is made of."""
    weight = torch.randn(ROWS, COLUMNS, generator=generator, dtype=torch.float64)
    U, V = orthonormal(ROWS, COUNT, generator), orthonormal(COLUMNS, COUNT, generator)
    found = projected(weight, U, V)
    towards = weight @ V @ (U.T @ weight @ V).T
    outside = towards - U @ (U.T @ towards)
    turned = torch.linalg.qr(U + 1e-3 * outside / outside.norm())[0]
    moved = abs(float((turned.T @ weight @ V).norm()) - found.at(COUNT))
    bound = found.error(COUNT, 1e-3)
    assert 0.25 * bound < moved <= bound


def test_the_sine_that_is_wanted_gives_the_accuracy(generator: torch.Generator) -> None:
    weight = torch.randn(ROWS, COLUMNS, generator=generator).bfloat16()
    found = projected(weight, orthonormal(ROWS, COUNT, generator), orthonormal(COLUMNS, COUNT, generator))
    for rank in range(1, COUNT + 1):
        sine = found.wanted_sine(rank, 0.01)
        assert found.error(rank, sine) == pytest.approx(0.01 * found.at(rank), rel=1e-6)
    nothing = project(torch.zeros(9, 8), torch.eye(9, 2), torch.eye(8, 2), largest=0.0)
    assert nothing.wanted_sine(2, 0.01) < 0.0 and nothing.at(2) == 0.0


@pytest.mark.parametrize(("rank", "printed"), [(4, 0.02), (64, 0.33)])
def test_random_directions_as_table_7_prints_them(rank: int, printed: float) -> None:
    """||W_q|| = 61.95 in layer 48 of GPT-3: 0.0202 beside 0.02, 0.3226 beside 0.33 (one draw)."""
    assert random_projection(61.95, (12288, 12288), rank) == pytest.approx(printed, rel=0.03)


def test_random_directions_as_they_are_drawn(generator: torch.Generator) -> None:
    weight = torch.randn(30, 20, generator=generator, dtype=torch.float64) * torch.arange(1, 21)
    draws = 1500
    for rank in (1, 4):
        squares = torch.tensor(
            [
                float(
                    (orthonormal(30, rank, generator).T @ weight @ orthonormal(20, rank, generator)).norm()
                    ** 2
                )
                for _ in range(draws)
            ]
        )
        error = float(squares.std()) / draws**0.5
        expected = random_projection(float(weight.norm()), (30, 20), rank) ** 2
        assert abs(float(squares.mean()) - expected) < 4 * error
    assert random_projection(float(weight.norm()), (30, 20), 20) == pytest.approx(
        float(weight.norm()) * (20 / 30) ** 0.5
    )
