"""Where the jobs of a merge leave what is kept of their tensors, until the undo record is put together."""

from __future__ import annotations

from loratools.operations.undo.record import FOLDER

__all__ = ["PARTS", "part_of"]

PARTS = f"{FOLDER}/parts"


def part_of(place: int) -> str:
    """The part of the so-many-eth tensor, below the output's folder."""
    return f"{PARTS}/{place:08d}"
