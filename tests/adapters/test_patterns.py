"""PEFT's patterns: the table answers as PEFT's own rule does, and answers soon, however many there are."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key

from loratools.adapters.patterns import MOST_EXPRESSIONS, PatternTable
from loratools.errors import LoratoolsError

_PART = st.sampled_from(["a", "b", "ab", "1", "a_b", "a-b"])
_NAMES = st.lists(_PART, min_size=1, max_size=4).map(".".join)
_PATTERNS = st.lists(
    st.one_of(
        _NAMES,
        _NAMES.map(re.escape),
        _NAMES.map(lambda name: f"^{re.escape(name)}"),
        _NAMES.map(lambda name: f"^{name}"),
        st.sampled_from([".*", "a.*", "a|b", "[ab]", "a.b.1", "a..", ".", r"a\.", "(a|b).1", "a)|(b"]),
    ),
    max_size=6,
    unique=True,
)


@given(_PATTERNS, _NAMES)
def test_the_table_answers_as_peft_does(patterns: list[str], name: str) -> None:
    assert (PatternTable(patterns).first(name) or name) == get_pattern_key(patterns, name)


def test_ten_thousand_patterns_are_looked_up_for_ten_thousand_modules() -> None:
    modules = [f"model.layers.{n // 7}.mlp.experts.{n % 7}.up_proj" for n in range(10_000)]
    loose, escaped = PatternTable(modules), PatternTable(f"^{re.escape(name)}" for name in modules)
    start = time.perf_counter()
    assert [loose.first(name) for name in modules] == modules
    assert [escaped.first(name) for name in modules] == [f"^{re.escape(name)}" for name in modules]
    assert time.perf_counter() - start < 10, "each was compiled and asked, as PEFT does"


def test_expressions_are_limited_in_number_and_each_in_time() -> None:
    with pytest.raises(ValueError, match=f"more than {MOST_EXPRESSIONS:,}"):
        PatternTable(f"a*{n}" for n in range(MOST_EXPRESSIONS + 1))
    with pytest.raises(ValueError, match="repeated group"):
        PatternTable(["(a+)+$"])
    with pytest.raises(LoratoolsError, match="too long"):
        PatternTable([".*.*.*.*!"]).first("a" * 1000)
