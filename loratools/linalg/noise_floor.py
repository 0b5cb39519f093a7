"""A storage noise floor as figures, which `noise` measures: plans and findings read them without torch."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NoiseFloor"]


@dataclass(frozen=True)
class NoiseFloor:
    """What rounding to the grid that the weights lie on can and cannot explain of a delta's spectrum."""

    floor: float | None
    """Largest singular value that rounding explains, at the probability asked for; None where unknown."""
    rank: int | None
    """How many of the delta's singular values stand above it; None where the data do not decide it."""
    rank_bounds: tuple[int, int | None]
    """At least and at most so many; None where nothing bounds it from above."""
    note: str | None
    """Why a figure is None, or that the rounding grid decides; None where there is nothing to add."""
    independent: float
    """The largest singular value of rounding errors that do not follow the update: a floor of the floor."""
    above: int
    """How many of the singular values given stand above `independent`: more than are the fine-tune's where
    the rounding grid makes directions of its own."""
