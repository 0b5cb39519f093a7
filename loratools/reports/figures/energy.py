"""How much of the change each rank keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from loratools.reports import words
from loratools.reports.analysis import Spectrum
from loratools.reports.figures.style import (
    KINDS,
    TOTAL,
    Panel,
    legend_below,
    legend_height,
    line_of,
    rank_axis,
    short,
    some_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["energy_panels"]


LOW = 0.12
"""A share below which its figure stands above the line: there is no room under it."""


def energy_panels(found: Mapping[str, Any]) -> list[Panel]:
    """A panel for each change: the share of the squared norm by rank, of each kind of module and of all."""
    rows: Sequence[Spectrum] = found.get("spectra", ())
    panels = []
    for reference in dict.fromkeys(row.reference for row in rows):
        mine = [row for row in rows if row.reference == reference and row.singular_values and row.norm > 0]
        if mine:
            kinds = list(dict.fromkeys(row.kind for row in mine))
            panels.append(Panel(2.1 + legend_height(_labels(kinds)), partial(_draw, mine, kinds)))
    return panels


def _draw(rows: Sequence[Spectrum], kinds: Sequence[str], part: SubFigure) -> None:
    axes = part.subplots()
    told = "by squared norm" if all(row.complete for row in rows) else "by squared norm, as far as computed"
    axes.set_title(f"What a rank keeps of the change, {short(rows[0].reference)}\n{told}{some_of(kinds)}")
    for share in (0.5, 0.9):
        axes.axhline(share, color="#bbbbbb", linewidth=0.6, zorder=0)
    *shown, total = _labels(kinds)
    for at, kind in enumerate(shown):
        line = _kept([row for row in rows if row.kind == kind])
        hue, dashes = line_of(at)
        axes.plot(range(1, len(line) + 1), line, dashes, color=hue, label=kind, linewidth=0.9)
    line = _kept(rows)
    axes.plot(range(1, len(line) + 1), line, color=TOTAL, linewidth=2.0, label=total)
    last: tuple[int, float] | None = None
    for rank in sorted({int(rank) for row in rows for rank in row.energy_at_rank}):
        if rank <= len(line):
            kept = line[rank - 1]
            apart = last is None or rank >= 5 * last[0] or kept >= last[1] + 0.05
            _mark(axes, rank, kept, told=apart)
            last = (rank, kept) if apart else last
    rank_axis(axes, max(len(row.singular_values) for row in rows))
    axes.set_ylim(0, 1.02)
    axes.set_yticks((0, 0.25, 0.5, 0.75, 0.9, 1), ("0", "25 %", "50 %", "75 %", "90 %", "100 %"))
    axes.set_xlabel("rank, the same for every module")
    legend_below(part, _labels(kinds))


def _labels(kinds: Sequence[str]) -> list[str]:
    """Of a single kind, its line is that of all together."""
    return [*(kinds[:KINDS] if len(kinds) > 1 else ()), "all together"]


def _mark(axes: Axes, rank: int, kept: float, *, told: bool) -> None:
    """A dot at a rank that was asked for, with what it keeps where there is room to tell."""
    axes.plot([rank], [kept], "o", color=TOTAL, markersize=3.5)
    if not told:
        return
    axes.annotate(
        words.share(round(kept, 3)),
        (rank, kept),
        (3, -7 if kept > LOW else 4),
        textcoords="offset points",
        fontsize=6.5,
    )


def _kept(rows: Sequence[Spectrum]) -> list[float]:
    """The share kept by rank 1, 2, ... of all rows together, up to where every row is known.

    A row whose values are complete keeps all that it has at every higher rank.
    """
    whole = sum(row.norm**2 for row in rows)
    lengths = [len(row.singular_values) for row in rows if not row.complete]
    highest = min(lengths, default=max(len(row.singular_values) for row in rows))
    kept = [0.0] * highest
    for row in rows:
        sums = list(accumulate(value**2 for value in row.singular_values))
        for at in range(highest):
            kept[at] += sums[min(at, len(sums) - 1)] / whole
    return kept
