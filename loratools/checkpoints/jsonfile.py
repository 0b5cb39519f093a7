"""JSON as a checkpoint may carry it: capped in size, UTF-8, one value per key."""

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
"""Cap on a shard index; one of a million tensors fits."""


def read_json(path: Path, cap: int = CONFIG_BYTES) -> dict[str, Any]:
    """The object in a JSON file of at most `cap` bytes."""
    size = regular_file(path).st_size
    if size > cap:
        raise LoratoolsError(f"{size:,} bytes of JSON, more than the {cap:,} that are read", file=path)
    try:
        data = read_bytes(path, cap + 1)
    except OSError as error:
        raise LoratoolsError(f"cannot read: {error.strerror}", file=path) from error
    return parse_object(data, path)


def parse_object(data: bytes, path: Path) -> dict[str, Any]:
    """The JSON object in `data`; a key that stands twice in any object of it is refused, not overwritten."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_without_duplicates)
    except UnicodeDecodeError as error:
        raise LoratoolsError(f"JSON that is not UTF-8 (byte {error.start})", file=path) from error
    except RecursionError as error:
        raise LoratoolsError("JSON nested too deeply", file=path) from error
    except _DuplicateKeyError as error:
        raise LoratoolsError(
            f"the key {error} stands twice", file=path, hint="write the file again"
        ) from error
    except ValueError as error:  # JSONDecodeError, and integers of thousands of digits
        raise LoratoolsError(f"no valid JSON: {error}", file=path) from error
    if not isinstance(value, dict):
        raise LoratoolsError("a JSON object is needed here", file=path)
    return value


class _DuplicateKeyError(Exception):
    pass


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(repr(next(key for key in keys if keys.count(key) > 1)))
    return found
