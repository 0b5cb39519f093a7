"""The job of a similarity: the grids of one module, for every two of the adapters that have it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from loratools.operations.analysis.options import Directions
from loratools.operations.analysis.similarity_notes import Note, NoteKind
from loratools.operations.analysis.skinny import SkinnyModule
from loratools.operations.analysis.stored_directions import SIDES, StoredDirections, stored_directions
from loratools.operations.rates import READ_RATE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from loratools.linalg.subspaces import DirectionSet

    Matrix = NDArray[np.float64]

__all__ = ["Holder", "ModuleGrid", "ModuleSimilarity", "SimilarityJob"]


@dataclass(frozen=True)
class Holder:
    """An adapter, by its place among those given, its factors of the module, and the rank to cut them to."""

    place: int
    module: SkinnyModule
    rank: int


@dataclass(frozen=True)
class ModuleGrid:
    """phi between the directions of two adapters, by their places, on one side of a module."""

    side: str
    first: int
    second: int
    dimension: int
    grid: Matrix


@dataclass(frozen=True)
class ModuleSimilarity:
    """All grids of a module, and what to know of the directions that they are of."""

    grids: tuple[ModuleGrid, ...]
    notes: tuple[Note, ...]


@dataclass(frozen=True)
class SimilarityJob:
    """Reads a module's factors, each once, and compares their directions pair by pair."""

    name: str
    holders: tuple[Holder, ...]
    directions: Directions

    @property
    def bytes(self) -> int:
        return sum(holder.module.bytes for holder in self.holders)

    @property
    def memory(self) -> int:
        return 6 * self.bytes  # float64 of bfloat16, and as much again

    @property
    def cost(self) -> float:
        return self.bytes / READ_RATE

    def run(self, workspace: Path) -> ModuleSimilarity:
        found = [(holder, stored_directions(holder.module, self.directions)) for holder in self.holders]
        grids: list[ModuleGrid] = []
        notes = [note for holder, sides in found for note in self._notes(holder, sides)]
        for (one, mine), (other, theirs) in combinations(found, 2):
            for side in SIDES:
                first = mine[side].directions.leading(one.rank)
                second = theirs[side].directions.leading(other.rank)
                if first.dimension != second.dimension:
                    notes.append(Note(NoteKind.WIDTH, self.name, side, one.place, other=other.place))
                elif first.count and second.count:
                    grids.append(_grid(side, one, first, other, second))
        return ModuleSimilarity(tuple(grids), tuple(notes))

    def _notes(self, holder: Holder, sides: Mapping[str, StoredDirections]) -> Iterator[Note]:
        for side, found in sides.items():
            if not found.directions.count:
                yield Note(NoteKind.ZERO, self.name, side, holder.place)
            elif found.directions.count < holder.rank:
                yield Note(NoteKind.FEWER, self.name, side, holder.place)
            if found.above < min(found.directions.count, holder.rank):
                yield Note(NoteKind.ROUNDED, self.name, side, holder.place, at=found.above + 1)
            if found.tied is not None and found.tied <= holder.rank:
                yield Note(NoteKind.TIED, self.name, side, holder.place, at=found.tied)


def _grid(side: str, one: Holder, first: DirectionSet, other: Holder, second: DirectionSet) -> ModuleGrid:
    from loratools.linalg.subspaces import similarity_grid

    return ModuleGrid(side, one.place, other.place, first.dimension, similarity_grid(first, second))
