"""Bytes by method, on a logarithmic scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loratools.reports import words
from loratools.reports.costs.rows import Method, MethodRow
from loratools.reports.figures.style import HUES, Panel, legend_below, short
from loratools.reports.looks.costs import method_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["cost_panels"]

_SERIES = {
    Method.FULL: ("full fine-tune", "s", "#777777"),
    Method.LORA: ("LoRA", "o", HUES[1]),
}
_OTHERS = ("others", "D", HUES[0])
"""Label, marker and hue: what the paper proposes, what it replaces, and the rest."""


def cost_panels(found: Mapping[str, Any]) -> list[Panel]:
    """A panel for each model: a row for each method as it was set, the largest first."""
    rows: Sequence[MethodRow] = found.get("methods", ())
    panels = []
    for model in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == model and row.bytes > 0]
        if mine:
            ordered = sorted(mine, key=lambda row: -row.bytes)
            panels.append(Panel(0.75 + 0.16 * len(mine) + 0.4, partial(_draw, ordered)))
    return panels


def _draw(rows: Sequence[MethodRow], part: SubFigure) -> None:
    """Points and not bars: on a logarithmic scale the length of a bar says nothing."""
    model = rows[0].model
    from matplotlib.ticker import LogLocator

    part.suptitle("Bytes by method" + (f", {short(model)}" if model else ""))
    axes = part.subplots()
    for series in (*_SERIES.values(), _OTHERS):
        for merges in (True, False):
            mine = [
                (row.bytes, at)
                for at, row in enumerate(rows)
                if _SERIES.get(row.method, _OTHERS) == series and row.merges == merges
            ]
            if mine:
                _points(axes, mine, series, merges)
    for at, row in enumerate(rows):
        axes.annotate(
            words.size(row.bytes),
            (row.bytes, at),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
        )
    low, high = rows[-1].bytes, rows[0].bytes
    axes.set_xscale("log")
    axes.set_xlim(low / 2, high * (high / low) ** 0.35)  # room for the figures behind the points
    axes.xaxis.set_major_locator(LogLocator(numticks=5))  # labels of more would run together
    axes.xaxis.set_major_formatter(lambda value, _: words.size(round(value)))
    axes.minorticks_off()
    axes.set_xlabel("bytes, on a logarithmic scale")
    axes.set_yticks(range(len(rows)), [_told(row) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    legend_below(part, axes.get_legend_handles_labels()[1])


def _points(
    axes: Axes, points: Sequence[tuple[float, int]], series: tuple[str, str, str], merges: bool
) -> None:
    """One kind of method; hollow where it stays beside the weights, and costs time or context."""
    label, marker, hue = series
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        marker,
        color=hue,
        markerfacecolor=hue if merges else "white",
        markersize=4,
        linestyle="none",
        label=f"{label}{'' if merges else ', beside the weights'}",
    )


def _told(row: MethodRow) -> str:
    """The file that a row was measured on, or the method and what tells it from others of its kind."""
    return short(row.reference) if row.reference is not None else method_name(row)
