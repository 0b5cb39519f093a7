"""The speed of a link as users write it: `1Gbit`, `100Mbit/s`, `10MB/s`."""

from __future__ import annotations

import re

from loratools.errors import UsageError

__all__ = ["parse_link"]

_PREFIXES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SPEED = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([kmgt]i?)?(bits?|bps|bytes?|b)(?:/s|ps)?", re.IGNORECASE)


def parse_link(text: str) -> float:
    """`1Gbit` -> 125,000,000 bytes a second; `10MB/s` -> 10,000,000. A small b is a bit, a capital B a byte,
    where neither is spelt out.

    Raises:
        UsageError: not a speed, or none at all.
    """
    match = _SPEED.fullmatch(text.strip())
    if match is None:
        raise _no_speed(text)
    number, prefix, unit = match[1], (match[2] or "").lower(), match[3]
    spelt = unit.lower()
    is_bits = spelt.startswith("bit") or (unit[0] == "b" and not spelt.startswith("byte"))
    speed = float(number) * {**_PREFIXES, **_BINARY}[prefix] / (8 if is_bits else 1)
    if speed <= 0:
        raise _no_speed(text)
    return speed


def _no_speed(text: str) -> UsageError:
    return UsageError(f"--link {text!r} is no speed", hint="write it like 1Gbit, 100Mbit or 10MB/s")
