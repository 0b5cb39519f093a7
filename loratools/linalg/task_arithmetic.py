"""Merging several arrays of one shape into one: weighted sums, pruning and the election of signs.

The methods are those of PEFT 0.21 (`peft.utils.merge_utils`), by their definitions: TIES (Yadav et al. 2023,
arXiv 2306.01708), DARE (Yu et al. 2023, arXiv 2311.03099). Arrays are stacked along axis 0, float64.
"""

from __future__ import annotations

from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MajoritySign",
    "disjoint_mean",
    "keep_at_random",
    "keep_largest",
    "majority_mask",
    "task_sum",
]

Array = NDArray[np.float64]


class MajoritySign(str, Enum):
    """How the sign of an entry is elected."""

    TOTAL = "total"
    """The sign of the sum."""
    FREQUENCY = "frequency"
    """The sign that more of the arrays have."""


def task_sum(arrays: Array, weights: Array) -> Array:
    """sum w_i x_i over axis 0."""
    return np.asarray(np.tensordot(weights, arrays, axes=1))


def keep_largest(array: Array, density: float) -> Array:
    """The array with all but its int(density * size) entries of greatest magnitude set to zero.

    Of equal magnitudes the first in row-major order stay.
    """
    count = int(density * array.size)
    if density >= 1.0:
        return array
    kept = np.zeros(array.size, dtype=bool)
    if count:
        magnitudes = np.abs(array.reshape(-1))
        least = np.partition(magnitudes, array.size - count)[array.size - count]
        kept = magnitudes > least
        kept[np.flatnonzero(magnitudes == least)[: count - int(np.count_nonzero(kept))]] = True
    return np.where(kept.reshape(array.shape), array, 0.0)


def keep_at_random(array: Array, density: float, generator: np.random.Generator) -> Array:
    """Each entry stays with probability `density`, divided by it, so that the mean is the array."""
    if density >= 1.0:
        return array
    return np.where(generator.random(array.shape) < density, array / density, 0.0)


def majority_mask(arrays: Array, method: MajoritySign) -> NDArray[np.bool_]:
    """Which entries have the sign that was elected for their place; zeros have none, and a tie elects plus.

    Returns:
        Of the shape of `arrays`.
    """
    votes = arrays if method is MajoritySign.TOTAL else np.sign(arrays)
    elected = np.where(votes.sum(axis=0) >= 0.0, 1.0, -1.0)
    return np.asarray(np.sign(arrays) == elected)


def disjoint_mean(weighted: Array, mask: NDArray[np.bool_]) -> Array:
    """The mean over axis 0 of the entries in the mask; zero where there is none."""
    total = np.where(mask, weighted, 0.0).sum(axis=0)
    return np.asarray(total / np.maximum(mask.sum(axis=0), 1))
