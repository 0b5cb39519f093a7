"""Some rows and columns of a delta: enough to tell what kind of rounding it went through."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .noise_grid import Grid
from .svd import Factorization

__all__ = ["Fit", "Sample", "draw_sample", "fit_sample", "noise_share", "unit_trend"]

_SIDE = 400  # rows and columns of a sample, at most
_LEAST_CELLS = 200  # elements of one unit's size that a mean needs
_ENOUGH = 10_000  # elements that tell a quantile
_STRONG = 0.8  # leverage beyond which an element says nothing but about itself


@dataclass(frozen=True)
class Sample:
    """The delta at some rows and columns, in float64, with the grids' units there."""

    rows: torch.Tensor
    """(p,), indices."""
    columns: torch.Tensor
    """(q,), indices."""
    delta: torch.Tensor
    """(p, q): tuned - base."""
    base_units: torch.Tensor
    """(p, q): the distance between neighbours of base's grid."""
    units: torch.Tensor
    """(p, q): of tuned's."""
    relative: float
    """||tuned - base|| / ||base||, in Frobenius norms."""
    cosine: float
    """Between base and tuned - base: 0 for rounding, 1 and -1 for weights that grew or decayed."""

    def variances(self, *, base_rounded: bool) -> torch.Tensor:
        """(p, q): of the rounding error of each element."""
        squares = self.units.square() + (self.base_units.square() if base_rounded else 0.0)
        return squares / 12.0


@dataclass(frozen=True)
class Fit:
    """The leading directions at a sample's places, and what they leave."""

    fitted: torch.Tensor
    """(p, q)"""
    residual: torch.Tensor
    """(p, q): delta - fitted."""
    leverage: torch.Tensor
    """(p, q): the share of an element's own error that went into its fit (D. Belsley, E. Kuh and R. Welsch,
    "Regression Diagnostics", 1980), for the span of the singular vectors."""


def draw_sample(base: torch.Tensor, tuned: torch.Tensor, grids: tuple[Grid, Grid], seed: int) -> Sample:
    """Rows and columns drawn without replacement; all of them where they are few.

    Args:
        base, tuned: (m, n), as stored.
        grids: theirs.
        seed: of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    rows, columns = (torch.randperm(side, generator=generator)[:_SIDE].sort().values for side in tuned.shape)
    one, other = (side[rows][:, columns].to(torch.float64) for side in (base, tuned))
    delta = other - one
    norm, moved = float(one.norm()), float(delta.norm())
    return Sample(
        rows=rows,
        columns=columns,
        delta=delta,
        base_units=grids[0].units(one),
        units=grids[1].units(other),
        relative=moved / norm if norm else math.inf,
        cosine=float((one / (norm or 1.0) * (delta / (moved or 1.0))).sum()),
    )


def fit_sample(sample: Sample, found: Factorization, rank: int) -> Fit:
    """The first `rank` singular triplets at the sample's rows and columns."""
    left = found.U[sample.rows, :rank].to(torch.float64)  # (p, r)
    right = found.Vh[:rank][:, sample.columns].to(torch.float64)  # (r, q)
    fitted = (left * found.S[:rank].to(torch.float64)) @ right
    by_row, by_column = left.square().sum(1)[:, None], right.square().sum(0)[None, :]
    leverage = (by_row + by_column - by_row * by_column).clamp_max_(_STRONG)
    return Fit(fitted, sample.delta - fitted, leverage)


def noise_share(fit: Fit, variances: torch.Tensor) -> float:
    """The energy that is left over that of rounding: 1 where rounding is all that is left.

    Over the middle of the elements: a few large ones rule sums of squares under heavy tails, and of the
    smallest little is left but what the noise of all others did to the fit, which is h times its mean.

    Args:
        fit: what is left.
        variances: (p, q), of the rounding.
    """
    low, high = _middle(variances)
    middle = (variances >= low) & (variances <= high)
    expected = (1.0 - fit.leverage).square() * variances + fit.leverage * variances.mean()
    return float(fit.residual[middle].square().sum()) / float(expected[middle].sum())


def unit_trend(values: torch.Tensor, variances: torch.Tensor) -> float | None:
    """How the mean square of values / unit grows with the unit, as a power of it; None where little differs
    from zero, or where all units are about the same.

    Rounding alone leaves the same share of a unit everywhere: 0. An update that knows nothing of the units
    leaves less of them the coarser they are: -2, -1 where it is small and dithered, and lower still where
    what is less than half a unit is lost. The finest tenth is left out: what another format rounded to its
    least number says nothing of the others.

    Args:
        values: (p, q), the delta, or what a fit leaves of it.
        variances: (p, q), of the rounding.
    """
    coarse = variances >= _middle(variances)[0]
    levels = torch.log2(12.0 * variances[coarse]).mul_(0.5).round().to(torch.int64)
    shares = values[coarse].square() / variances[coarse]
    found = []
    for level in torch.unique(levels).tolist():
        cells = shares[levels == level]
        if cells.numel() >= _LEAST_CELLS:
            # Half a cell that differs by a unit: what none in so many may hide.
            found.append((level, float(cells.mean()) + 6.0 / cells.numel(), cells.numel()))
    if len(found) < 2 or int(shares.count_nonzero()) < _LEAST_CELLS:
        return None
    level, mean, count = (torch.tensor(part, dtype=torch.float64) for part in zip(*found, strict=True))
    weights = count / count.sum()
    centred = level - (weights * level).sum()
    return float((weights * centred * torch.log2(mean)).sum() / (weights * centred.square()).sum())


def _middle(variances: torch.Tensor) -> tuple[float, float]:
    """What a tenth of the elements lies below, and a tenth above."""
    some = variances.flatten()[:: max(1, variances.numel() // _ENOUGH)]
    low, high = torch.quantile(some, some.new_tensor([0.1, 0.9])).tolist()
    return low, high
