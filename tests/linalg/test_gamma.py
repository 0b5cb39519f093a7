"""The gamma function and chi-squared quantiles, beside scipy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import gammaincinv, gammaln

from loratools.linalg.gamma import chi_squared_quantile, log_gamma


@pytest.mark.parametrize("freedom", [1, 2, 3, 16, 24, 25, 64, 1000])
@pytest.mark.parametrize("probability", [0.5, 0.1, 1e-3, 5e-10, 1e-12, 1e-100])
def test_quantiles(freedom: int, probability: float) -> None:
    expected = 2.0 * gammaincinv(freedom / 2.0, probability)
    assert expected * (1.0 - 2e-9) <= chi_squared_quantile(freedom, probability) < expected


def test_a_chance_that_is_not_small() -> None:
    for probability in (0.0, 0.6):
        with pytest.raises(ValueError, match="small chance"):
            chi_squared_quantile(3, probability)


def test_logarithms() -> None:
    values = np.geomspace(1e-3, 1e6, 24).reshape(4, 6)
    assert np.allclose(log_gamma(values), gammaln(values), rtol=1e-13, atol=0.0)
