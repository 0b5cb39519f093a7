"""Numbers as people read them: sizes, ratios, shares, ranks."""

from __future__ import annotations

import re
from collections.abc import Sequence

_UNITS = ("B", "kB", "MB", "GB", "TB")


def size(count: int) -> str:
    """Bytes in SI units: `1.20 MB`; whole bytes below 1 kB."""
    if count < 1000:
        return f"{count} B"
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.3g} {_UNITS[unit]}" if value < 999.5 else f"{value:.0f} {_UNITS[unit]}"


def number(value: float | None, digits: int = 4) -> str:
    """`digits` significant digits; a dash where nothing was measured."""
    return "-" if value is None else f"{value:.{digits}g}"


def share(value: float | None) -> str:
    """A share as a percentage, with enough digits that a small one is not shown as none: `0.0021 %`."""
    return "-" if value is None else f"{100 * value:.3g} %"


def family(name: str) -> str:
    """A name without the numbers that count layers or experts: `model.layers.*.mlp.up_proj`."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def shape(lengths: Sequence[int]) -> str:
    return " x ".join(map(str, lengths)) or "scalar"


def span(values: Sequence[float]) -> str:
    """The one value that all have, or the least and the greatest."""
    low, high = min(values), max(values)
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def between(low: float, high: float | None) -> str:
    """A figure where the data decide it, `25`, or its bounds, `25-40`, or `25+` where nothing bounds it."""
    if high is None:
        return f"{number(low, 3)}+"
    return number(low, 3) if low == high else f"{number(low, 3)}-{number(high, 3)}"


def several(value: Sequence[float] | float | None) -> str:
    """A value, or the values of modules that differ, in short."""
    if value is None:
        return "-"
    if isinstance(value, (int, float)):
        return number(value, 6)
    return ", ".join(number(item, 6) for item in value)


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"
