"""The storage noise floor: how large a singular value the rounding of stored weights explains."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from .noise_bootstrap import explained_rank
from .noise_floor import NoiseFloor
from .noise_grid import recognise
from .noise_independent import Independent, Stored, independent_floor
from .noise_profile import profile_noise
from .noise_sample import Sample, draw_sample, fit_sample, noise_share, unit_trend
from .noise_structure import follows_update
from .svd import Factorization

__all__ = ["NoiseFloor", "noise_floor"]

_WHOLE_STEPS = 0.85
"""Root mean square of the delta, in units, below which a grid that is followed decides what is seen of it."""

_PLAINLY = 1.8
"""How far above the floor the last direction has to stand for a rank to be stated, not a lower bound."""

_MORE = 1.35
"""What is left, over the energy of rounding, beyond which it is no rounding [measured: up to 1.25 where
rounding follows an update of rank 40, whose fit follows the rounding]."""

_EQUAL = 0.05
_DEVIATIONS = 5.0
"""How far what is left may be from the energy of rounding, and how far it may go with the weights, if
rounding is all there is: this share, and standard deviations (less than one an element of either)."""

_SPREAD = 0.7
"""The norm of rounding errors, over that of errors of half a unit each: 0.58 where they spread evenly. A
singular value above it is no rounding."""

_FALLING = -0.5
"""Power of the unit: a delta whose share of a unit falls faster is what the grid left of an update."""

_GRID_DECIDES = "the rounding grid decides: updates below about one unit vanish or become whole units"
_ALL_ABOVE = "every singular value that was computed stands above the floor"
_RUNS_INTO = "the spectrum runs into the floor: more directions may lie below it"
_MORE_BELOW = "what lies below the floor is more than rounding leaves: further directions are among it"


def noise_floor(
    base: torch.Tensor, tuned: torch.Tensor, found: Factorization, *, probability: float, seed: int
) -> NoiseFloor:
    """The floor that rounding puts under the spectrum of tuned - base, and how much stands above it.

    1. The grids that both sides lie on give each element's rounding error a variance, unit² / 12, and these
       the quantile of the largest singular value of independent errors.
    2. What a fit of the directions above leaves bounds the errors from above: where that is less (tuned was
       trained from the rounded base, or changed less than a unit) the floor is lower.
    3. Where the errors follow the update (both sides on one grid, and nothing dithers them) the floor is the
       greater of that and of a bootstrap through the actual base; and where the update is below about one
       unit, nothing but a lower bound is stated.

    Args:
        base, tuned: (m, n), in the dtypes they are stored in; finite.
        found: leading singular triplets of tuned - base, fewer than all or all.
        probability: that independent rounding alone exceeds the floor.
        seed: of samples and draws.

    Raises:
        ValueError: shapes that differ.
        TypeError: a dtype that is no floating-point one.
    """
    if base.shape != tuned.shape or base.ndim != 2:
        raise ValueError(f"two matrices of one shape, not {tuple(base.shape)} and {tuple(tuned.shape)}")
    return _Judge(base, tuned, found, probability, seed).judge()


class _Judge:
    """One module's delta, and the verdicts on it."""

    def __init__(
        self, base: torch.Tensor, tuned: torch.Tensor, found: Factorization, probability: float, seed: int
    ) -> None:
        if tuned.stride(1) > tuned.stride(0):  # stored transposed: go through it in the order it lies in
            base, tuned = base.T, tuned.T
            found = replace(found, U=found.Vh.T, Vh=found.U.T)
        grids = recognise(base), recognise(tuned)
        profiles = profile_noise(base, grids[0]), profile_noise(tuned, grids[1])
        self._stored = Stored(base, tuned, grids, profiles)
        self._found, self._values = found, found.S.to(torch.float64)
        self._probability, self._seed = probability, seed

    def judge(self) -> NoiseFloor:
        stored = self._stored
        sample = draw_sample(stored.base, stored.tuned, stored.grids, self._seed)
        seen = independent_floor(stored, self._found, sample, self._probability, self._seed)
        if seen.rank == 0:
            return self._nothing_above(seen, sample)
        fit = fit_sample(sample, self._found, seen.rank)
        if follows_update(sample, fit):
            return self._on_one_grid(seen, sample)
        return self._stated(seen, sample, seen.floor, seen.rank)

    def _nothing_above(self, seen: Independent, sample: Sample) -> NoiseFloor:
        """Nothing stands above: rounding alone, or what the grid or the floor hides of an update?"""
        equal = NoiseFloor(seen.floor, 0, (0, 0), None, seen.floor, 0)
        if self._found.norm_squared == 0.0:
            return equal
        share = self._left(seen, sample, 0)
        trend = unit_trend(sample.delta, sample.variances(base_rounded=seen.base_rounded))
        chance = _DEVIATIONS * sample.delta.numel() ** -0.5
        fits = abs(share - 1.0) <= _EQUAL + chance
        flat = fits if trend is None else trend > _FALLING
        if flat and (fits or share < 1.0) and abs(sample.cosine) < _EQUAL + chance:
            return equal
        note = _MORE_BELOW if share > 1.0 else _GRID_DECIDES
        return replace(equal, rank=None, rank_bounds=(0, None), note=note)

    def _stated(self, seen: Independent, sample: Sample, floor: float, rank: int) -> NoiseFloor:
        """A rank, unless more directions may stand above than were computed, or lie just below."""
        plain = NoiseFloor(floor, rank, (rank, rank), None, seen.floor, seen.rank)
        if rank == min(self._stored.tuned.shape):
            return plain
        note = self._doubt(seen, sample, floor, rank)
        return plain if note is None else replace(plain, rank=None, rank_bounds=(rank, None), note=note)

    def _doubt(self, seen: Independent, sample: Sample, floor: float, rank: int) -> str | None:
        """Why `rank` is but a lower bound."""
        if rank == self._values.numel():
            return _ALL_ABOVE
        if float(self._values[rank - 1]) < _PLAINLY * floor:
            return _RUNS_INTO
        return _MORE_BELOW if self._left(seen, sample, rank) > _MORE else None

    def _left(self, seen: Independent, sample: Sample, rank: int) -> float:
        """What `rank` directions leave, over the energy of rounding."""
        fit = fit_sample(sample, self._found, rank)
        return noise_share(fit, sample.variances(base_rounded=seen.base_rounded)) / seen.excess

    def _on_one_grid(self, seen: Independent, sample: Sample) -> NoiseFloor:
        """Errors follow the update: look for false directions, or say that the grid decides."""
        profile = self._stored.profiles[1]
        # ||error||_F with every error half a unit; errors that spread over it have a third of the energy.
        most = math.sqrt(3.0 * profile.variances.total)
        certain = max(1, int((self._values > most).sum()))
        if self._found.norm_squared < _WHOLE_STEPS**2 * profile.units_squared:
            return NoiseFloor(seen.floor, None, (certain, None), _GRID_DECIDES, seen.floor, seen.rank)
        if self._values[seen.rank - 1] > _SPREAD * most:
            return self._stated(seen, sample, seen.floor, seen.rank)
        rank, floor = explained_rank(
            self._stored.base, self._stored.grids[1], self._found, seen.floor, seen.rank, self._seed
        )
        return self._stated(seen, sample, floor, rank)
