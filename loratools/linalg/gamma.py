"""The gamma function, where chances of random starts need it: scipy takes 0.2 s to import, torch is there."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["chi_squared_quantile", "log_gamma"]

_HALVINGS = 64

_MARGIN = 1e-9
"""By how much a quantile stays below what was found: torch's incomplete gamma function, where it takes an
asymptotic series, puts it up to 1.1e-10 of itself beside scipy's."""


def log_gamma(values: NDArray[Any]) -> NDArray[np.float64]:
    """log Γ of positive numbers, one by one."""
    flat = [math.lgamma(value) for value in values.ravel().tolist()]
    return np.array(flat, dtype=np.float64).reshape(values.shape)


@lru_cache(maxsize=1024)
def chi_squared_quantile(freedom: int, probability: float) -> float:
    """c with P(X < c) = probability for a chi-squared X, from below.

    Args:
        freedom: degrees of freedom, at least 1.
        probability: in (0, 1/2].

    Raises:
        ValueError: a probability out of range.
    """
    if not 0.0 < probability <= 0.5:
        raise ValueError(f"a small chance lies in (0, 1/2], not at {probability}")
    # P(X < c) = P(a, c/2) <= (c/2)^a / Γ(a + 1), a = freedom / 2: the quantile is not below that bound's.
    shape = freedom / 2.0
    low = (math.log(probability) + math.lgamma(shape + 1.0)) / shape  # of log c/2
    high = math.log(shape + 1.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _lower_tail(shape, math.exp(middle)) <= probability else (low, middle)
    return 2.0 * math.exp(low) * (1.0 - _MARGIN)


def _lower_tail(shape: float, point: float) -> float:
    """P(a, x), the regularized lower incomplete gamma function, in float64."""
    a, x = (torch.tensor(value, dtype=torch.float64) for value in (shape, point))
    return float(torch.special.gammainc(a, x))
