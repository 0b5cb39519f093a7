"""What `clean` found, as a table: each leftover, its size, what became of it and why."""

from __future__ import annotations

from collections.abc import Iterator

from loratools.reports import words
from loratools.reports.columns import Column, Page, table
from loratools.reports.report import Leftover, Report

__all__ = ["leftover_pages"]


def leftover_pages(report: Report, full: bool) -> Iterator[Page]:
    """The table, and how much was freed. `full` changes nothing: no row is left out."""
    rows: tuple[Leftover, ...] = report.details["leftovers"]
    if not rows:
        yield "no run left anything here"
        return
    yield table("Leftovers", _COLUMNS, rows)
    gone = [row for row in rows if row.action != "left"]
    done = "would be removed" if report.dry_run else "removed"
    yield f"{len(gone)} of {len(rows)} {done}, {words.size(sum(row.bytes for row in gone))}"


_COLUMNS: tuple[Column[Leftover], ...] = (
    Column("path", lambda row: str(row.path), text=True),
    Column("size", lambda row: words.size(row.bytes)),
    Column("action", lambda row: row.action, text=True),
    Column("why", lambda row: row.reason, text=True),
)
