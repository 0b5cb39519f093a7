"""Means of grids: over all modules, over those of a kind, and over those of a layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loratools.reports.analysis import Grid, Similarity, SimilarityMean

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

__all__ = ["Compared", "as_grid", "means_of"]


@dataclass(frozen=True)
class Compared:
    """A row, and its grid and control as arrays."""

    row: Similarity
    grid: Matrix
    control: Matrix


def means_of(compared: Sequence[Compared]) -> tuple[SimilarityMean, ...]:
    """The means of every pair and side: over all modules, by kind, and by layer.

    Grids of different sizes are averaged over the ranks that all of them have. Modules outside of layers
    count into the means over all and by kind.
    """
    return tuple(
        _mean(over, name, members)
        for over, group_of in _GROUPINGS.items()
        for name, members in _groups(compared, group_of)
    )


def as_grid(values: Matrix) -> Grid:
    """An array as the rows of a report hold it."""
    return tuple(map(tuple, values.tolist()))


_GROUPINGS: dict[str, Callable[[Similarity], str | None]] = {
    "all": lambda row: "all",
    "kind": lambda row: row.kind,
    "layer": lambda row: None if row.layer is None else str(row.layer),
}
"""What a mean is over, and which of these a row belongs to."""


def _groups(
    compared: Sequence[Compared], group_of: Callable[[Similarity], str | None]
) -> Iterator[tuple[str, list[Compared]]]:
    """Each group's members, pair by pair and side by side, in the order in which they are met."""
    found: dict[tuple[str, str, str, str], list[Compared]] = {}
    for one in compared:
        group = group_of(one.row)
        if group is not None:
            found.setdefault((group, one.row.first, one.row.second, one.row.side), []).append(one)
    for (group, *_), members in found.items():
        yield group, members


def _mean(over: str, name: str, members: Sequence[Compared]) -> SimilarityMean:
    row, alone = members[0].row, len(members) == 1
    return SimilarityMean(
        over=over,
        name=name,
        modules=len(members),
        side=row.side,
        first=row.first,
        second=row.second,
        grid=row.grid if alone else _mean_grid([one.grid for one in members]),
        control=row.control if alone else _mean_grid([one.control for one in members]),
    )


def _mean_grid(grids: Sequence[Matrix]) -> Grid:
    rows, columns = (min(grid.shape[axis] for grid in grids) for axis in (0, 1))
    total = grids[0][:rows, :columns].copy()
    for grid in grids[1:]:
        total += grid[:rows, :columns]
    return as_grid(total / len(grids))
