"""A report as one picture: the panels that it has something to draw for, one below the other."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from loratools.reports.figures.amplification import amplification_panels
from loratools.reports.figures.costs import cost_panels
from loratools.reports.figures.energy import energy_panels
from loratools.reports.figures.map import map_panels
from loratools.reports.figures.overlap import overlap_panels
from loratools.reports.figures.similarity import similarity_panels
from loratools.reports.figures.spectra import spectrum_panels
from loratools.reports.figures.style import COLUMN, SETTINGS, Panel
from loratools.reports.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PANELS", "drawn"]

PANELS: tuple[Callable[[Mapping[str, Any]], list[Panel]], ...] = (
    similarity_panels,
    energy_panels,
    spectrum_panels,
    map_panels,
    amplification_panels,
    overlap_panels,
    cost_panels,
)
"""Each makes the panels of one kind of row in a report's `details`; none where there are no such rows."""

PLACES = 6
"""Decimals of a place in the figure, whose sides are 1: a hundredth of what any printer can show."""

_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": "loratools"},
    "svg": {"Date": None, "Creator": "loratools"},
    "pdf": {"CreationDate": None, "Creator": "loratools", "Producer": "loratools"},
}
"""No clock and no version: the same report gives the same bytes with the same matplotlib."""


def drawn(report: Report, kind: str) -> bytes | None:
    """The picture as a file of that kind, "png", "svg" or "pdf"; None where there is nothing to draw.

    No window is opened and no state of matplotlib's is left changed.
    """
    panels = [panel for made in PANELS for panel in made(report.details)]
    if not panels:
        return None
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with rc_context(SETTINGS):
        heights = [panel.height for panel in panels]
        figure = Figure(figsize=(COLUMN, sum(heights)), layout="constrained")
        parts = figure.subfigures(len(panels), 1, height_ratios=heights, squeeze=False)
        for panel, part in zip(panels, parts[:, 0], strict=True):
            panel.draw(part)
        _settle(figure)
        figure.savefig(file, format=kind, metadata=_METADATA[kind])
    return file.getvalue()


def _settle(figure: Figure) -> None:
    """Lays the figure out once and rounds where everything is.

    The solver of matplotlib's constrained layout goes through its variables by their addresses, so that two
    runs differ in the last bits of a place, and with them names and numbers in SVG and PDF.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for part in figure.subfigs:
        part.bbox_relative.p0, part.bbox_relative.p1 = (
            [round(at, PLACES) for at in corner] for corner in part.bbox_relative.get_points()
        )
        for text in part.texts:
            x, y = text.get_position()
            text.set_position((round(x, PLACES), round(y, PLACES)))
    for axes in figure.get_axes():
        left, bottom, width, height = (round(at, PLACES) for at in axes.get_position(original=True).bounds)
        axes.set_position((left, bottom, width, height))
