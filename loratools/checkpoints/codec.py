"""Frozen dataclasses as JSON and back, strictly as their annotations say: a journal is nobody's to trust."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

__all__ = ["Codec"]

Record = TypeVar("Record")

_Decode = Callable[[Any], Any]


class Codec(Generic[Record]):
    """To and from JSON for one dataclass; floats come back bit for bit.

    Args:
        record: the class. Its fields are numbers, words, booleans, enumerations, None, further dataclasses,
            tuples of these, and mappings from these.
        names: classes that its annotations name, where its own module imports them for type checkers only.

    Raises:
        TypeError: a field of another type.
    """

    def __init__(self, record: type[Record], **names: type) -> None:
        self._decode = _of_record(record, names)

    def encode(self, value: Record) -> Any:
        return _plain(value)

    def decode(self, found: Any) -> Record:
        """Raises ValueError for anything that `encode` cannot have made."""
        record: Record = self._decode(found)
        return record


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return [[_plain(key), _plain(item)] for key, item in value.items()]
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(float(value))
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _of_record(record: type, names: Mapping[str, type]) -> _Decode:
    hints = get_type_hints(record, localns=dict(names))
    decoders = {field.name: _of(hints[field.name], names) for field in fields(record)}

    def decode(found: Any) -> Any:
        if not isinstance(found, dict) or found.keys() != decoders.keys():
            raise ValueError(f"no {record.__name__}")
        return record(**{name: decoders[name](item) for name, item in found.items()})

    return decode


def _of(hint: Any, names: Mapping[str, type]) -> _Decode:
    """The decoder of what an annotation says."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (arg for arg in args if arg is not type(None))
        decode = _of(inner, names)
        return lambda found: None if found is None else decode(found)
    if origin is tuple:
        return _of_tuple(args, names)
    if origin is not None and issubclass(origin, Mapping):
        pair = _of_tuple(args, names)
        return lambda found: dict(map(pair, _list(found)))
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    if is_dataclass(hint):
        return _of_record(hint, names)  # type: ignore[arg-type]  # an instance is never an annotation
    if hint is float:
        return _float
    if hint in (bool, int, str):
        return lambda found: _exactly(found, hint)
    raise TypeError(f"{hint} has no form in JSON")


def _of_tuple(args: tuple[Any, ...], names: Mapping[str, type]) -> _Decode:
    decoders = [_of(arg, names) for arg in args if arg is not Ellipsis]
    if Ellipsis in args:
        return lambda found: tuple(map(decoders[0], _list(found)))

    def decode(found: Any) -> tuple[Any, ...]:
        if len(_list(found)) != len(decoders):
            raise ValueError("a tuple of another length")
        return tuple(one(item) for one, item in zip(decoders, found, strict=True))

    return decode


def _float(found: Any) -> float:
    if found in ("nan", "inf", "-inf"):
        return float(found)
    return float(_exactly(found, float))


def _exactly(found: Any, kind: type) -> Any:
    if type(found) is not kind:
        raise ValueError(f"{type(found).__name__} where {kind.__name__} is needed")
    return found


def _list(found: Any) -> list[Any]:
    checked: list[Any] = _exactly(found, list)
    return checked
