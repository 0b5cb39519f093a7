"""Numbers on a coloured ground: dark for little, bright for much. Without colours the digits are left."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from loratools.errors import printable
from loratools.reports.columns import heading

__all__ = ["grid_table", "ranks_shown", "shaded", "two_digits"]

_GROUNDS = (
    "440154",
    "482878",
    "3e4989",
    "31688e",
    "26828e",
    "1f9e89",
    "35b779",
    "6ece58",
    "b5de2b",
    "fde725",
)
"""The colour map viridis in ten steps: as even to the colour-blind as to others, and in grey."""

_FIRST_BRIGHT = 5
"""From this ground on, black is easier to read than white."""


def shaded(text: str, share: float) -> Text:
    """`text` on the ground that `share`, 0 to 1, has; the whole cell, blanks included."""
    step = min(int(max(share, 0.0) * len(_GROUNDS)), len(_GROUNDS) - 1)
    ink = "black" if step >= _FIRST_BRIGHT else "white"
    return Text(text, style=f"{ink} on #{_GROUNDS[step]}")


def two_digits(value: float) -> str:
    """A share of 1 in three characters: `.41`, and `1.0` for what rounds to one."""
    told = f"{value:.2f}"
    return told[1:] if told.startswith("0") else told[:3]


def ranks_shown(rank: int, *, most: int = 8) -> list[int]:
    """The ranks that a grid shows: all, or so few that it fits, closer together where they are small."""
    if rank <= most:
        return list(range(1, rank + 1))
    steps = sorted(
        {1 << power for power in range(rank.bit_length())} | {3 << p for p in range(rank.bit_length())}
    )
    inner = [step for step in steps if step < rank]
    if len(inner) >= most:
        inner = [step for step in inner if step.bit_count() == 1]
    return [*inner, rank]


def grid_table(title: str, corner: str, panels: Sequence[tuple[str, Sequence[Sequence[float]]]]) -> Table:
    """Grids of shares side by side, with i down and j across, each under its heading.

    Args:
        panels: a heading and a grid for each; all grids have one size.
    """
    rows, columns = len(panels[0][1]), len(panels[0][1][0])
    down, across = ranks_shown(rows), ranks_shown(columns)
    drawn = Table(title=heading(title), title_justify="left", box=None, padding=(0, 0), pad_edge=False)
    drawn.add_column(corner, justify="right", no_wrap=True)
    for above, _ in panels:
        drawn.add_column(f"   {printable(above)}", no_wrap=True)
    drawn.add_row("", *(Text("   " + _cells([f"{j} " for j in across])) for _ in panels))
    for i in down:
        drawn.add_row(str(i), *(_row(grid[i - 1], across) for _, grid in panels))
    return drawn


def _row(values: Sequence[float], across: Sequence[int]) -> Text:
    line = Text("   ")
    for j in across:
        line.append_text(shaded(f"{two_digits(values[j - 1]):>4} ", values[j - 1]))
    return line


def _cells(texts: Sequence[str]) -> str:
    return "".join(f"{text:>5}" for text in texts)
