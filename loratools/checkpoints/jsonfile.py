"""JSON as a checkpoint may carry it: capped in size and memory, UTF-8, one value per key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from loratools.checkpoints.claims import regular_file
from loratools.checkpoints.files import read_bytes
from loratools.errors import LoratoolsError

CONFIG_BYTES = 16_000_000
"""Cap on config.json and adapter_config.json; real ones have kilobytes."""

INDEX_BYTES = 100_000_000
"""Cap on a shard index; one of half a million tensors fits."""

MEMORY_BYTES = 450_000_000
"""Cap on what a parsed JSON may take: a safetensors header of 300,000 tensors fits, and a tokenizer of 35 MB,
but not 25 MB of `{"":{}}`, which would become almost a gigabyte."""


def read_json(path: Path, cap: int = CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file of at most `cap` bytes."""
    return _as_object(read_value(path, cap), path)


def read_value(path: Path, cap: int = CONFIG_BYTES) -> Any:
    """What a JSON file of at most `cap` bytes holds, an object or not. Raises as `parse_object` does."""
    size = regular_file(path).st_size
    if size > cap:
        raise LoratoolsError(f"{size:,} bytes of JSON, more than the {cap:,} that are read", file=path)
    try:
        text = _text(read_bytes(path, cap + 1), path)
    except OSError as error:
        raise LoratoolsError(f"cannot read: {error.strerror}", file=path) from error
    return _parsed(text, path)


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `data`.

    Raises:
        LoratoolsError: it is none, nested too deeply, would take more than `MEMORY_BYTES`, or has a key twice
            in any object of it (which is refused, not overwritten).
    """
    return _as_object(_parsed(_text(data, path), path), path)


def _text(data: bytes, path: Path) -> str:
    """The text, if it is one and no bomb. The bytes are not held any longer than this, by those who can."""
    memory = memory_of(data)
    if memory > MEMORY_BYTES:
        raise LoratoolsError(
            f"JSON that would take {memory:,} bytes of memory, above the {MEMORY_BYTES:,} allowed", file=path
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LoratoolsError(f"JSON that is not UTF-8 (byte {error.start})", file=path) from error


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise LoratoolsError("JSON nested too deeply", file=path) from error
    except _DuplicateKeyError as error:
        raise LoratoolsError(
            f"the key {error} stands twice", file=path, hint="write the file again"
        ) from error
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise LoratoolsError(f"no valid JSON: {error}", file=path) from error


def _as_object(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise LoratoolsError("a JSON object is needed here", file=path)
    return value


def memory_of(data: bytes) -> int:
    """Bytes that the values in a JSON text take at most, from counts of its punctuation alone.

    By CPython's sizes: 232 for a small dictionary and 100 for each further entry, 88 for a list and 9 for a
    place in it, 64 for a string beside its characters (which stand in the text and in the value), 32 for a
    number. Punctuation inside of strings only raises the estimate: what it adds is more than what it hides.
    """
    dictionaries, lists, strings = data.count(b"{"), data.count(b"["), data.count(b'"') // 2
    entries, commas = data.count(b":"), data.count(b",")
    wide = 1 if data.isascii() and b"\\u" not in data else 4
    return (
        2 * wide * len(data)
        + 232 * dictionaries
        + 100 * max(0, entries - dictionaries)
        + 88 * lists
        + 9 * commas
        + 64 * strings
        + 32 * max(0, commas + entries - strings)
    )


class _DuplicateKeyError(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for key, _ in reversed(pairs):  # the last of two goes first, and the other is not found any more
            if found.pop(key, pairs) is pairs:
                raise _DuplicateKeyError(repr(key))
    return found
