"""The fields of a model's config.json that are read by every verb: of the type that they are, or refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loratools.errors import LoratoolsError, shortened

__all__ = ["check_config"]


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _flag(value: object) -> bool:
    return isinstance(value, bool)


def _object(value: object) -> bool:
    return isinstance(value, dict)


_FIELDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "model_type": (_text, "a string"),
    "architectures": (_texts, "a list of strings"),
    "vocab_size": (_count, "a count"),
    "tie_word_embeddings": (_flag, "true or false"),
    "quantization_config": (_object, "an object"),
    "compression_config": (_object, "an object"),
    "text_config": (_object, "an object"),
}
"""What is asked of a field that is there and not null."""


def check_config(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The config, if these fields of it (and of its text model's) are what they have to be.

    Raises:
        LoratoolsError: one is not, by its key.
    """
    nested = config.get("text_config")
    levels = [("", config), ("text_config.", nested if isinstance(nested, dict) else {})]
    for place, level in levels:
        for name, (fits, wanted) in _FIELDS.items():
            value = level.get(name)
            if value is not None and not fits(value):
                raise LoratoolsError(
                    f"{place}{name} is {shortened(repr(value), 80)} where {wanted} is expected", file=path
                )
    return config
