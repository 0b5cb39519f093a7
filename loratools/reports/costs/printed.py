"""Numbers as the paper prints them, `4.7M` or `+20.7%`, and whether a value rounds to one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_DOWN, ROUND_HALF_UP, Decimal

__all__ = ["Printed", "follows"]

_NUMBER = re.compile(r"[+]?(?P<digits>[\d,]+)(?P<decimals>\.\d+)?\s*(?P<unit>M|GB|MB|TB|%|x|ms)?")
_SCALE = {None: 0, "M": 6, "MB": 6, "GB": 9, "TB": 12, "%": 0, "x": 0, "ms": 0}


@dataclass(frozen=True, slots=True)
class Printed:
    """A printed number: its value, and the power of ten of its last digit that counts."""

    value: Decimal
    last: int


def read(text: str) -> Printed:
    """`37.7M` -> 37.7e6, good to 1e5. Zeros at the end of a whole number do not count as digits: `350 GB` is
    good to 10 GB, `10,000x` to 10,000.

    Raises:
        ValueError: no number.
    """
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no printed number")
    digits, decimals = match["digits"].replace(",", ""), match["decimals"] or ""
    last = 1 - len(decimals) if decimals else len(digits) - len(digits.rstrip("0"))
    scale = _SCALE[match["unit"]]
    return Printed(Decimal(digits + decimals).scaleb(scale), last + scale)


def follows(printed: str, value: float) -> bool:
    """Whether `value` rounds to `printed`, to all the digits that are printed (a half either way)."""
    number = read(printed)
    step = Decimal(1).scaleb(number.last)
    scaled = Decimal(repr(float(value))) / step
    return number.value / step in {
        scaled.quantize(Decimal(1), way) for way in (ROUND_HALF_DOWN, ROUND_HALF_UP)
    }
