"""How large the weights are in the directions of the change, of their own, and of chance: Table 7 as dots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loratools.reports.analysis import Amplification
from loratools.reports.figures.style import HUES, TOTAL, Panel, legend_below, plain_ticks, short

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

__all__ = ["amplification_panels"]

_SERIES = {
    "weight": ("W in its own directions", "s", HUES[0]),
    "delta": ("W in the change's directions", "o", HUES[1]),
    "random": ("W in random directions", "^", HUES[2]),
}


CHANGE = "‖change‖"

_LABELS = [*(label for label, _, _ in _SERIES.values()), CHANGE]


def amplification_panels(found: Mapping[str, Any]) -> list[Panel]:
    """A panel for each change, at the smallest rank asked for: a row of dots for each kind of module."""
    rows: Sequence[Amplification] = found.get("amplification", ())
    panels = []
    for reference in dict.fromkeys(row.reference for row in rows):
        mine = [row for row in rows if row.reference == reference]
        rank = min(row.rank for row in mine)
        at_rank = [row for row in mine if row.rank == rank]
        kinds = list(dict.fromkeys(row.kind for row in at_rank))
        panels.append(Panel(1.4 + 0.2 * len(kinds), partial(_draw, at_rank, kinds)))
    return panels


def _draw(rows: Sequence[Amplification], kinds: Sequence[str], part: SubFigure) -> None:
    part.suptitle(f"Amplification at r = {rows[0].rank}, {short(rows[0].reference)}: ‖U'WV‖ by module")
    axes = part.subplots()
    for key, (label, marker, hue) in _SERIES.items():
        points = [(value, kinds.index(row.kind)) for row in rows if (value := row.projected[key])]
        _dots(axes, points, marker, hue, label)
    _dots(
        axes,
        [(row.norm_delta, kinds.index(row.kind)) for row in rows if row.norm_delta],
        "|",
        TOTAL,
        CHANGE,
    )
    axes.set_xscale("log")
    plain_ticks(axes.xaxis)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_axisbelow(True)
    axes.set_xlabel("Frobenius norm")
    axes.tick_params(axis="y", length=0)
    legend_below(part, _LABELS)


def _dots(axes: Any, points: Sequence[tuple[float, int]], marker: str, hue: str, label: str) -> None:
    axes.plot(
        [x for x, _ in points],
        [y for _, y in points],
        marker,
        color=hue,
        label=label,
        markersize=8 if marker == "|" else 3.5,
        linestyle="none",
        alpha=0.8,
    )
