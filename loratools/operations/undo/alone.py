"""Where an element needs no look of its own: only one number of the base's can have become what it is."""

from __future__ import annotations

from typing import Any

from loratools.linalg.predecessors import error_bound, settled
from loratools.operations.precision import Stored, Wide, arithmetic_dtype, largest_gap, least_gap, widened
from loratools.operations.undo.steps import Steps

__all__ = ["alone"]


def alone(steps: Steps, dtype: str, before: Stored, y: Stored, distance: Wide, first: int) -> Any:
    """Where only `before` can have become `y` by the steps, by a wide margin; (rows, columns).

    Zeros are left out: they have a sign, which no interval tells.

    Args:
        before: some rows as the base had them, or as they are taken to have been; y: as they became.
        distance: |y - F before - G| / |F|.
        first: the number of the first row.
    """
    import numpy as np

    scale = np.abs(steps.scale(first, len(y), distance.dtype))
    bound = steps.bound(first, len(y)) * np.maximum(scale, 1.0)
    with np.errstate(all="ignore"):
        arithmetic = arithmetic_dtype(dtype)
        size = np.asarray(bound, dtype=distance.dtype)
        error = error_bound(widened(y, dtype, arithmetic), size, steps.terms, arithmetic)
        half = largest_gap(y, dtype) * np.float32(0.5)
        if np.ndim(scale):
            half, error = half / scale, error / scale
        found = settled(distance, least_gap(before, dtype), half, error)
    integers = before.view(f"uint{8 * before.dtype.itemsize}")
    return found & ((integers << np.array(1, integers.dtype)) != 0)
