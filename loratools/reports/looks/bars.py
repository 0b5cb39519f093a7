"""Sparklines: a row of small bars for a row of numbers."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["FLOOR", "sparkline", "spectrum_line"]

_BARS = "▁▂▃▄▅▆▇█"

FLOOR = "|"
"""Stands in a spectrum's line before the first bar that is not above the noise floor."""


def sparkline(values: Sequence[float], *, top: float | None = None) -> str:
    """A bar for each value, of a height from 0 to `top` (the largest of them, if not given)."""
    highest = max(values, default=0.0) if top is None else top
    return "".join(_BARS[_step(value, highest)] for value in values)


def spectrum_line(values: Sequence[float], above: int | None, *, width: int = 24) -> str:
    """Falling singular values as bars, the first of full height; at most `width` bars.

    Args:
        above: how many stand above the noise floor: a mark stands after the last of those.
    """
    picked = _picked(len(values), width)
    line = sparkline([values[at] for at in picked])
    if above is None or above >= len(values):
        return line
    before = sum(at < above for at in picked)
    return line[:before] + FLOOR + line[before:]


def _step(value: float, highest: float) -> int:
    share = value / highest if highest > 0 else 0.0
    return min(max(int(share * len(_BARS)), 0), len(_BARS) - 1)


def _picked(count: int, width: int) -> list[int]:
    """Positions, evenly spread, of at most `width` values, the first and the last among them."""
    if count <= width:
        return list(range(count))
    return [round(at * (count - 1) / (width - 1)) for at in range(width)]
