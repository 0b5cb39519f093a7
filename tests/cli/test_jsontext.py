"""Indented JSON: what Python's own encoder writes, but for lists of numbers, which take one line."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from loratools.cli.jsontext import as_json

PLAIN = some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False, allow_infinity=False)
VALUES: some.SearchStrategy[Any] = some.recursive(
    PLAIN | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=20,
)
NUMBER = r"(?:[-+.0-9eE]+|null)"
NUMBERS = re.compile(rf"\[\s+{NUMBER}(?:,\n\s+{NUMBER})*\s+\]")


def expected(value: Any) -> str:
    """By Python's encoder, and a pattern that joins the lines of numbers between brackets."""
    text = json.dumps(value, indent=2, allow_nan=False)
    return NUMBERS.sub(lambda numbers: re.sub(r"\s*\n\s*", "", numbers[0]).replace(",", ", "), text)


@given(VALUES)
def test_it_is_what_python_writes(value: Any) -> None:
    assert as_json(value) == expected(value)


def test_rows_stand_line_by_line() -> None:
    value = {"rows": [{"name": "a,\n b: [1,", "grid": [[1, 2.5], [None]], "of": {}}, {"none": [], "x": True}]}
    assert as_json(value) == expected(value)
    assert json.loads(as_json(value)) == value


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(number: float) -> None:
    for value in ({"row": {"number": number}}, [number]):
        with pytest.raises(ValueError, match="not JSON compliant"):
            as_json(value)
