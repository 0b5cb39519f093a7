"""The storage noise floor on updates of known rank under real rounding; the long table is a benchmark's.

`tests/benchmarks/noise_floor.py` does the same on larger matrices and prints the table of docs/theory.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fixtures.rounded_deltas import STORAGES, RoundedDelta, ulps, unit_of
from fixtures.rounded_verdicts import Outcome, judge
from loratools.linalg.noise import NoiseFloor, noise_floor
from loratools.linalg.rounding_torch import round_once
from loratools.linalg.svd import Factorization, truncated_svd

SHAPE = (288, 256)
RATIOS = (1e-4, 1e-3, 4e-3, 1e-2, 0.1, 1.0)
RANKS = ((1, 0.0), (3, 1.0), (12, 0.5), (40, 0.0))


def factored(base: torch.Tensor, tuned: torch.Tensor, rank: int) -> Factorization:
    return truncated_svd(tuned.double() - base.double(), rank=rank)


def floor_of(base: torch.Tensor, tuned: torch.Tensor, rank: int = 6) -> NoiseFloor:
    return noise_floor(base, tuned, factored(base, tuned, rank), probability=1e-5, seed=0)


@pytest.mark.parametrize("same_grid", [False, True], ids=["independent", "one grid"])
@pytest.mark.parametrize("storage", STORAGES)
def test_the_true_rank_is_found_wherever_it_can_be_and_nothing_false_is_said(
    storage: str, same_grid: bool
) -> None:
    asked = 0
    for place, (ratio, (rank, decay)) in enumerate(itertools.product(RATIOS, RANKS)):
        tails = ("gaussian", "student")[(place + place // len(RANKS)) % 2]
        verdict = judge(RoundedDelta(SHAPE, rank, ratio, storage, same_grid, tails, decay, seed=place))
        assert verdict.good, verdict
        asked += verdict.asked
    assert asked >= 10


@pytest.mark.parametrize("count", [0.1, 0.3, 0.6])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_updates_below_a_unit_on_one_grid_get_a_lower_bound_and_a_word(rank: int, count: float) -> None:
    """0.6 units is where the floor of independent errors alone calls rank 1 rank 2, or 8."""
    verdict = judge(RoundedDelta((512, 512), rank, count * unit_of("bfloat16"), same_grid=True))
    assert verdict.noise.rank is None
    assert verdict.noise.rank_bounds[0] <= rank
    assert verdict.noise.rank_bounds[1] is None
    assert verdict.noise.note is not None and "the rounding grid decides" in verdict.noise.note


def test_false_directions_of_one_grid_are_not_counted() -> None:
    verdict = judge(RoundedDelta((1024, 1024), 1, 1.5 * unit_of("bfloat16"), same_grid=True))
    assert verdict.noise.above > 1
    assert verdict.noise.rank == 1
    assert verdict.noise.floor is not None and verdict.noise.floor > verdict.noise.independent


def test_where_the_spectrum_runs_into_the_floor_the_rank_is_a_lower_bound() -> None:
    verdict = judge(RoundedDelta(SHAPE, 64, 0.4 * unit_of("bfloat16")))
    assert verdict.noise.rank is None
    assert 0 < verdict.noise.rank_bounds[0] <= 64
    assert verdict.noise.note is not None and "more directions may lie below" in verdict.noise.note


def test_where_all_triplets_stand_above_the_rank_is_a_lower_bound_unless_they_are_all() -> None:
    base, tuned, _ = RoundedDelta((60, 40), 40, 1.0).make()
    assert floor_of(base, tuned, 8).rank_bounds == (8, None)
    assert floor_of(base, tuned, 8).rank is None
    assert floor_of(base, tuned, 40).rank_bounds[0] >= 38


def test_an_update_of_full_rank_below_the_floor_is_not_taken_for_rounding() -> None:
    base, _, update = RoundedDelta(SHAPE, 2, 30.0 * unit_of("bfloat16")).make()
    spread = torch.randn(SHAPE, generator=torch.Generator().manual_seed(50), dtype=torch.float64)
    small = 0.02 * unit_of("bfloat16") * spread
    noise = floor_of(base, round_once(base.double() + update + 0.5 * small, torch.bfloat16))
    assert noise.rank is None and noise.rank_bounds[0] >= 2
    alone = floor_of(base, round_once(base.double() + 0.4 * small, torch.bfloat16))
    assert alone.rank is None and alone.note is not None


def test_weights_that_all_decayed_a_little_are_not_taken_for_rounding() -> None:
    base = RoundedDelta(SHAPE, 0, 1.0).make()[0]
    for share in (0.006, 0.003):
        noise = floor_of(base, round_once((1.0 - share) * base.double(), torch.bfloat16))
        assert noise.rank is None


def _stochastic(values: torch.Tensor, seed: int) -> torch.Tensor:
    """bfloat16 numbers, up or down at random in proportion to how near they are."""
    units = ulps(values, "bfloat16")
    below = torch.floor(values / units) * units
    chance = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (below + units * (chance < (values - below) / units)).to(torch.bfloat16)


ROUNDINGS = {
    "bitwise equal": (lambda values: values.bfloat16(), lambda values: values.bfloat16()),
    "bfloat16 against float32": (lambda values: values.bfloat16(), lambda values: values.float()),
    "float32 against bfloat16": (lambda values: values.float(), lambda values: values.bfloat16()),
    "bfloat16 against float16": (lambda values: values.bfloat16(), lambda values: values.half()),
    "all stored as float32": (lambda values: values.half().float(), lambda values: values.bfloat16().float()),
    "rounded twice": (lambda values: values.bfloat16(), lambda values: values.half().bfloat16()),
    "to nearest against at random": (
        lambda values: values.bfloat16(),
        lambda values: _stochastic(values.double(), 100),
    ),
    "at random, twice": (
        lambda values: _stochastic(values.double(), 100),
        lambda values: _stochastic(values.double(), 101),
    ),
}


@pytest.mark.parametrize("tails", ["gaussian", "student"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_same_weights_up_to_rounding_differ_by_no_direction(rounding: str, tails: str) -> None:
    weights, _, _ = RoundedDelta((400, 350), 0, 1.0, "float32", tails=tails).make()
    one, other = ROUNDINGS[rounding]
    noise = floor_of(one(weights), other(weights))
    assert (noise.rank, noise.rank_bounds, noise.above) == (0, (0, 0), 0)
    assert noise.note is None


@pytest.mark.parametrize("tails", ["gaussian", "student"])
@pytest.mark.parametrize("ratio", [3e-4, 1e-2, 0.5])
def test_a_tuned_on_a_finer_grid_than_the_base_it_was_trained_from(ratio: float, tails: str) -> None:
    """float32 from bfloat16 weights as they are stored: base's rounding is no noise, so that all is seen."""
    base, _, update = RoundedDelta(SHAPE, 5, ratio, tails=tails).make()
    noise = floor_of(base, (base.double() + update).float(), 10)
    assert noise.rank == 5


def test_a_tuned_on_a_finer_grid_made_from_finer_weights_keeps_the_rounding_of_base() -> None:
    weights = RoundedDelta(SHAPE, 0, 1.0, "float32").make()[0]
    update = RoundedDelta(SHAPE, 5, 1e-2).make()[2]
    base = weights.bfloat16()
    noise = floor_of(base, (weights.double() + update).float(), 10)
    error = torch.linalg.matrix_norm(base.double() - weights.double(), 2)
    assert noise.rank == 5
    assert noise.floor is not None and error <= noise.floor <= 1.12 * error


@pytest.mark.parametrize("storage", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("tails", ["gaussian", "student"])
def test_the_floor_is_that_of_simulated_rounding(storage: str, tails: str) -> None:
    base, tuned, _ = RoundedDelta(SHAPE, 2, 0.05, storage, tails=tails).make()
    generator = np.random.default_rng(0)
    sides = [ulps(side, storage).numpy() for side in (base, tuned)]
    norms = [
        np.linalg.norm(sum(unit * generator.uniform(-0.5, 0.5, unit.shape) for unit in sides), 2)
        for _ in range(30)
    ]
    floor = floor_of(base, tuned).independent
    assert floor <= 1.3 * max(norms)
    if tails == "gaussian":
        assert max(norms) <= floor


def test_the_grid_counts_and_not_the_dtype() -> None:
    base, tuned, _ = RoundedDelta(SHAPE, 4, 0.01).make()
    as_stored, wider = floor_of(base, tuned), floor_of(base.float(), tuned.double())
    assert wider.rank == as_stored.rank == 4
    assert wider.floor == pytest.approx(as_stored.floor, rel=1e-3)


@pytest.mark.parametrize("tails", ["gaussian", "student"])
def test_a_matrix_and_its_transpose_have_one_floor(tails: str) -> None:
    base, tuned, _ = RoundedDelta(SHAPE, 4, 0.01, same_grid=True, tails=tails).make()
    found = factored(base, tuned, 8)
    turned = Factorization(found.Vh.T, found.S, found.U.T, found.norm_squared, found.certificate)
    one = noise_floor(base, tuned, found, probability=1e-5, seed=0)
    assert noise_floor(base.T, tuned.T, turned, probability=1e-5, seed=0) == one


@pytest.mark.parametrize("scale", [2.0**-90, 2.0**90])
@pytest.mark.parametrize("same_grid", [False, True])
def test_the_floor_goes_with_the_scale(scale: float, same_grid: bool) -> None:
    base, tuned, _ = RoundedDelta(SHAPE, 3, 0.01, "bfloat16 as float32", same_grid).make()
    one, other = floor_of(base, tuned), floor_of(base * scale, tuned * scale)
    assert other.rank == one.rank == 3
    assert other.floor == pytest.approx(scale * one.floor, rel=1e-4)


def test_a_seed_decides_all_that_is_drawn() -> None:
    base, tuned, _ = RoundedDelta(SHAPE, 3, 0.01, tails="student").make()
    assert floor_of(base, tuned) == floor_of(base, tuned)


def test_it_is_the_weakest_direction_that_counts() -> None:
    """Outcomes of the judge itself, so that a test that uses it can fail."""
    verdict = judge(RoundedDelta(SHAPE, 3, 0.01, seed=1))
    assert verdict.asked and verdict.outcome is Outcome.RIGHT
    other = RoundedDelta(SHAPE, 5, 0.01, seed=1)
    assert type(verdict)(other, verdict.noise, 3.0, 5.0).outcome is Outcome.WRONG


def test_matrices_that_do_not_belong_together_are_refused() -> None:
    base, tuned, _ = RoundedDelta((30, 20), 2, 0.1).make()
    with pytest.raises(ValueError, match="one shape"):
        noise_floor(base, tuned[:, :10], factored(base, tuned, 4), probability=1e-3, seed=0)
    with pytest.raises(TypeError, match=r"not torch\.int32"):
        noise_floor(base.int(), tuned, factored(base, tuned, 4), probability=1e-3, seed=0)


def test_a_fit_of_every_direction_leaves_the_floor_that_the_grids_make() -> None:
    base, tuned, _ = RoundedDelta((60, 40), 40, 1.0).make()
    few, all_of_them = floor_of(base, tuned, 8), floor_of(base, tuned, 40)
    assert all_of_them.floor == pytest.approx(few.floor, rel=1e-6)
    assert all_of_them.rank is not None and all_of_them.rank >= 38
