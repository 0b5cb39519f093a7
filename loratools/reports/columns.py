"""Columns: how rows of any type become a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.cells import cell_len
from rich.table import Column as RichColumn
from rich.table import Table
from rich.text import Text

from loratools.errors import printable

Row = TypeVar("Row")

Page = Table | str
"""A piece of a report as it is printed: a table, or text."""

GAP = 2
"""Blanks between two columns."""

NARROWEST = 24
"""Columns of the terminal to which a long name is folded at most."""


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
        title=heading(title) if title else None,
        title_justify="left",
        box=None,
        padding=(0, GAP, 0, 0),
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


def lines(drawn: Table) -> str | None:
    """The table as rich draws it where there is room for it and no colour: text, in a tenth of the time.

    None where cells are more than text, or something else than `table` drew it.
    """
    columns = [[str(column.header), *map(str, column.cells)] for column in drawn.columns]
    plain = all(isinstance(cell, str) for column in drawn.columns for cell in column.cells)
    if not plain or drawn.padding != (0, GAP, 0, 0):
        return None
    filled = [_filled(cells, column.justify) for cells, column in zip(columns, drawn.columns, strict=True)]
    title = [] if drawn.title is None else [str(drawn.title)]
    return "\n".join([*title, *((" " * GAP).join(row) for row in zip(*filled, strict=True))])


def _filled(cells: Sequence[str], justify: str) -> list[str]:
    """The cells with blanks before or behind, to one width."""
    lengths = [len(cell) if cell.isascii() else cell_len(cell) for cell in cells]
    width = max(lengths)
    blanks = (" " * (width - length) for length in lengths)
    if justify == "right":
        return [blank + cell for cell, blank in zip(cells, blanks, strict=True)]
    return [cell + blank for cell, blank in zip(cells, blanks, strict=True)]


def heading(title: str) -> Text:
    """A table's title, in one line however narrow the table is."""
    return Text(printable(title), style="bold", no_wrap=True, overflow="ignore")


def least_width(drawn: Table) -> int:
    """Columns of the terminal that a table needs, with figures whole and names folded to what can be read."""
    return sum(_least(column) + GAP for column in drawn.columns) - GAP


def _least(column: RichColumn) -> int:
    longest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    return longest if column.no_wrap else min(longest, NARROWEST)
