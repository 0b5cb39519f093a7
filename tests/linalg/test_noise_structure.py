"""How rounding errors are told apart: those that follow the update, and those that do not."""

from __future__ import annotations

import pytest
import torch

from fixtures.rounded_deltas import RoundedDelta, unit_of
from loratools.linalg.noise_grid import recognise
from loratools.linalg.noise_sample import Sample, draw_sample, fit_sample, noise_share, unit_trend
from loratools.linalg.noise_structure import coarse_loss, follows_update, sawtooth_share
from loratools.linalg.rounding_torch import round_once
from loratools.linalg.svd import Factorization, truncated_svd

SHAPE = (384, 320)


def sampled(case: RoundedDelta) -> tuple[Sample, Factorization]:
    base, tuned, _ = case.make()
    delta = tuned.float() - base.float()
    grids = recognise(base), recognise(tuned)
    return draw_sample(base, tuned, grids, 0), truncated_svd(delta, rank=case.rank + 2)


def of_units(count: float, rank: int, *, same_grid: bool, tails: str = "gaussian") -> RoundedDelta:
    """An update whose root mean square is about so many units."""
    return RoundedDelta(SHAPE, rank, count * unit_of("bfloat16"), same_grid=same_grid, tails=tails)


@pytest.mark.parametrize("tails", ["gaussian", "student"])
@pytest.mark.parametrize(("count", "rank"), [(0.3, 1), (0.6, 4), (1.2, 2), (3.0, 8), (3.0, 32)])
def test_the_sawtooth_shows_on_one_grid_and_not_where_roundings_are_independent(
    count: float, rank: int, tails: str
) -> None:
    shares = {}
    for same_grid in (False, True):
        sample, found = sampled(of_units(count, rank, same_grid=same_grid, tails=tails))
        shares[same_grid] = sawtooth_share(sample, fit_sample(sample, found, rank))
    assert shares[False] < 0.1
    assert shares[True] > 0.2


def test_an_update_that_dithers_itself_shows_none() -> None:
    base, _, update = of_units(2.0, 1, same_grid=True).make()
    spread = 0.02 * unit_of("bfloat16") * torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    tuned = (base.float() + update.float() + spread).to(torch.bfloat16)
    sample = draw_sample(base, tuned, (recognise(base), recognise(tuned)), 0)
    found = truncated_svd(tuned.float() - base.float(), rank=4)
    assert sawtooth_share(sample, fit_sample(sample, found, 1)) < 0.15


def test_the_share_of_rounding_is_one_where_it_is_all_that_is_left() -> None:
    for rank in (1, 8, 32):
        sample, found = sampled(of_units(20.0, rank, same_grid=False))
        share = noise_share(fit_sample(sample, found, rank), sample.variances(base_rounded=True))
        assert share == pytest.approx(1.0, abs=0.06)
    sample, found = sampled(of_units(20.0, 8, same_grid=False))
    assert noise_share(fit_sample(sample, found, 4), sample.variances(base_rounded=True)) > 5.0


def test_the_trend_of_rounding_is_flat_and_that_of_what_the_grid_left_is_not() -> None:
    weights, _, _ = RoundedDelta((400, 400), 0, 1.0, "float32").make()
    pairs = {
        "rounding": (weights.to(torch.bfloat16), weights),
        "left": of_units(0.1, 4, same_grid=True).make()[:2],
        "dithered": of_units(0.1, 4, same_grid=False).make()[:2],
        "nothing": (weights, weights),
    }
    trends = {}
    for name, (base, tuned) in pairs.items():
        sample = draw_sample(base, tuned, (recognise(base), recognise(tuned)), 0)
        trends[name] = unit_trend(sample.delta, sample.variances(base_rounded=True))
    assert trends["nothing"] is None
    assert trends["rounding"] == pytest.approx(0.0, abs=0.05)
    assert trends["dithered"] == pytest.approx(-1.0, abs=0.15)
    assert trends["left"] is not None and trends["left"] < -1.2


@pytest.mark.parametrize("same_grid", [False, True], ids=["independent", "one grid"])
def test_an_update_too_small_for_a_sawtooth_is_missing_where_units_are_coarse(same_grid: bool) -> None:
    """Elements of like size, a twentieth of a unit: all are lost but where weights are tiny."""
    weights = RoundedDelta(SHAPE, 0, 1.0, "float32").make()[0].double()
    generator = torch.Generator().manual_seed(60)
    signs = [torch.randn(side, 1, generator=generator).sign().double() for side in SHAPE]
    update = 0.05 * 0.02 * unit_of("bfloat16") * signs[0] @ signs[1].T
    base = round_once(weights, torch.bfloat16)
    tuned = round_once((base.double() if same_grid else weights) + update, torch.bfloat16)
    sample = draw_sample(base, tuned, (recognise(base), recognise(tuned)), 0)
    fit = fit_sample(sample, truncated_svd(tuned.float() - base.float(), rank=4), 1)
    assert sawtooth_share(sample, fit) < 0.2
    lost, error = coarse_loss(sample, fit)
    assert (lost > 0.9) == same_grid
    assert error < 0.05
    assert follows_update(sample, fit) == same_grid
