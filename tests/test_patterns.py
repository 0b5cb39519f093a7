"""Regular expressions of users and files: harmless ones match as `re` does, hostile ones are refused."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loratools import patterns
from loratools.errors import LoratoolsError, UsageError
from loratools.patterns import Pattern, patterns_of_option

NAME = "model.language_model.layers.11.self_attn.q_proj"
LONG = "a" * 1000


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
        "layers.1$",
        ".*.*.*",
        r"(?!.*vision).*q_proj",
        r".*(?<=attn\.)q_proj",
        "(?i)Q_PROJ$",
        "absent",
    ],
)
def test_what_people_write_is_found_as_re_finds_it(pattern: str) -> None:
    assert Pattern(pattern).search(NAME) == bool(re.search(pattern, NAME))
    assert Pattern(pattern).match(NAME) == bool(re.match(pattern, NAME))


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a+)+b",
        "(a|a)*b",
        "(.*a){20}",
        "(?:.*)*x",
        "((a+)b?)+!",
        r"(\w|\d)+\(",
        "(a)+?b",
        "[]()]*(a+)+",
    ],
)
def test_repeated_groups_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="repeated group"):
        Pattern(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(.*)\1x",
        r"(a*)(a*)\2\1!",
        "(?P<x>a*)(?P=x)",
        "(?x) ( a* # )\n)+",
        "a(?>b*)c",
        "(?s-i:.*)",
        "(?#()a",
        "(a)?(?(1)b|c)",
    ],
)
def test_references_and_flags_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError):
        Pattern(pattern)


@pytest.mark.parametrize(
    "pattern", ["(", "a**", "[[a]b]", "a{9999999999}", "(?i", "\\", "a" * 1001, "(" * 999]
)
def test_what_is_no_expression_is_refused_as_wrong_usage(pattern: str) -> None:
    with pytest.raises(UsageError) as refusal:
        patterns_of_option([pattern], "--targets")
    assert str(refusal.value).startswith("--targets ")
    assert "\n" not in str(refusal.value)


class Untried:
    """Stands for a compiled pattern that must not be asked."""

    def search(self, name: str) -> object:
        raise AssertionError("it was tried")


@pytest.mark.parametrize(
    "pattern",
    [
        *(
            ".*" * 20 + "!",
            "a?" * 60 + "a" * 60 + "!",
            "(a|a)" * 40 + "!",
            "a{0,9}" * 12 + "!",
            ".*a" * 9 + "!",
        ),
        "(?=.*.*.*b).*.*c",
    ],
    ids=["stars", "options", "branches", "counts", "letters", "lookahead"],
)
def test_what_could_take_too_long_is_refused_before_it_is_tried(pattern: str) -> None:
    asked = Pattern(pattern)
    object.__setattr__(asked, "_compiled", Untried())
    with pytest.raises(LoratoolsError, match="too long"):
        asked.search(LONG)


def test_the_time_of_many_names_is_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = patterns_of_option([".*.*!", ".*!"], "--targets")
    assert not first.search(LONG[:100])
    monkeypatch.setattr(patterns, "MOST_SECONDS", 0.0)
    with pytest.raises(LoratoolsError, match="too long"):
        second.search(LONG[:10])


_ATOM = st.sampled_from(["a", ".", r"\w", "[ab]", "(a|ab)", "(a|a)", "(?:a|.)", "b", "(?=a.*)", "(a*|b)"])
_QUANTIFIER = st.sampled_from(["", "", "*", "+", "?", "*?", "{0,5}", "{1,}"])


@given(st.lists(st.tuples(_ATOM, _QUANTIFIER), max_size=14), st.integers(1, 60), st.booleans())
def test_what_is_let_pass_ends_soon(parts: list[tuple[str, str]], length: int, branch: bool) -> None:
    pattern = ("|" if branch else "").join(atom + quantifier for atom, quantifier in parts) + "!"
    try:
        start = time.perf_counter()
        Pattern(pattern).search("a" * length)
    except (ValueError, LoratoolsError):
        return
    assert time.perf_counter() - start < 5
