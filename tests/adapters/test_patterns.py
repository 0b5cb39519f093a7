"""Patterns from a file: harmless ones match as in PEFT, hostile ones are refused before they are matched."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools.adapters.patterns import checked, matches
from loratools.errors import LoratoolsError

NAME = "model.language_model.layers.11.self_attn.q_proj"


@pytest.mark.parametrize(
    "pattern",
    [
        "q_proj",
        "layers.11.self_attn.q_proj",
        r"layers\.(1|11|111)\.self_attn\.[qkv]_proj",
        r".*layers\.\d+\..*_proj",
        r"^model\.(?:language_model\.)?layers\.1?1\..*",
        "|".join(f"layers.{n}.self_attn.q_proj" for n in range(30)),
        "layers.[0-9]{1,3}.*",
        "layers.1",
        ".*.*.*",
        r"(?!.*vision).*q_proj",
        r".*(?<=attn\.)q_proj",
        r"self_attn\.q\x5fproj",
        r"self_attn.q_pro\w",
        r"self_attn\.q_pro[j]",
        r"q_proj|\dx",
    ],
)
def test_what_people_write_matches_as_in_peft(pattern: str) -> None:
    checked(pattern)
    assert matches(pattern, NAME) == bool(re.match(rf"(.*\.)?({pattern})$", NAME))


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+b", "(a|a)*b", "(?:.*)*x", "(a*){20}b", "((a+)b?)+!", r"(\w|\d)+\(", "(a)+?b", "[]()]*(a+)+"],
)
def test_repeated_groups_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeated group"):
        checked(pattern)


@pytest.mark.parametrize(
    "pattern",
    [".*" * 20 + "!", "a?" * 60 + "a" * 60 + "!", "(a|a)" * 40 + "!", "a{0,9}" * 12 + "!", ".*a" * 9 + "!"],
    ids=["stars", "options", "branches", "counts", "letters"],
)
def test_what_could_take_too_long_is_refused_at_once(pattern: str) -> None:
    checked(pattern)
    start = time.perf_counter()
    with pytest.raises(LoratoolsError, match="too long"):
        matches(pattern, "a" * 60)
    assert time.perf_counter() - start < 1


_ATOM = st.sampled_from(["a", ".", r"\w", "[ab]", "(a|ab)", "(a|a)", "(?:a|.)", "b"])
_QUANTIFIER = st.sampled_from(["", "", "*", "+", "?", "*?", "{0,5}", "{1,}"])


@given(st.lists(st.tuples(_ATOM, _QUANTIFIER), max_size=14), st.integers(1, 60))
def test_what_is_let_pass_ends_soon(parts: list[tuple[str, str]], length: int) -> None:
    pattern = "".join(atom + quantifier for atom, quantifier in parts) + "!"
    try:
        checked(pattern)
        start = time.perf_counter()
        matches(pattern, "a" * length)
    except (ValueError, LoratoolsError):
        return
    assert time.perf_counter() - start < 5
