"""Adapters beside a full fine-tune's change: directions held, and what is left of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loratools.reports.figures.style import HUES, TOTAL, Panel, rank_axis, short
from loratools.reports.looks.overlap import held_by, left_by

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

    from loratools.reports.analysis import Overlap, Spectrum

__all__ = ["overlap_panels"]


def overlap_panels(found: Mapping[str, Any]) -> list[Panel]:
    """How much of the change's top directions each adapter holds; how much of the change it leaves."""
    rows: Sequence[Overlap] = found.get("overlap", ())
    if not rows:
        return []
    return [
        Panel(2.3, partial(_held, rows)),
        Panel(2.3, partial(_left, rows, found.get("spectra", ()))),
    ]


def _held(rows: Sequence[Overlap], part: SubFigure) -> None:
    held = held_by(rows)
    references = list(dict.fromkeys(one.reference for one in held))
    axes = part.subplots()
    axes.set_title("The change's i strongest directions, held by adapters\nmean over modules")
    for one in held:
        axes.plot(
            range(1, len(one.shares) + 1),
            [float("nan") if share is None else share for share in one.shares],
            "-" if one.side == "A" else "--",
            color=HUES[references.index(one.reference) % len(HUES)],
            label=f"{short(one.reference)}, {one.side}",
        )
    rank_axis(axes, max(len(one.shares) for one in held))
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("i")
    axes.set_ylabel("share held")
    axes.legend(loc="best", ncols=2)


def _left(rows: Sequence[Overlap], spectra: Sequence[Spectrum], part: SubFigure) -> None:
    left = left_by(rows, spectra)
    axes = part.subplots()
    axes.set_title("What is left: ‖change - adapter‖ / ‖change‖\nthe adapter cut to its best rank")
    axes.axhline(1, color="#bbbbbb", linewidth=0.6, zorder=0)
    for at, reference in enumerate(dict.fromkeys(one.reference for one in left)):
        points = [
            (one.rank, one.adapter) for one in left if one.reference == reference and one.adapter is not None
        ]
        axes.plot(*_columns(points), "o-", color=HUES[at % len(HUES)], markersize=3, label=short(reference))
    best = sorted({(one.rank, one.best) for one in left if one.best is not None})
    axes.plot(*_columns(best), "s--", color=TOTAL, markersize=3, label="the best of that rank")
    rank_axis(axes, max(one.rank for one in left))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rank")
    axes.legend(loc="best")


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
