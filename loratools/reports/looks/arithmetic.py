"""`resize` and `combine` in a terminal: what came of it, in the first line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from loratools.errors import printable
from loratools.reports import words
from loratools.reports.columns import Page
from loratools.reports.report import CombinedModule, Report, ResizedModule

__all__ = ["combine_answer", "resize_answer"]


def resize_answer(report: Report, full: bool) -> Iterator[Page]:
    """From which ranks to which, what of the update is left, and for how many bytes."""
    rows = [row for row in report.modules or () if isinstance(row, ResizedModule)]
    if not rows or report.totals is None:
        return
    found, left_out = report.details, sum(not row.rank for row in rows)
    before = words.span([row.rank_before for row in rows])
    after = words.span([row.rank for row in rows if row.rank])
    share = words.share(found["energy"])
    sizes = f"{words.size(found['bytes_before'])} became {words.size(report.totals.bytes)}"
    without = f", {left_out} of {len(rows)} modules without factors" if left_out else ""
    yield (
        f"Rank {before} became {after}{without}: {share} of the update's energy is left "
        f"(residual {words.number(found['residual'], 3)}); weights of {sizes}, "
        f"{words.size(found['output_bytes'])} with all files"
    )


def combine_answer(report: Report, full: bool) -> Iterator[Page]:
    """What was added, at which rank, and how far the result is from the weighted sum."""
    rows = [row for row in report.modules or () if isinstance(row, CombinedModule)]
    if not rows or report.totals is None:
        return
    found = report.details
    named = [f"{one['weight']:g} x {one['reference']}" for one in found["adapters"]]
    yield printable(f"{_sum(named)} by {found['method']}: {_distance(found['residual'])}")
    ranks = words.span([row.rank for row in rows])
    yield (
        f"{len(rows)} modules of rank {ranks}; weights of {words.size(report.totals.bytes)}, "
        f"{words.size(found['output_bytes'])} with all files"
    )


_ROUNDING = 1e-6
"""A distance below is that of rounding float32 factors (6e-8 each)."""


def _distance(residual: float | None) -> str:
    if residual is None:
        return "the weighted sum is zero"
    if residual == 0.0:
        return "the weighted sum, to the last bit"
    if residual < _ROUNDING:
        return f"the weighted sum, rounded (to {words.number(residual, 2)} of its norm)"
    return f"{words.share(residual)} of the weighted sum's norm away from it"


def _sum(named: Sequence[str]) -> str:
    return " + ".join(named)
