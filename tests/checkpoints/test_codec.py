"""Results of jobs to JSON and back: bit for bit, and nothing that was not written so."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.checkpoints.codec import Codec
from loratools.operations.extract import FACTS
from loratools.operations.extract_job import FactorFacts, Factors
from loratools.operations.pairing import Side
from loratools.operations.rewrite import FIGURES
from loratools.operations.streaming import TensorFigures
from loratools.operations.undo.kept import Keeping, Kept


class Colour(str, Enum):
    RED = "red"


@dataclass(frozen=True)
class Inner:
    number: float


@dataclass(frozen=True)
class Outer:
    flag: bool
    count: int
    word: str
    ratio: float
    maybe: int | None
    inner: Inner | None
    several: tuple[float, ...]
    pair: tuple[int, str | None]
    colour: Colour
    by_place: Mapping[tuple[Colour, str], str]


OUTERS = st.builds(
    Outer,
    flag=st.booleans(),
    count=st.integers(),
    word=st.text(),
    ratio=st.floats(allow_nan=False),
    maybe=st.none() | st.integers(),
    inner=st.none() | st.builds(Inner, st.floats(allow_nan=False)),
    several=st.lists(st.floats(allow_nan=False)).map(tuple),
    pair=st.tuples(st.integers(), st.none() | st.text()),
    colour=st.just(Colour.RED),
    by_place=st.dictionaries(st.tuples(st.just(Colour.RED), st.text()), st.text(), max_size=3),
)
CODEC = Codec(Outer)


@given(OUTERS)
def test_what_is_written_comes_back(value: Outer) -> None:
    back = CODEC.decode(json.loads(json.dumps(CODEC.encode(value), allow_nan=False)))
    assert back == value and type(back.colour) is Colour
    assert struct.pack("d", back.ratio) == struct.pack("d", value.ratio)


def test_a_number_that_is_none_comes_back() -> None:
    back = Codec(Inner).decode(json.loads(json.dumps(Codec(Inner).encode(Inner(math.nan)), allow_nan=False)))
    assert math.isnan(back.number)


PLAIN = {
    "flag": True, "count": 1, "word": "x", "ratio": 1.5, "maybe": None, "inner": {"number": 1.0},
    "several": [1.0], "pair": [1, "x"], "colour": "red", "by_place": [[["red", "x"], "y"]],
}  # fmt: skip


@pytest.mark.parametrize(
    "wrong",
    [
        {"flag": 1}, {"count": True}, {"count": 1.0}, {"word": 3}, {"word": None}, {"ratio": 1},
        {"ratio": "long"}, {"maybe": "1"}, {"inner": 5}, {"inner": {}}, {"inner": {"number": 1.0, "more": 1}},
        {"several": 1.0}, {"several": ["x"]}, {"several": {"0": 1.0}}, {"pair": [1]}, {"pair": [1, "x", "y"]},
        {"colour": "blue"}, {"colour": ["red"]}, {"by_place": {"x": "y"}}, {"by_place": [["x", "y"]]},
        {"by_place": [[["red", "x"]]]}, {"more": 1},
    ],
    ids=str,
)  # fmt: skip
def test_anything_else_is_refused(wrong: dict[str, Any]) -> None:
    assert CODEC.decode(PLAIN) == Outer(
        True, 1, "x", 1.5, None, Inner(1.0), (1.0,), (1, "x"), Colour.RED, {(Colour.RED, "x"): "y"}
    )
    with pytest.raises((ValueError, TypeError)):
        CODEC.decode({**PLAIN, **wrong})


@pytest.mark.parametrize("found", [None, [], 3, "x", {}], ids=str)
def test_what_is_no_record_is_refused(found: Any) -> None:
    with pytest.raises(ValueError, match="no Outer"):
        CODEC.decode(found)


def test_a_field_that_json_does_not_know_is_found_at_once() -> None:
    @dataclass(frozen=True)
    class Other:
        value: bytes

    with pytest.raises(TypeError, match="has no form in JSON"):
        Codec(Other)


def test_the_results_of_jobs_come_back() -> None:
    """Every field of them, so that one that a verb adds is not lost on the way."""
    kept = Kept(Keeping.INTERVAL, "part", 3, 1, ((0.1, math.inf), ()))
    figures = TensorFigures("w", None, "r", 1, 0.1, 0.02, 0, None, 1e-300, 2, "s", kept)
    factors = Factors(2, "a", "b", "m", 0.5, 0.1, 0.2, None, 1e-9)
    facts = FactorFacts(1.5, 2.5, factors, {(Side.BASE, "w"): "r"}, 0.25)
    for codec, value in ((FIGURES, figures), (FACTS, facts), (FACTS, replace(facts, factors=None))):
        written = json.loads(json.dumps(codec.encode(value), allow_nan=False))
        assert written.keys() == {field.name for field in fields(value)}
        assert codec.decode(written) == value
