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

MOST_LEVELS = 16
"""Configs in one another: those of models have up to four."""


def check_config(config: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The config, if these fields of it, and of the configs in it, are what they have to be.

    Raises:
        LoratoolsError: one is not, by its key; or configs stand in configs without end.
    """
    level: list[tuple[str, Mapping[str, Any]]] = [("", config)]
    for _ in range(MOST_LEVELS):
        for place, held in level:
            _check_fields(place, held, path)
        level = [
            (f"{place}{shortened(name, 40)}.", value)
            for place, held in level
            for name, value in held.items()
            if isinstance(value, dict)
        ]
    if level:
        raise LoratoolsError(f"a config in more than {MOST_LEVELS} others", file=path)
    return config


def _check_fields(place: str, config: Mapping[str, Any], path: Path) -> None:
    for name, (fits, wanted) in _FIELDS.items():
        value = config.get(name)
        if value is not None and not fits(value):
            raise LoratoolsError(
                f"{place}{name} is {shortened(repr(value), 80)} where {wanted} is expected", file=path
            )
