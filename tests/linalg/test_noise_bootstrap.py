"""False directions of one grid: there, and explained by rounding the fit again."""

from __future__ import annotations

import torch

from fixtures.rounded_deltas import RoundedDelta, unit_of
from loratools.linalg.noise_bootstrap import explained_rank, reached_by_rounding
from loratools.linalg.noise_grid import recognise
from loratools.linalg.svd import truncated_svd

UNIT = unit_of("bfloat16")


def test_a_rank_of_one_grows_false_directions_which_rounding_explains() -> None:
    base, tuned, _ = RoundedDelta((1024, 1024), 1, 1.3 * UNIT, same_grid=True).make()
    found = truncated_svd(tuned.float() - base.float(), rank=12)
    floor = 0.6 * float(found.S[1])  # as if rounding were independent: several values stand above
    above = int((floor < found.S).sum())
    assert above > 1
    rank, level = explained_rank(base, recognise(tuned), found, floor, above, 0)
    assert rank == 1
    assert level == float(found.S[1])


def test_true_directions_are_not_explained() -> None:
    base, tuned, _ = RoundedDelta((400, 350), 6, 2.0 * UNIT, same_grid=True, decay=0.5).make()
    found = truncated_svd(tuned.float() - base.float(), rank=10)
    grid = recognise(tuned)
    for rank in range(1, 6):
        assert not reached_by_rounding(base, grid, found, rank, float(found.S[rank]) / 1.2, 0)
    assert reached_by_rounding(base, grid, found, 6, float(found.S[6]) / 1.2, 0)
    floor = 1.1 * float(found.S[6])
    assert explained_rank(base, grid, found, floor, 6, 0) == (6, floor)


def test_the_fit_itself_is_not_counted() -> None:
    base, tuned, update = RoundedDelta((400, 350), 2, 30.0 * UNIT, same_grid=True).make()
    found = truncated_svd(tuned.float() - base.float(), rank=4)
    assert not reached_by_rounding(base, recognise(tuned), found, 2, 0.1 * float(found.S[1]), 0)
    assert torch.linalg.matrix_norm(update, 2) > float(found.S[1])
