"""Sizes as users write them: `5GB`, `512MiB`."""

from __future__ import annotations

import re

from loratools.errors import UsageError

_UNITS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,18})?)\s*([A-Za-z]*)\s*", re.ASCII)


def size_in_bytes(size: int | str | None) -> int | None:
    """A size as Python callers give it: bytes, or text as `parse_size` reads it; None stays None.

    Raises:
        UsageError: not a size, or less than a byte.
    """
    if isinstance(size, str):
        return parse_size(size)
    if size is not None and size < 1:
        raise UsageError(f"{size} is less than a byte", hint="write it like 5GB, 500MB or 2GiB")
    return size


def parse_size(text: str) -> int:
    """`5GB` -> 5,000,000,000 bytes; KB to TB are powers of 1000, KiB to TiB of 1024, no unit is bytes.

    Raises:
        UsageError: not a size, or less than a byte.
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise UsageError(f"{text!r} is no size", hint="write it like 5GB, 500MB or 2GiB")
    whole, _, fraction = match[1].partition(".")
    size: int = int(whole + fraction) * unit // 10 ** len(fraction)
    if size < 1:
        raise UsageError(f"{text!r} is less than a byte", hint="write it like 5GB, 500MB or 2GiB")
    return size
