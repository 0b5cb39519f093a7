"""Singular values of changes, against what rounding the stored weights explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loratools.reports.analysis import Spectrum
from loratools.reports.figures.style import (
    KINDS,
    Panel,
    legend_below,
    legend_height,
    line_of,
    plain_ticks,
    rank_axis,
    short,
    some_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["spectrum_panels"]


LOWEST = 0.1
"""Of the noise floor: what lies further below is not drawn."""


def spectrum_panels(found: Mapping[str, Any]) -> list[Panel]:
    """A panel for each change: the median spectrum of each kind of module."""
    rows: Sequence[Spectrum] = found.get("spectra", ())
    panels = []
    for reference in dict.fromkeys(row.reference for row in rows):
        mine = [row for row in rows if row.reference == reference and row.singular_values]
        if mine:
            kinds = list(dict.fromkeys(row.kind for row in mine))
            panels.append(Panel(2.1 + legend_height(kinds[:KINDS]), partial(_draw, mine, kinds)))
    return panels


def _draw(rows: Sequence[Spectrum], kinds: Sequence[str], part: SubFigure) -> None:
    floored = [row for row in rows if row.noise_floor]
    lines = {
        kind: _median([_scaled(row, relative=not floored) for row in floored or rows if row.kind == kind])
        for kind in kinds[:KINDS]
    }
    axes = part.subplots()
    told = f"median of each kind of module{some_of(kinds)}"
    axes.set_title(f"Singular values of the change, {short(rows[0].reference)}\n{told}")
    for at, (kind, line) in enumerate(lines.items()):
        hue, dashes = line_of(at)
        axes.plot(range(1, len(line) + 1), line, dashes, color=hue, label=kind)
    axes.set_yscale("log")
    rank_axis(axes, max(map(len, lines.values()), default=1))
    axes.set_xlabel("index of the singular value")
    axes.set_ylabel("times the noise floor" if floored else "share of the largest")
    if floored:
        _shade_noise(axes)
    else:
        axes.set_ylim(bottom=max(LOWEST / 10, axes.get_ylim()[0]))
    plain_ticks(axes.yaxis)
    legend_below(part, list(lines))


def _shade_noise(axes: Axes) -> None:
    """The ground below 1: what rounding explains."""
    bottom = min(0.5, max(LOWEST, axes.get_ylim()[0]))
    axes.axhspan(bottom, 1, color="#dddddd", zorder=0)
    axes.set_ylim(bottom=bottom)
    axes.annotate(
        "explained by rounding", (1, 1), (2, -3), textcoords="offset points", va="top", fontsize=6.5
    )


def _scaled(row: Spectrum, *, relative: bool) -> list[float]:
    """The values by the module's own floor, or by its largest value."""
    unit = row.singular_values[0] if relative else row.noise_floor
    return [value / unit for value in row.singular_values] if unit else []


def _median(lines: Sequence[Sequence[float]]) -> list[float]:
    """The median at each index that all lines have; zeros, which a logarithm cannot show, are left out."""
    medians = [sorted(values)[(len(values) - 1) // 2] for values in zip(*lines, strict=False)]
    return [value for value in medians if value > 0]
