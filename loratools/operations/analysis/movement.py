"""How far each tensor moved, and which tokens' rows moved most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loratools.checkpoints.spec import TensorSpec
from loratools.operations.analysis.places import module_of, place_of
from loratools.operations.rates import READ_BYTES, READ_RATE
from loratools.reports.analysis import Movement, TokenMovement

__all__ = ["MOST_TOKENS", "MoveJob", "Moved", "MovedRow", "movement_row", "token_rows"]

MOST_TOKENS = 20
"""How many of an embedding's rows are told."""


@dataclass(frozen=True)
class MovedRow:
    """A row of an embedding, and how far it moved."""

    index: int
    base_norm: float
    norm: float


@dataclass(frozen=True)
class Moved:
    """What was found of one tensor; `rows` are those that moved most, the farthest first."""

    base_norm: float
    norm: float
    rows: tuple[MovedRow, ...]


@dataclass(frozen=True)
class MoveJob:
    """Measures how far tuned lies from base, over the rows that both have; `tokens`: row by row, too."""

    name: str
    base: TensorSpec
    tuned: TensorSpec
    tokens: bool

    @property
    def bytes(self) -> int:
        return self.base.bytes + self.tuned.bytes

    @property
    def memory(self) -> int:
        return 2 * READ_BYTES  # in float64

    @property
    def cost(self) -> float:
        return self.bytes / READ_RATE

    def run(self, workspace: Path) -> Moved:
        from loratools.operations.delta import distance  # which imports torch

        found = distance(self.base, self.tuned, by_row=self.tokens)
        rows: tuple[MovedRow, ...] = ()
        if found.rows is not None and found.base_rows is not None:
            # Stable, so that of equal ones the first come first.
            order = found.rows.argsort(descending=True, stable=True)[:MOST_TOKENS].tolist()
            rows = tuple(
                MovedRow(index, float(found.base_rows[index]), float(found.rows[index]))
                for index in order
                if float(found.rows[index]) > 0.0
            )
        return Moved(found.base_norm, found.norm, rows)


def movement_row(parameter: str, shape: tuple[int, ...], base_norm: float, norm: float) -> Movement:
    """The row of one tensor."""
    module = module_of(parameter)
    place = place_of(module)
    relative = norm / base_norm if base_norm else None
    return Movement(module, place.layer, place.kind, shape, base_norm, norm, relative)


def token_rows(parameter: str, moved: Moved, texts: Mapping[int, str]) -> list[TokenMovement]:
    """The rows of one embedding's tokens, the farthest mover first."""
    return [
        TokenMovement(
            module=module_of(parameter),
            index=row.index,
            text=texts.get(row.index),
            norm=row.norm,
            relative=row.norm / row.base_norm if row.base_norm else None,
        )
        for row in moved.rows
    ]
