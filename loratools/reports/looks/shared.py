"""What a grid of similarities comes down to: a few shares, whether they are beyond chance, and a verdict.

The numbers are phi(i, j) of Hu et al. 2021, §7.2. The last column, phi(i, r2), is the mean share of the first
adapter's directions 1 ... i that lies in the space of all of the second's, so that
i phi(i, r2) - (i - 1) phi(i - 1, r2) is direction i's own share, as long as i is at most r2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loratools.reports import words
from loratools.reports.analysis import Grid, Similarity, SimilarityMean

__all__ = ["Shared", "fills", "is_beyond", "verdict"]

ALMOST_ALL = 0.9

FALLS = 0.1
"""By so much more the strongest direction has to be shared than the weakest, to be called the more alike."""


@dataclass(frozen=True)
class Shared:
    """What a grid says in a few numbers: shares of the first adapter's directions that the second holds."""

    all: float
    strongest: float
    weakest: float
    top: float
    """Of the first's strongest direction, in the second's strongest alone."""
    by_chance: float

    @classmethod
    def of(cls, grid: Grid, control: Grid) -> Shared:
        held = [row[-1] * min(i, len(row)) for i, row in enumerate(grid, 1)]  # of directions 1 ... i, summed
        last = held[-1] - (held[-2] if len(held) > 1 else 0.0)
        return cls(grid[-1][-1], held[0], last, grid[0][0], control[-1][-1])


def is_beyond(row: Similarity) -> bool:
    """Whether the two spaces share more than 99 % of random ones would."""
    return row.grid[-1][-1] > row.band[-1][-1][1]


def fills(row: Similarity) -> bool:
    """Whether one of them is the whole space, which shares everything with any other."""
    return max(len(row.grid), len(row.grid[0])) >= row.dimension


def verdict(overall: Sequence[SimilarityMean], rows: Sequence[Similarity]) -> str:
    """Whether they agree, in a sentence; the numbers that it goes by are those of the table below it."""
    shared = [Shared.of(mean.grid, mean.control) for mean in overall]
    strongest, weakest = _mean([one.strongest for one in shared]), _mean([one.weakest for one in shared])
    comparable = [row for row in rows if not fills(row)]
    beyond = sum(map(is_beyond, comparable))
    if not comparable:
        told = "That cannot be told: in each module one of them fills the whole space"
    elif beyond <= len(comparable) / 2:
        told = "No more than random directions would"
    elif _mean([one.all for one in shared]) >= ALMOST_ALL:
        told = "Almost all of them"
    elif strongest > weakest + FALLS:
        told = "In part, and most of all the strongest: what both found lies in the leading directions"
    else:
        told = "In part, the weak ones as much as the strong"
    return told + _saving(len(overall[0].grid), len(overall[0].grid[0]))


def _saving(r1: int, r2: int) -> str:
    small, large = sorted((r1, r2))
    if small == large:
        return "."
    return f". Rank {small} takes {words.number(large / small, 3)} times fewer parameters than rank {large}."


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
