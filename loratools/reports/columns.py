"""Columns: how rows of any type become a table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from loratools.errors import printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Row = TypeVar("Row")

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


@dataclass(frozen=True)
class Sheet:
    """A table of text without frames, so that it can be read by eye and by `grep` alike.

    `cells` are those of each column, below its heading. Rich draws it where a terminal has to be fitted or
    coloured; `lines` takes a tenth of the time.
    """

    title: str
    columns: tuple[Heading, ...]
    cells: tuple[tuple[str, ...], ...]

    def lines(self) -> str:
        """The table as rich draws it where there is room for it and no colour."""
        filled = [
            _filled((column.title, *cells), column.text)
            for column, cells in zip(self.columns, self.cells, strict=True)
        ]
        title = [self.title] if self.title else []
        return "\n".join([*title, *map((" " * GAP).join, zip(*filled, strict=True))])

    def __rich__(self) -> Table:
        from rich.table import Table

        drawn = Table(
            title=heading(self.title) if self.title else None,
            title_justify="left",
            box=None,
            padding=(0, GAP, 0, 0),
            pad_edge=False,
        )
        for column in self.columns:
            drawn.add_column(
                column.title,
                justify="left" if column.text else "right",
                overflow="fold",
                no_wrap=not column.text,
            )
        for row in zip(*self.cells, strict=True):
            drawn.add_row(*row)
        return drawn


@dataclass(frozen=True)
class Heading:
    """A column's heading, and whether text stands below it: see `Column`."""

    title: str
    text: bool


Page: TypeAlias = "Sheet | Table | str"
"""A piece of a report as it is printed: a table, one that only rich can draw, or text."""


def table(title: str, columns: Sequence[Column[Row]], rows: Iterable[Row]) -> Sheet:
    """The rows as a table."""
    held = list(rows)
    return Sheet(
        printable(title),
        tuple(Heading(column.title, column.text) for column in columns),
        tuple(tuple(printable(column.cell(row)) for row in held) for column in columns),
    )


def _filled(cells: Sequence[str], text: bool) -> list[str]:
    """The cells with blanks before or behind, to one width."""
    lengths = list(map(_width, cells))
    width = max(lengths)
    blanks = (" " * (width - length) for length in lengths)
    if text:
        return [cell + blank for cell, blank in zip(cells, blanks, strict=True)]
    return [blank + cell for cell, blank in zip(cells, blanks, strict=True)]


def _width(cell: str) -> int:
    """Columns of a terminal that the text takes."""
    if cell.isascii():
        return len(cell)
    from rich.cells import cell_len

    return cell_len(cell)


def heading(title: str) -> Text:
    """A table's title, in one line however narrow the table is."""
    from rich.text import Text

    return Text(printable(title), style="bold", no_wrap=True, overflow="ignore")


def least_width(drawn: Sheet | Table) -> int:
    """Columns of the terminal that a table needs, with figures whole and names folded to what can be read."""
    if isinstance(drawn, Sheet):
        columns = [
            (column.text, (column.title, *cells))
            for column, cells in zip(drawn.columns, drawn.cells, strict=True)
        ]
    else:
        columns = [
            (not column.no_wrap, tuple(map(str, (column.header, *column.cells)))) for column in drawn.columns
        ]
    return sum(_least(*column) + GAP for column in columns) - GAP


def _least(text: bool, cells: Sequence[str]) -> int:
    longest = max(map(_width, cells))
    return min(longest, NARROWEST) if text else longest
