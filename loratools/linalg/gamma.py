"""The gamma function, where chances of random starts need it: scipy takes 0.2 s to import."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["chi_squared_quantile", "log_gamma"]

_HALVINGS = 64


def log_gamma(values: NDArray[Any]) -> NDArray[np.float64]:
    """log Γ of positive numbers, one by one."""
    flat = [math.lgamma(value) for value in values.ravel().tolist()]
    return np.array(flat, dtype=np.float64).reshape(values.shape)


@lru_cache(maxsize=1024)
def chi_squared_quantile(freedom: int, probability: float) -> float:
    """c with P(X < c) = probability for a chi-squared X, from below.

    Args:
        freedom: degrees of freedom, at least 1.
        probability: in (0, 1/2]: quantiles of small chances, where the series for the lower tail is short.

    Raises:
        ValueError: a probability out of range.
    """
    if not 0.0 < probability <= 0.5:
        raise ValueError(f"a small chance lies in (0, 1/2], not at {probability}")
    # P(X < c) = P(a, c/2) <= (c/2)^a / Γ(a + 1), a = freedom / 2: the quantile is not below that bound's.
    shape = freedom / 2.0
    wanted = math.log(probability)
    low, high = (wanted + math.lgamma(shape + 1.0)) / shape, math.log(shape + 1.0)  # of log c/2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _log_lower_tail(shape, middle) <= wanted else (low, middle)
    return 2.0 * math.exp(low)


def _log_lower_tail(shape: float, log_point: float) -> float:
    """log P(a, x) of log x, P the regularized lower incomplete gamma function, for x up to about a.

    P(a, x) = x^a e^-x / Γ(a + 1) · sum_n x^n / ((a + 1) ... (a + n)), all terms positive (Abramowitz and
    Stegun 6.5.29).
    """
    point, term, total = math.exp(log_point), 1.0, 1.0
    divisor = shape
    while term > 1e-17 * total:
        divisor += 1.0
        term *= point / divisor
        total += term
    return shape * log_point - point - math.lgamma(shape + 1.0) + math.log(total)
