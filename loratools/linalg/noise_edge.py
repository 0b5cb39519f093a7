"""The largest singular value of a matrix of independent entries, from its variances alone."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .noise_profile import Variances

__all__ = ["fluctuation", "largest_of_noise"]

_ALONE = 32  # the largest variances each stand for themselves
_GROUPS = 128  # and all others in groups of near neighbours
_POINTS = 2000  # of the table that inverts a monotone function
_STEPS = 60  # of a golden-section search
_GOLDEN = (math.sqrt(5.0) - 1.0) / 2.0

Vector = NDArray[np.float64]


def largest_of_noise(variances: Variances, largest: float, probability: float) -> float:
    """What the largest singular value exceeds with (about) the given probability.

    For variances that are a product, v_ij = a_i b_j, the spectrum of X X' ends, in the limit of large
    matrices, at the least value that

        x(β) = φ(β) / α,   where   α ψ(α) = β φ(β),   φ(β) = Σ a_i / (1 - a_i β),   ψ(α) = Σ b_j / (1 - b_j α)

    takes for β in (0, 1 / max a) (R. Couillet and W. Hachem, "Analysis of the limiting spectral measure of
    large random matrices of the separable covariance type", Random Matrices: Theory and Applications 3,
    2014; all a = b = 1 gives Marchenko and Pastur's (√m + √n)²). About that end the largest value fluctuates
    by Tracy and Widom's law (I. Johnstone, "On the distribution of the largest eigenvalue in principal
    components analysis", Annals of Statistics 29, 2001), which here is given effective numbers of rows and
    columns. A single entry of size θ with θ⁴ > R C, for R and C the variances of its row and column, stands
    out at √((θ² + R)(θ² + C)) / θ (F. Benaych-Georges and R. R. Nadakuditi, "The singular values and vectors
    of low rank perturbations of large rectangular random matrices", J. Multivariate Analysis 111, 2012).

    Args:
        variances: by row and by column; taken to be a product.
        largest: the largest magnitude that an entry can have.
        probability: of exceeding the result, in (0, 1).
    """
    total = variances.total
    if total <= 0.0:
        return 0.0
    rows, columns = variances.rows / total, variances.columns / total  # each sums to 1
    edge = math.sqrt(total * _edge(rows, columns))
    bulk = edge * fluctuation(variances, probability)
    return max(bulk, _single(largest, float(variances.rows.max()), float(variances.columns.max())))


def _edge(rows: Vector, columns: Vector) -> float:
    """The end of the spectrum of X X' for variances rows_i columns_j."""
    (a, a_count), (b, b_count) = _grouped(rows), _grouped(columns)
    # Points crowd towards both ends, where the function that is inverted is steepest.
    alphas = (0.5 - 0.5 * np.cos(np.pi * np.arange(1, _POINTS) / _POINTS)) / b[0]
    heights = alphas * (b_count * b / (1.0 - np.outer(alphas, b))).sum(1)

    def position(share: float) -> float:
        beta = share / a[0]
        phi = float((a_count * a / (1.0 - a * beta)).sum())
        alpha = float(np.interp(beta * phi, heights, alphas))
        return phi / alpha

    low, high = 1e-6, 1.0 - 1e-6
    for _ in range(_STEPS):
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if position(left) <= position(right):
            high = right
        else:
            low = left
    return position(0.5 * (low + high))


def _grouped(variances: Vector) -> tuple[Vector, Vector]:
    """The variances in descending order, near neighbours replaced by their mean, and how many each is."""
    ordered = np.sort(variances)[::-1]
    groups = [ordered[:_ALONE, None]] if ordered.size else []
    alone = [(float(value[0]), 1) for value in groups[0]]
    rest = np.array_split(ordered[_ALONE:], _GROUPS) if ordered.size > _ALONE else []
    together = [(float(part.mean()), part.size) for part in rest if part.size]
    values, counts = zip(*alone, *together, strict=True)
    return np.maximum(np.array(values), 1e-300), np.array(counts, dtype=np.float64)


def fluctuation(variances: Variances, probability: float) -> float:
    """The quantile of the largest singular value over the spectrum's end, for white noise of like size."""
    height, width = (
        math.sqrt(float(sums.sum()) ** 2 / float(np.square(sums).sum()))
        for sums in (variances.rows, variances.columns)
    )
    centre = (height + width) ** 2
    scale = (height + width) * (1.0 / height + 1.0 / width) ** (1.0 / 3.0)
    return math.sqrt(1.0 + _tracy_widom(probability) * scale / centre)


def _tracy_widom(probability: float) -> float:
    """s with 1 - F_1(s) near the probability, from the tail exp(-2 s^{3/2} / 3) / (4 √π s^{3/4})."""
    low, high = 0.0, 60.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        tail = math.exp(-2.0 / 3.0 * middle**1.5) / (4.0 * math.sqrt(math.pi) * middle**0.75)
        low, high = (middle, high) if tail > probability else (low, middle)
    return high


def _single(theta: float, row: float, column: float) -> float:
    """Where a single large entry stands in the noise of its row and its column; 0.0 where it drowns."""
    if theta**4 <= row * column:
        return 0.0
    return math.sqrt((theta**2 + row) * (theta**2 + column)) / theta
