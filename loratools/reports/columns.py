"""Columns: how rows of any type become a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.table import Table

from loratools.errors import printable

Row = TypeVar("Row")


@dataclass(frozen=True)
class Column(Generic[Row]):
    """A heading and what stands below it. Names are never cut: on a narrow terminal they are folded."""

    title: str
    cell: Callable[[Row], str]
    text: bool = False
    """Left-aligned and folded where it is long; everything else is a figure, aligned right and kept whole."""


def table(title: str, columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Table:
    """The rows as a table without frames, so that it can be read by eye and by `grep` alike."""
    drawn = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for column in columns:
        drawn.add_column(
            column.title,
            justify="left" if column.text else "right",
            overflow="fold",
            no_wrap=not column.text,
        )
    for row in rows:
        drawn.add_row(*(printable(column.cell(row)) for column in columns))
    return drawn
