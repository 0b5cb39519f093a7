"""What to know of the directions that are compared, module by module, and how it is told in few lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from loratools.operations.analysis.options import Directions

__all__ = ["Note", "NoteKind", "named", "told"]


class NoteKind(str, Enum):
    """The line that is told, of all modules that it is true of together."""

    ZERO = "{what} of {modules} in {reference} is zero: it has no directions, and no grid"
    FEWER = (
        "{what} of {modules} in {reference} has fewer directions than were asked for: the grid stops there"
    )
    ROUNDED = (
        "{what} of {modules} in {reference}: singular values from {at} on are no larger than the rounding of "
        "what is stored, so that these directions say nothing"
    )
    TIED = (
        "{what} of {modules} in {reference}: singular values {at} and the next coincide up to the rounding "
        "of what is stored, so that the order of these directions is arbitrary"
    )
    WIDTH = "{what} of {modules} has another width in {reference} than in {other}: not compared on that side"


@dataclass(frozen=True, slots=True)
class Note:
    """A kind of note on one side of one module, in the adapter of that place.

    `other` is the other adapter's place, where there is one; `at` a place in the spectrum, from 1 on.
    """

    kind: NoteKind
    module: str
    side: str
    place: int
    other: int | None = None
    at: int | None = None


def told(notes: Iterable[Note], references: Sequence[str], directions: Directions) -> tuple[str, ...]:
    """A line for each kind, adapter and side, which names the first module and counts the others."""
    together: dict[tuple[int, int, int, str], list[Note]] = {}
    kinds = list(NoteKind)
    for note in notes:
        what = f"lora_{note.side}" if directions is Directions.FACTOR else "BA"
        key = (kinds.index(note.kind), note.place, -1 if note.other is None else note.other, what)
        together.setdefault(key, []).append(note)
    return tuple(
        kinds[kind].value.format(
            what=what,
            modules=named(list(dict.fromkeys(note.module for note in alike))),
            reference=references[place],
            other=references[other],
            at=alike[0].at,
        )
        for (kind, place, other, what), alike in sorted(together.items())
    )


def named(modules: Sequence[str]) -> str:
    """The first of several, and how many more there are."""
    rest = len(modules) - 1
    return modules[0] if not rest else f"{modules[0]} and {rest} more module{'s' if rest > 1 else ''}"
