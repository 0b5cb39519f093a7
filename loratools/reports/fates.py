"""Coverage as tables: how many tensors met each fate, and why those that one might miss did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from loratools.engine.coverage import Action, Coverage, CoverageRow
from loratools.errors import printable
from loratools.reports import words
from loratools.reports.columns import Column, Sheet, table

FEW = 8
"""Names that a group shows; `-v` shows all."""

_EXPLAINED = (Action.SAVED, Action.REPLACED, Action.ADDED, Action.DROPPED, Action.REFUSED, Action.PENDING)
"""Fates that call for their reason; the others are what the verb is there for."""


@dataclass(frozen=True)
class Fate:
    """Tensors that met the same fate for the same reason, in one input or, by the same names, in several."""

    inputs: tuple[str, ...]
    action: Action
    reason: str
    tensors: tuple[str, ...]
    bytes: int

    def told(self, *, full: bool) -> str:
        """Two lines: what and why, and the names; if not `full`, those that differ in numbers are one."""
        names = self.tensors if full else tuple(dict.fromkeys(map(words.family, self.tensors)))
        shown = names if full else names[:FEW]
        hidden = len(names) - len(shown)
        what = (
            f"{self.action.value}: {len(self.tensors)} of {', '.join(self.inputs)}, {words.size(self.bytes)}"
        )
        more = f" and {hidden} more; -v lists all" if hidden else ""
        return f"{printable(f'{what}: {self.reason}')}\n    {printable(', '.join(shown))}{more}"


def counts(coverage: Coverage) -> Iterator[str]:
    """One line for each input: `tuned: 28 factored, 10 saved, 1 unchanged`."""
    for name, rows in groupby(coverage, key=lambda row: row.input):
        of_input = Coverage(tuple(rows))
        told = ", ".join(f"{count} {action.value}" for action, count in of_input.counts().items())
        yield f"{name}: {told}"


def explained(coverage: Coverage, *, full: bool) -> Iterator[str]:
    """The tensors whose fate calls for a reason, grouped by it; every name if `full`."""
    for fate in fates([row for row in coverage if row.action in _EXPLAINED]):
        yield fate.told(full=full)


def everything(coverage: Coverage, *, full: bool) -> Iterator[Sheet | str]:
    """Every tensor's fate, for a dry run: one row each if `full`, else grouped by reason, numbers aside."""
    if full:
        yield table("", _EACH, coverage)
    else:
        rows = [replace(row, reason=words.family(row.reason)) for row in coverage]
        yield from (fate.told(full=False) for fate in fates(rows))


def fates(rows: Sequence[CoverageRow]) -> list[Fate]:
    """The rows by fate and reason; `bytes` are those in the last of the inputs (of base and tuned: tuned)."""
    grouped: dict[tuple[str, Action, str], list[CoverageRow]] = {}
    for row in rows:
        grouped.setdefault((row.input, row.action, row.reason), []).append(row)
    merged: dict[tuple[Action, str, tuple[str, ...]], Fate] = {}
    for (name, action, reason), members in grouped.items():
        key = (action, reason, tuple(row.tensor for row in members))
        before = merged[key].inputs if key in merged else ()
        merged[key] = Fate((*before, name), *key, bytes=sum(row.bytes for row in members))
    return list(merged.values())


_EACH: tuple[Column[CoverageRow], ...] = (
    Column("input", lambda row: row.input, text=True),
    Column("tensor", lambda row: row.tensor, text=True),
    Column("fate", lambda row: row.action.value, text=True),
    Column("bytes", lambda row: words.size(row.bytes)),
    Column("why", lambda row: row.reason, text=True),
)
