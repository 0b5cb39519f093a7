"""The options of `extract`: words become types once, and what makes no sense is wrong usage."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.extract_words import options
from loratools.errors import UsageError
from loratools.linalg.factors import Fold
from loratools.linalg.svd import SvdMethod
from loratools.operations.extract_options import Rest, SaveDtype, Selection, Unholdable


def test_the_defaults_are_those_of_the_command_line() -> None:
    found = options()
    cut = found.truncation
    assert (cut.rank, cut.energy, cut.method, cut.fold) == (16, None, SvdMethod.AUTO, Fold.SQRT)
    assert (cut.save_dtype, found.rest, found.unholdable) == (SaveDtype.FLOAT32, Rest.SAVE, Unholdable.REFUSE)


def test_energy_takes_the_place_of_the_rank() -> None:
    cut = options(energy=0.9, max_rank=8).truncation
    assert (cut.rank, cut.energy, cut.max_rank) == (None, 0.9, 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"rank": 0},
        {"rank": 4, "energy": 0.5},
        {"energy": 0.0},
        {"energy": 1.5},
        {"energy": float("nan")},
        {"max_rank": 0, "energy": 0.5},
        {"max_rank": 4},
        {"tolerance": 0.0},
        {"tolerance": float("nan")},
        {"svd": "fast"},
        {"fold": "C"},
        {"save_dtype": "float8"},
        {"rest": "keep"},
        {"unholdable": "save"},
        {"targets": ["("]},
        {"exclude": ["["]},
        {"targets": "q_proj"},
        {"base_name": " "},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_wrong_usage(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        options(**changes)
    assert caught.value.exit_code == 2


def test_plain_options_are_those_that_change_the_result() -> None:
    plain = options(targets=["q_proj"], seed=3).plain()
    assert plain["targets"] == ["q_proj"]
    assert plain["seed"] == 3
    assert plain["failure_probability"] == 1e-6
    assert not {"workers", "force", "output"} & plain.keys()


def test_patterns_are_searched_for_and_exclude_wins() -> None:
    chosen: Selection = options(targets=["attn"], exclude=["k_proj"]).selection
    assert chosen.includes("model.layers.0.self_attn.q_proj")
    assert not chosen.includes("model.layers.0.self_attn.k_proj")
    assert not chosen.includes("model.layers.0.mlp.up_proj")
    assert options().selection.includes("anything")
