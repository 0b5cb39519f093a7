"""Where the fine-tune happened: kinds of module down, layers across."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loratools.reports import words
from loratools.reports.analysis import Movement
from loratools.reports.figures.style import SHARES, Panel

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

__all__ = ["map_panels"]

WRITTEN = 6
"""Up to so many layers each cell has its number in it."""


def map_panels(found: Mapping[str, Any]) -> list[Panel]:
    """||change|| / ||weights|| of everything that stands in a layer."""
    rows: Sequence[Movement] = [row for row in found.get("movement", ()) if row.layer is not None]
    kinds = list(dict.fromkeys(row.kind for row in rows))
    if not any(row.relative for row in rows):
        return []
    return [Panel(0.75 + 0.17 * len(kinds), partial(_draw, rows, kinds))]


def _draw(rows: Sequence[Movement], kinds: Sequence[str], part: SubFigure) -> None:
    layers = sorted({row.layer for row in rows if row.layer is not None})
    cells = [[_share(rows, kind, layer) for layer in layers] for kind in kinds]
    top = max(max(line) for line in cells if any(value == value for value in line))
    part.suptitle("Where it moved: ‖change‖ / ‖weights‖")
    axes = part.subplots()
    image = axes.imshow(cells, cmap=SHARES, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
    step = -(-len(layers) // 12)
    axes.set_xticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]])
    axes.set_yticks(range(len(kinds)), kinds)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("layer")
    if len(layers) <= WRITTEN:
        for down, line in enumerate(cells):
            for across, value in enumerate(line):
                if value == value:
                    ink = "black" if value > 0.5 * top else "white"
                    axes.text(
                        across, down, f"{100 * value:.2g} %", color=ink, ha="center", va="center", fontsize=6
                    )
    bar = part.colorbar(image, ax=axes, fraction=0.06, format=lambda value, _: words.share(value))
    bar.ax.tick_params(length=2)


def _share(rows: Sequence[Movement], kind: str, layer: int) -> float:
    """The median where several modules, experts for one, share a cell; not a number, so blank, for none."""
    values = sorted(
        row.relative for row in rows if (row.kind, row.layer) == (kind, layer) and row.relative is not None
    )
    return values[(len(values) - 1) // 2] if values else float("nan")
