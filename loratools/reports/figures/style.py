"""What all pictures share: a column's width, letters that can be read there, colours for all eyes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import SubFigure

__all__ = [
    "COLUMN",
    "HUES",
    "KINDS",
    "SETTINGS",
    "SHARES",
    "TOTAL",
    "Panel",
    "broken",
    "legend_below",
    "legend_height",
    "line_of",
    "plain_ticks",
    "rank_axis",
    "short",
    "some_of",
]

COLUMN = 3.5
"""Inches: the width of a column of print, 9 cm."""

SHARES = "viridis"
"""Colours of shares and ratios: as even in grey and to the colour-blind."""

HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The hues of Okabe and Ito (2008), without the yellow, lost on white, and the black: that is TOTAL."""

TOTAL = "#000000"
"""What the others are compared with, or sum up to."""

KINDS = 12
"""Kinds of module that a picture tells apart; of more, the first."""

DASHES = ("-", "--", ":", "-.")
"""Lines differ by these, too, once the hues are used up."""

SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "figure.titlesize": 8.0,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.dpi": 300,
    "svg.hashsalt": "loratools",
    "pdf.fonttype": 42,
}
"""Applied while a picture is drawn, and taken back; the fixed salt makes SVG's names the same each time."""


@dataclass(frozen=True)
class Panel:
    """One part of a picture, as high as it needs and as wide as a column."""

    height: float
    """Inches."""
    draw: Callable[[SubFigure], None]


def short(reference: str) -> str:
    """The last part of a reference, which tells adapters apart where there is no room for the whole."""
    return reference.rstrip("/").rsplit("/", 1)[-1]


def broken(name: str, *, longest: int) -> str:
    """A dotted name in lines of at most `longest` characters, where its parts allow that."""
    lines = [""]
    for part in name.split("."):
        joined = f"{lines[-1]}.{part}" if lines[-1] else part
        if lines[-1] and len(joined) > longest:
            lines[-1] += "."
            lines.append(part)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def line_of(at: int) -> tuple[str, str]:
    """Hue and dashes of the line number `at`, counted from 0."""
    return HUES[at % len(HUES)], DASHES[at // len(HUES) % len(DASHES)]


def some_of(kinds: Sequence[str]) -> str:
    """Says that not all kinds are shown, where that is so."""
    return f" ({KINDS} of {len(kinds)} kinds)" if len(kinds) > KINDS else ""


def legend_below(part: SubFigure, labels: Sequence[str]) -> None:
    """A legend where it covers nothing, for lines that bear these labels."""
    part.legend(loc="outside lower center", ncols=_abreast(labels), columnspacing=1.2, handlelength=1.6)


def legend_height(labels: Sequence[str]) -> float:
    """Inches that `legend_below` takes."""
    return 0.15 * -(-len(labels) // _abreast(labels)) + 0.1


def _abreast(labels: Sequence[str]) -> int:
    """How many labels stand side by side, so that a column's width is enough."""
    longest = max(map(len, labels), default=0)
    return 3 if longest <= 14 and len(labels) > 4 else 2 if longest <= 28 else 1


LONG = 300
"""From one end of an axis to the other, as a factor."""


def plain_ticks(axis: Axis) -> None:
    """1, 2, 5, 10, ... on a logarithmic axis, as people write them; powers of ten alone where it is long."""
    from matplotlib.ticker import LogLocator, NullLocator

    low, high = axis.get_view_interval()
    short_axis = low > 0 and high / low < LONG
    axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5) if short_axis else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.set_minor_locator(NullLocator())


def rank_axis(axes: Axes, highest: int) -> None:
    """Ranks across on a scale by factors of two, with whole numbers at the ticks."""
    ticks = [1 << power for power in range(highest.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_xlim(0.9, highest * 1.1)
    axes.minorticks_off()
