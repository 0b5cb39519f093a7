"""Medians, of figures and of bounds on figures."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Known", "median", "median_bounds"]

Known = tuple[float, float | None]
"""At least and at most; None where nothing bounds a figure from above. Equal where it is known."""


def median(values: Sequence[float | None]) -> float | None:
    """The median of the figures that are defined, the lower of two in the middle; None if there are none."""
    known = [value for value in values if value is not None]
    return _lower(known) if known else None


def median_bounds(values: Sequence[Known | None]) -> Known | None:
    """Bounds on the median (the lower one): the medians of the bounds; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    highs = [float("inf") if high is None else high for _, high in known]
    high = _lower(highs)
    return _lower([low for low, _ in known]), None if high == float("inf") else high


def _lower(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]
