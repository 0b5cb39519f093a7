"""Where the fine-tune happened: layers across, kinds of module down, and what moved most."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from loratools.errors import printable
from loratools.reports import words
from loratools.reports.analysis import Movement, TokenMovement
from loratools.reports.columns import GAP, Column, Page, heading, table
from loratools.reports.looks.middle import median
from loratools.reports.looks.shades import shaded

__all__ = ["movement_map", "movement_tables", "token_table"]

BANDS = 10
"""Of more layers than this, neighbours share a column on a terminal."""

CELL = 5
"""Characters of a number in the map."""

MOST = 5
"""Tensors, and twice as many tokens, that are listed as the biggest movers."""


def movement_tables(rows: Sequence[Movement], *, full: bool) -> Iterator[Page]:
    """The map, what lies outside of the layers, and the biggest movers; every tensor if `full`."""
    moved = [row for row in rows if row.relative]
    if not moved:
        yield "Nothing moved."
        return
    if any(row.layer is not None for row in moved):
        yield movement_map(rows, bands=None if full else BANDS)
    outside = [row for row in moved if row.layer is None]
    if outside:
        told = (f"{printable(row.module)} {words.share(row.relative)}" for row in outside)
        yield f"outside of the layers: {', '.join(told)}"
    ordered = sorted(moved, key=lambda row: row.relative or 0.0, reverse=True)
    yield table("Every tensor" if full else "Moved most", _EACH, rows if full else ordered[:MOST])


def movement_map(rows: Sequence[Movement], *, bands: int | None) -> Table:
    """||change|| / ||weights|| in per cent, shaded; the median where several modules share a cell."""
    layers = sorted({row.layer for row in rows if row.layer is not None})
    columns = _bands(layers, bands)
    kinds = list(dict.fromkeys(row.kind for row in rows if row.layer is not None))
    cells = {
        (kind, at): median([row.relative for row in rows if row.kind == kind and row.layer in band])
        for kind in kinds
        for at, band in enumerate(columns)
    }
    top = max((value for value in cells.values() if value is not None), default=0.0) or 1.0
    drawn = Table(
        title=heading("||change|| / ||weights|| in %, by layer"),
        title_justify="left",
        box=None,
        padding=(0, 0),
        pad_edge=False,
    )
    drawn.add_column("layer", overflow="fold")
    for band in columns:
        drawn.add_column(f"{_told(band):>{CELL}} ", no_wrap=True)
    for kind in kinds:
        shades = [_cell(cells[kind, at], top) for at in range(len(columns))]
        drawn.add_row(printable(kind) + " " * GAP, *shades)
    return drawn


def _bands(layers: Sequence[int], most: int | None) -> list[list[int]]:
    """The layers, or runs of neighbours of equal length, the last perhaps shorter."""
    length = 1 if most is None else -(-len(layers) // most)
    return [list(layers[start : start + length]) for start in range(0, len(layers), length)]


def _told(band: Sequence[int]) -> str:
    return f"{band[0]}" if len(band) == 1 else f"{band[0]}-{band[-1]}"


def _cell(value: float | None, top: float) -> Text:
    if value is None:
        return Text(f"{'-':>{CELL}} ")
    told = words.number(100 * value, 3 if value >= 0.0995 else 2)
    return shaded(f"{told:>{CELL}} ", value / top)


def token_table(rows: Sequence[TokenMovement], *, full: bool) -> Page:
    """The tokens whose rows moved most."""
    ordered = sorted(rows, key=lambda row: row.norm, reverse=True)
    shown = ordered if full else ordered[: 2 * MOST]
    several = len({row.module for row in rows}) > 1
    return table("Tokens that moved most", (*_TOKEN, *(_OF if several else ())), shown)


_EACH: tuple[Column[Movement], ...] = (
    Column("tensor", lambda row: row.module, text=True),
    Column("shape", lambda row: words.shape(row.shape)),
    Column("||weights||", lambda row: words.number(row.norm_base, 3)),
    Column("||change||", lambda row: words.number(row.norm_delta, 3)),
    Column("ratio", lambda row: words.share(row.relative)),
)
_TOKEN: tuple[Column[TokenMovement], ...] = (
    Column("token", lambda row: str(row.index)),
    Column("text", lambda row: "-" if row.text is None else row.text, text=True),
    Column("||change||", lambda row: words.number(row.norm, 3)),
    Column("ratio", lambda row: words.share(row.relative)),
)
_OF: tuple[Column[TokenMovement], ...] = (Column("of", lambda row: row.module, text=True),)
