"""Results as indented JSON, in which rows and lists of numbers are encoded in one call each.

Python's own encoder is written in Python where it indents, and took longer over the rows of a plan than the
plan did. What comes out is what it would write, but for lists of numbers, which take one line: a grid of
similarities has thousands.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

_STEP = "  "
_NESTED = (dict, list, tuple)


def as_json(value: Any) -> str:
    """The JSON of plain dictionaries, lists, strings, numbers and None.

    Raises:
        ValueError: a number is not finite.
    """
    return _text(value, "\n")


def _text(value: Any, margin: str) -> str:
    """The JSON of a value that begins in a line with this margin, a line break and blanks."""
    if not isinstance(value, _NESTED) or not value:
        return _encoder(", ").encode(value)
    inner = margin + _STEP
    if isinstance(value, dict):
        if not any(isinstance(item, _NESTED) for item in value.values()):
            return f"{{{inner}{_encoder(',' + inner).encode(value)[1:-1]}{margin}}}"
        held = [
            f"{_encoder(', ').encode({key: None})[1:-5]}{_text(item, inner)}" for key, item in value.items()
        ]
        return f"{{{inner}{f',{inner}'.join(held)}{margin}}}"
    if all(_is_number(item) for item in value):
        return _encoder(", ").encode(value)
    return f"[{inner}{f',{inner}'.join([_text(item, inner) for item in value])}{margin}]"


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


@lru_cache
def _encoder(between: str) -> json.JSONEncoder:
    """An encoder that puts `between` between the entries of an object or a list."""
    return json.JSONEncoder(allow_nan=False, separators=(between, ": "))
