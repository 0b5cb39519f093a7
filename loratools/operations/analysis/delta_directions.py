"""The leading directions of a delta, as near to the true ones as figures good to 1 % need, or why not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from loratools.linalg.directions import Directions, leading_directions
from loratools.linalg.energies import LeadingEnergies
from loratools.linalg.projections import Projection, project
from loratools.linalg.svd import Factorization

__all__ = ["ACCURACY", "SMALL_SIDE", "DeltaDirections", "existing_values", "near_directions", "projected_on"]

ACCURACY = 0.01
"""How far a figure may be off, relative to itself."""

SMALL_SIDE = 384
"""Below, LAPACK decomposes a matrix whole, in float64, at no more than the price of its leading triplets."""

_MARGIN = 1.1
"""For terms of second order in the coefficients of the error bound."""

_TELLING = 7.0
"""By how many times the noise in one entry of U'ΔV two singular values must differ, or it may be the noise
that decides which direction is which: of two equal ones it makes a gap of more than x times itself with the
chance exp(-x²/4), 5e-6 here (the eigenvalues of a symmetric matrix of two rows, Wigner 1957)."""

_SAME = 1e-6
"""Singular values nearer than this, relatively, are one value: the arithmetic that made a delta in float32 is
no better."""


@dataclass(frozen=True)
class DeltaDirections:
    """What is known of a delta's leading directions."""

    directions: Directions | None
    """None where there are none, or where they mean nothing."""
    values: tuple[float, ...]
    """The leading singular values, one more than the largest rank where there are so many; 0.0 in the place
    of what is no more than rounding."""
    entry_noise: float
    """By how much rounding moves one entry of the delta between two directions, root mean square."""
    projection: Projection | None = None
    """Of the weight, on these directions."""
    void: str | None = None
    """Why the directions mean nothing, where they do not."""

    def projected(self, rank: int) -> tuple[float | None, str | None]:
        """||U'WV||_F at that rank, or the reason why it is not known."""
        reason = self.undefined(rank)
        if reason is not None:
            return None, reason
        assert self.projection is not None and self.directions is not None
        if _near_enough(self.projection, self.directions, rank):
            return self.projection.at(rank), None
        if math.isfinite(self.directions.sine(rank)):
            return None, f"the first {rank} directions are known too loosely for so small a figure"
        return None, f"{self._pair(rank)} are too close to tell which directions lead"

    def undefined(self, rank: int) -> str | None:
        """Why the delta has no r leading directions, if it has not."""
        existing = sum(value > 0.0 for value in self.values)
        if self.void is not None or existing == 0:
            return self.void or "the delta is zero"
        if existing < rank:
            return f"the delta has only {existing} directions"
        value, after = self.values[rank - 1], self._after(rank)
        if value - after > max(_TELLING * self.entry_noise, _SAME * value):
            return None
        if after == 0.0:
            return f"singular value {rank} ({value:.4g}) is no more than rounding makes of none"
        return f"{self._pair(rank)} differ no more than rounding makes equal ones differ"

    def defined(self, ranks: Iterable[int]) -> list[int]:
        """Those at which it has leading directions."""
        return [rank for rank in ranks if self.undefined(rank) is None]

    def _pair(self, rank: int) -> str:
        """The values that rank r cuts apart, named."""
        return (
            f"singular values {rank} and {rank + 1} ({self.values[rank - 1]:.4g} and {self._after(rank):.4g})"
        )

    def _after(self, rank: int) -> float:
        return self.values[rank] if rank < len(self.values) else 0.0


def near_directions(
    weight: torch.Tensor,
    delta: torch.Tensor,
    found: Factorization,
    ranks: Sequence[int],
    energies: LeadingEnergies,
    *,
    others: Mapping[int, float],
    seed: int,
    failure_probability: float,
) -> tuple[Directions, Projection]:
    """The delta's directions, and the weight's projection on them, good to `ACCURACY` where that can be had.

    How near they must be is known once the projection is: first it is taken to be what random directions
    give, and where it turns out to be less they are looked for again.

    Args:
        weight: W (m, n), as stored.
        delta: (m, n), not zero.
        found: its truncated SVD.
        ranks: at which figures are asked for, and defined; at least one.
        energies: of W.
        others: sines that are wanted besides, by rank.
    """
    chance = failure_probability / 2.0
    # Random directions hold r ||W|| / sqrt(m n), and errors of theirs move that by ||W|| (m^-1/2 + n^-1/2).
    unit = ACCURACY / 4.0 / sum(math.sqrt(side) for side in weight.shape)
    wanted = dict(others) | {rank: min(rank * unit, others.get(rank, 1.0)) for rank in ranks}
    directions = leading_directions(delta, found, wanted, seed=seed, failure_probability=chance)
    projection = projected_on(weight, directions, ranks, energies)
    loose = {
        rank: projection.wanted_sine(rank, ACCURACY / _MARGIN)
        for rank in ranks
        if math.isfinite(directions.sine(rank)) and not _near_enough(projection, directions, rank)
    }
    if any(sine > 0.0 for sine in loose.values()):
        directions = leading_directions(delta, found, wanted | loose, seed=seed, failure_probability=chance)
        projection = projected_on(weight, directions, ranks, energies)
    return directions, projection


def projected_on(
    weight: torch.Tensor, directions: Directions, ranks: Sequence[int], energies: LeadingEnergies
) -> Projection:
    """U'WV, in float64 where a figure is so small beside W that float32 would not tell it."""
    U, V, largest = directions.U, directions.Vh.T, energies.largest
    found = project(weight, U, V, largest=largest)
    if all(10.0 * rank * found.rounding <= ACCURACY * found.at(rank) for rank in ranks):
        return found
    return project(weight, U, V, largest=largest, exact=True)


def _near_enough(projection: Projection, directions: Directions, rank: int) -> bool:
    return _MARGIN * projection.error(rank, directions.sine(rank)) <= ACCURACY * projection.at(rank)


def existing_values(found: Factorization) -> tuple[float, ...]:
    """The singular values of a delta; 0.0 in the place of what is no more than their rounding."""
    if not found.S.numel():
        return ()
    rounding = 4.0 * torch.finfo(found.S.dtype).eps * math.sqrt(found.norm_squared)
    return tuple(value if value > rounding else 0.0 for value in found.S.double().tolist())
