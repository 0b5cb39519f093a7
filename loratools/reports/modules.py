"""The modules that a verb worked on, as tables: each row, or, where they are many, families and the worst."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from loratools.reports import words
from loratools.reports.columns import Column, Sheet, table
from loratools.reports.report import CombinedModule, ExtractedModule, MergedModule, ResizedModule

MANY = 40
"""Up to so many modules each has a row of its own on a terminal."""

WORST = 5

Row = TypeVar("Row", bound="ExtractedModule | MergedModule | ResizedModule | CombinedModule")


@dataclass(frozen=True)
class Family(Generic[Row]):
    """Modules that differ only in the numbers in their names: `model.layers.*.mlp.up_proj`."""

    name: str
    rows: tuple[Row, ...]

    def worst(self, value: Callable[[Row], float | None]) -> float | None:
        return max((known for row in self.rows if (known := value(row)) is not None), default=None)


@dataclass(frozen=True)
class Look(Generic[Row]):
    """How one type of module is shown: a row each, a row a family, and by what the worst are chosen."""

    noun: str
    each: tuple[Column[Row], ...]
    more: tuple[Column[Row], ...]
    family: tuple[Column[Family[Row]], ...]
    badness: Callable[[Row], float]
    worst_title: str


def module_tables(rows: Sequence[Any], *, full: bool) -> Iterator[Sheet]:
    """Tables of the modules of a report, all of one type; every row if `full` or if they are few."""
    if rows:
        yield from _draw(_look(rows[0]), rows, full=full)


def _draw(look: Look[Row], rows: Sequence[Row], *, full: bool) -> Iterator[Sheet]:
    if full or len(rows) <= MANY:
        yield table("", (*look.each, *look.more) if full else look.each, rows)
        return
    yield table(f"{len(rows)} {look.noun}; -v lists each", look.family, families(rows))
    worst = sorted(rows, key=look.badness, reverse=True)[:WORST]
    yield table(look.worst_title, look.each, worst)


def families(rows: Sequence[Row]) -> list[Family[Row]]:
    """The rows by their names without numbers, in the order in which the families first appear."""
    grouped: dict[str, list[Row]] = {}
    for row in rows:
        grouped.setdefault(words.family(row.name), []).append(row)
    return [Family(name, tuple(members)) for name, members in grouped.items()]


_EXTRACTED: Look[ExtractedModule] = Look(
    noun="modules",
    each=(
        Column("module", lambda row: row.name, text=True),
        Column("shape", lambda row: words.shape(row.shape)),
        Column("rank", lambda row: str(row.rank)),
        Column("energy", lambda row: words.share(row.energy)),
        Column("residual", lambda row: words.number(row.residual)),
        Column("excess <=", lambda row: words.number(row.excess, 2)),
        Column("bytes", lambda row: words.size(row.bytes)),
    ),
    more=(
        Column("dtype", lambda row: row.dtype),
        Column("alpha", lambda row: words.number(row.alpha)),
        Column("norm", lambda row: words.number(row.norm)),
        Column("storage error", lambda row: words.number(row.storage_error, 2)),
        Column("noise floor", lambda row: words.number(row.noise_floor, 3)),
        Column("method", lambda row: row.method),
        Column("time", lambda row: f"{row.seconds:.3f} s"),
    ),
    family=(
        Column("modules", lambda family: family.name, text=True),
        Column("count", lambda family: str(len(family.rows))),
        Column("rank", lambda family: words.span([row.rank for row in family.rows])),
        Column("residual", lambda family: words.span([row.residual for row in family.rows])),
        Column("excess <=", lambda family: words.number(family.worst(lambda row: row.excess), 2)),
        Column("bytes", lambda family: words.size(sum(row.bytes for row in family.rows))),
    ),
    badness=lambda row: row.residual,
    worst_title="Largest residuals",
)


def _off(exact: bool | float | None) -> str:
    """The share of elements that may be off, in words."""
    if exact is None:
        return "-"
    return "none" if exact is True else words.share(float(exact))


def _rounding_error(row: MergedModule) -> float | None:
    return row.rounding_error


_MERGED: Look[MergedModule] = Look(
    noun="tensors",
    each=(
        Column("tensor", lambda row: row.name, text=True),
        Column("shape", lambda row: words.shape(row.shape)),
        Column("dtype", lambda row: row.dtype),
        Column("kind", lambda row: row.kind),
        Column("scaling", lambda row: words.number(row.scaling)),
        Column("norm", lambda row: words.number(row.norm)),
        Column("changed", lambda row: words.share(row.changed)),
        Column("rounding error", lambda row: words.number(row.rounding_error, 2)),
    ),
    more=(),
    family=(
        Column("tensors", lambda family: family.name, text=True),
        Column("count", lambda family: str(len(family.rows))),
        Column("kind", lambda family: ", ".join(sorted({row.kind for row in family.rows}))),
        Column("changed at most", lambda family: words.share(family.worst(lambda row: row.changed))),
        Column("rounding error <=", lambda family: words.number(family.worst(_rounding_error), 2)),
    ),
    badness=lambda row: row.norm or 0.0,
    worst_title="Largest changes",
)

_UNMERGED: Look[MergedModule] = replace(
    _MERGED,
    each=(
        *_MERGED.each[:-1],
        Column("may be off", lambda row: _off(row.exact)),
        Column("by at most", lambda row: words.number(row.largest_difference, 2)),
    ),
    family=(
        *_MERGED.family[:-1],
        Column(
            "by at most", lambda family: words.number(family.worst(lambda row: row.largest_difference), 2)
        ),
    ),
    badness=lambda row: row.largest_difference or 0.0,
    worst_title="Largest differences",
)


_RESIZED: Look[ResizedModule] = Look(
    noun="modules",
    each=(
        Column("module", lambda row: row.name, text=True),
        Column("shape", lambda row: words.shape(row.shape)),
        Column("rank before", lambda row: str(row.rank_before)),
        Column("rank", lambda row: str(row.rank)),
        Column("energy", lambda row: words.share(row.energy)),
        Column("residual", lambda row: words.number(row.residual)),
        Column("bytes", lambda row: words.size(row.bytes)),
    ),
    more=(
        Column("dtype", lambda row: row.dtype),
        Column("alpha", lambda row: words.number(row.alpha)),
        Column("norm", lambda row: words.number(row.norm)),
    ),
    family=(
        Column("modules", lambda family: family.name, text=True),
        Column("count", lambda family: str(len(family.rows))),
        Column("rank before", lambda family: words.span([row.rank_before for row in family.rows])),
        Column("rank", lambda family: words.span([row.rank for row in family.rows])),
        Column("residual", lambda family: words.span([row.residual for row in family.rows])),
        Column("bytes", lambda family: words.size(sum(row.bytes for row in family.rows))),
    ),
    badness=lambda row: row.residual,
    worst_title="Largest residuals",
)

_COMBINED: Look[CombinedModule] = Look(
    noun="modules",
    each=(
        Column("module", lambda row: row.name, text=True),
        Column("shape", lambda row: words.shape(row.shape)),
        Column("rank of parts", lambda row: "+".join(str(part.rank) for part in row.parts)),
        Column("rank", lambda row: str(row.rank)),
        Column("distance from sum", lambda row: words.number(row.residual, 3)),
        Column("bytes", lambda row: words.size(row.bytes)),
    ),
    more=(
        Column("adapters", lambda row: "+".join(str(part.adapter) for part in row.parts)),
        Column("dtype", lambda row: row.dtype),
        Column("norm of sum", lambda row: words.number(row.norm)),
        Column("truncated", lambda row: words.number(row.truncation, 3)),
    ),
    family=(
        Column("modules", lambda family: family.name, text=True),
        Column("count", lambda family: str(len(family.rows))),
        Column("rank", lambda family: words.span([row.rank for row in family.rows])),
        Column("distance at most", lambda family: words.number(family.worst(lambda row: row.residual), 3)),
        Column("bytes", lambda family: words.size(sum(row.bytes for row in family.rows))),
    ),
    badness=lambda row: row.residual or 0.0,
    worst_title="Farthest from the weighted sum",
)

_LOOKS: dict[type, Look[Any]] = {
    ExtractedModule: _EXTRACTED,
    ResizedModule: _RESIZED,
    CombinedModule: _COMBINED,
}


def _look(row: object) -> Look[Any]:
    """By the row's type; rows that tell how far they may be off are unmerge's."""
    if not isinstance(row, MergedModule):
        return _LOOKS[type(row)]
    return _UNMERGED if row.exact is not None else _MERGED
