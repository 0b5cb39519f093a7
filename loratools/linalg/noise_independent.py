"""The floor under rounding errors that do not follow the update, and what stands above it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .noise_edge import fluctuation, largest_of_noise
from .noise_grid import Grid
from .noise_profile import NoiseProfile, Variances
from .noise_residual import measure_residual
from .noise_sample import Fit, Sample, noise_share, unit_trend
from .noise_simulation import drawn_floor, flipped_floor
from .svd import Factorization

__all__ = ["Independent", "Stored", "independent_floor"]

_MARGIN = 1.02
"""On the floor, for what the limit of large matrices leaves out [measured: 0.99 to 1.01 of drawn noise]."""

_LESS = 0.9
"""Share of the noise's energy below which what the fit leaves bounds the noise more closely."""

_ENOUGH = 0.25
"""Share of the noise that must be left beside a fit to tell of all of it: rank half of either side."""

_FINER = 0.1
"""Tuned's squared units beside base's, from which on tuned can hold what base's grid cannot."""

_COARSE = 0.9
"""Base's coarsest cells: those above this quantile of its units."""

_ROUNDED = 0.5
"""Share of base's rounding noise that must be left in these cells if it is there at all."""

_SMALL = 0.15
"""||delta|| / ||base|| up to which the units of tuned are, row by row and column by column, base's."""

_FLAT = -0.25
_STOCHASTIC = (1.1, 2.2)
"""Rounding at random, up or down, leaves one and a half times as much as to nearest, or twice on both sides:
energies in this range, with the same share of every unit (powers of the unit above the first number)."""


@dataclass(frozen=True)
class Stored:
    """Both sides of a delta as they are stored, with their grids and how noisy these make them."""

    base: torch.Tensor
    tuned: torch.Tensor
    grids: tuple[Grid, Grid]
    profiles: tuple[NoiseProfile, NoiseProfile]


@dataclass(frozen=True)
class Independent:
    """The floor, how many singular values stand above it, and whether base's own rounding counts into it."""

    floor: float
    rank: int
    base_rounded: bool
    excess: float
    """The energy of the rounding over that of rounding to nearest."""


def independent_floor(
    stored: Stored, found: Factorization, sample: Sample, probability: float, seed: int
) -> Independent:
    """What independent errors explain: no more than the grids allow, and no more than is left of the delta.

    Each rounding to nearest has the variance unit² / 12. Both sides are rounded, unless tuned lies on a finer
    grid and shows no trace of base's: then it was trained from base as it is stored. Where a fit of the
    directions above leaves less energy than that, its sums by row and column take the place of the units'.
    """
    base_rounded = not _trained_from_rounded(stored.profiles, sample)
    counted = stored.profiles if base_rounded else stored.profiles[1:]
    floors = _Floors(stored, counted, found, sample, probability, seed)
    excess = _excess(sample, base_rounded=base_rounded)
    allowed = floors.allowed(excess)
    floor, rank, seen = allowed, floors.above(allowed), -1
    while rank != seen and floors.tells_more(rank):
        floor = min(allowed, floors.left(rank))
        rank, seen = max(rank, floors.above(floor)), rank
    return Independent(floor, rank, base_rounded, excess)


class _Floors:
    """Floors of one delta, from units and from residuals."""

    def __init__(
        self,
        stored: Stored,
        counted: tuple[NoiseProfile, ...],
        found: Factorization,
        sample: Sample,
        probability: float,
        seed: int,
    ) -> None:
        self._stored, self._counted, self._found = stored, counted, found
        self._probability, self._seed = probability, seed
        self._values = found.S.to(torch.float64)
        # An update as large as the weights gives the units its own pattern, which no tile shows.
        self._product = all(profile.product for profile in counted) and sample.relative < _SMALL

    def above(self, floor: float) -> int:
        return int((self._values > floor).sum())

    def allowed(self, excess: float) -> float:
        """The floor if every value was rounded to its grid, with `excess` times the energy of nearest."""
        variances, largest = _sum(self._counted)
        if self._product:
            floor = largest_of_noise(variances, largest, self._probability)
        else:
            outstanding = float(variances.rows.mean() * variances.columns.mean()) ** 0.25
            both = ((self._stored.base, self._stored.grids[0]), (self._stored.tuned, self._stored.grids[1]))
            drawn = drawn_floor(both[-len(self._counted) :], outstanding, self._seed)
            floor = drawn * fluctuation(variances, self._probability)
        return _MARGIN * math.sqrt(excess) * floor

    def tells_more(self, rank: int) -> bool:
        """Whether what `rank` directions leave bounds the noise more closely than the units do.

        Of heavy tails sums of squares tell little, so that what is left is then looked at in any case. A fit
        of most directions leaves too little to tell.
        """
        height, width = self._stored.tuned.shape
        left = self._found.norm_squared - float(self._values[:rank].square().sum())
        kept = (1.0 - rank / height) * (1.0 - rank / width)
        if kept < _ENOUGH:
            return False
        heavy = not self._product and self._found.norm_squared > 0.0
        return heavy or 0.0 < left / kept < _LESS * _sum(self._counted)[0].total

    def left(self, rank: int) -> float:
        """The floor if all that `rank` directions leave were rounding noise."""
        sides = self._stored.base, self._stored.tuned
        residual = measure_residual(*sides, self._found, rank)
        if self._product:
            return _MARGIN * largest_of_noise(residual.variances, residual.largest, self._probability)
        flipped = flipped_floor(*sides, self._found, rank, self._seed)
        return _MARGIN * flipped * fluctuation(residual.variances, self._probability)


def _trained_from_rounded(profiles: tuple[NoiseProfile, NoiseProfile], sample: Sample) -> bool:
    """Whether tuned, on a finer grid, plainly lacks the rounding error of base's coarsest cells."""
    if profiles[1].units_squared > _FINER * profiles[0].units_squared:
        return False
    coarse = sample.base_units >= torch.quantile(sample.base_units.flatten(), _COARSE)
    noise = float(sample.base_units[coarse].square().mean()) / 12.0
    return float(sample.delta[coarse].square().mean()) < _ROUNDED * noise


def _excess(sample: Sample, *, base_rounded: bool) -> float:
    """The energy of the delta over that of rounding to nearest, where it looks like rounding at random."""
    variances = sample.variances(base_rounded=base_rounded)
    none = torch.zeros_like(sample.delta)
    share = noise_share(Fit(none, sample.delta, none), variances)
    if not _STOCHASTIC[0] < share < _STOCHASTIC[1]:
        return 1.0
    trend = unit_trend(sample.delta, variances)
    return share if trend is not None and trend > _FLAT else 1.0


def _sum(profiles: tuple[NoiseProfile, ...]) -> tuple[Variances, float]:
    total = profiles[0].variances
    for profile in profiles[1:]:
        total = total + profile.variances
    return total, sum(profile.largest for profile in profiles)
