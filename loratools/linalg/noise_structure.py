"""Whether the rounding of a delta follows the delta itself, as it does where both sides lie on one grid.

Where tuned was trained from the rounded base, tuned = Q(base + update) and base lies on Q's own grid: an
update below half a unit vanishes, one above becomes a whole one. The rounding error is then a function of
the update, a sawtooth: with t the update in units of the grid, round(t) - t. For an update of low rank such
errors line up into directions of their own, which no independent noise has. Where base was itself rounded
from finer weights, its own error dithers the second rounding: the sum of the two does not follow the update
(L. Schuchman, "Dither signals and their effect on quantization noise", IEEE Trans. Communication Technology
12, 1964), and so does whatever part of the update is not of low rank.
"""

from __future__ import annotations

import torch

from .noise_sample import Fit, Sample

__all__ = ["coarse_loss", "follows_update", "sawtooth_share"]

_SAWTOOTH = 0.2
"""Share of the sawtooth from which rounding follows the update [measured: dithered 0.16 at most and 0.05 as a
rule; one grid and an update of low rank from 0.3 to 1, but where it is mostly lost]."""

_LOST = 0.25
"""Share of the fitted update that is lost where units are coarse, from which on the grid swallowed it
[measured: dithered 0.00 at most; one grid 0.6 to 1 where the sawtooth fails]."""

_ERRORS = 4.0  # standard ones, that such a loss must exceed


def follows_update(sample: Sample, fit: Fit) -> bool:
    """Whether the rounding errors are a function of the fitted update, by either sign of it."""
    if sawtooth_share(sample, fit) >= _SAWTOOTH:
        return True
    lost, error = coarse_loss(sample, fit)
    return lost >= max(_LOST, _ERRORS * error)


def sawtooth_share(sample: Sample, fit: Fit) -> float:
    """How much of the fitted update's sawtooth the rounding errors show: 1 on one grid, 0 where dithered.

    The coefficient of the sawtooth, round(t) - t, in the residual: once with the fit as it is and once with
    each element left out of its own fit (whose residual is e / (1 - h), with h the leverage). A fit of many
    directions follows the noise of its elements, which feigns a sawtooth in the first way but not in the
    second; a fit that is all noise does so in the second: the lesser of the two is returned.
    """
    alone = fit.residual / (1.0 - fit.leverage)
    return min(
        _coefficient(fit.fitted, fit.residual, sample.units),
        _coefficient(sample.delta - alone, alone, sample.units),
    )


def _coefficient(fitted: torch.Tensor, residual: torch.Tensor, units: torch.Tensor) -> float:
    steps = fitted / units
    sawtooth = (steps.round() - steps) * units
    power = float(sawtooth.square().sum())
    return float((residual * sawtooth).sum()) / power if power > 0.0 else 0.0


def coarse_loss(sample: Sample, fit: Fit) -> tuple[float, float]:
    """The share of the fitted update that is missing where tuned's units are coarser, and its standard error.

    A fit of which every element is less than half a unit has no sawtooth, only its first slope, and that the
    fit takes for its own. But where whole elements were lost the delta falls short of the fit in the coarser
    cells and exceeds it in the finer ones; dithered errors have the mean zero in either.
    """
    some = sample.units.flatten()[:: max(1, sample.units.numel() // 10_000)]
    coarse = sample.units > some.median()
    fitted, residual = fit.fitted[coarse], fit.residual[coarse]
    power = float(fitted.square().sum())
    if power == 0.0:
        return 0.0, 0.0
    product = fitted * residual
    return -float(product.sum()) / power, float(product.norm()) / power
