"""Heat maps of phi(i, j) in the manner of the LoRA paper's Figures 3 and 4 (Hu et al. 2021, §7.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from loratools.reports.analysis import Grid, SimilarityMean
from loratools.reports.figures.style import KINDS, SHARES, Panel, broken, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure
    from matplotlib.image import AxesImage

__all__ = ["similarity_panels"]

ACROSS = 4
"""Maps of kinds in a row."""

_SIDES = {"A": "A (input)", "B": "B (output)"}


def similarity_panels(found: Mapping[str, Any]) -> list[Panel]:
    """For each pair of adapters the mean of all modules beside chance, then the means of each kind."""
    means: Sequence[SimilarityMean] = found.get("similarity_means", ())
    panels = []
    for first, second in dict.fromkeys((mean.first, mean.second) for mean in means):
        mine = [mean for mean in means if (mean.first, mean.second) == (first, second)]
        overall = [mean for mean in mine if mean.over == "all"]
        panels.append(Panel(0.45 + 1.25 * len(overall), partial(_overall, overall)))
        kinds = list(dict.fromkeys(mean.name for mean in mine if mean.over == "kind"))
        if len(kinds) > 1:
            for side in _SIDES:
                of_side = [mean for mean in mine if mean.over == "kind" and mean.side == side][:KINDS]
                rows = -(-len(of_side) // ACROSS)
                panels.append(Panel(0.35 + 1.05 * rows, partial(_by_kind, side, of_side, len(kinds))))
    return panels


def _overall(means: Sequence[SimilarityMean], part: SubFigure) -> None:
    """A row of maps for each side: as measured, and by chance."""
    maps = part.subplots(len(means), 2, squeeze=False, sharex=True, sharey=True)
    mean = means[0]
    counted = "1 module" if mean.modules == 1 else f"mean of {mean.modules} modules"
    part.suptitle(f"φ(i, j), {short(mean.first)} (i) in {short(mean.second)} (j)\n{counted}")
    for (left, right), mean in zip(maps, means, strict=True):
        image = _map(left, mean.grid)
        _map(right, mean.control)
        left.set_title(_SIDES[mean.side])
        right.set_title(f"{mean.side}, by chance")
        left.set_ylabel("i")
    for axes in maps[-1]:
        axes.set_xlabel("j")
    bar = part.colorbar(image, ax=maps, fraction=0.05, aspect=30, ticks=(0, 0.25, 0.5, 0.75, 1))
    bar.set_label("0 nothing shared, 1 all")


def _by_kind(side: str, means: Sequence[SimilarityMean], kinds: int, part: SubFigure) -> None:
    rows = -(-len(means) // ACROSS)
    maps = part.subplots(rows, ACROSS, squeeze=False).ravel()
    told = f"{len(means)} of {kinds} kinds" if len(means) < kinds else "by kind of module"
    part.suptitle(f"{_SIDES[side]}, {told}; colours as above")
    for axes, mean in zip(maps, means, strict=False):
        _map(axes, mean.grid)
        chance = mean.control[-1][-1]
        axes.set_title(f"{broken(mean.name, longest=13)}\nby chance ≤ {chance:.2f}", fontsize=6)
    for axes in maps[len(means) :]:
        axes.set_visible(False)


def _map(axes: Axes, grid: Grid) -> AxesImage:
    """One grid, i down and j across, on the scale from 0 to 1 that all maps share."""
    rows, columns = len(grid), len(grid[0])
    image = axes.imshow(
        grid,
        cmap=SHARES,
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, columns + 0.5, rows + 0.5, 0.5),
    )
    axes.set_xticks(_ticks(columns))
    axes.set_yticks(_ticks(rows))
    axes.tick_params(length=2, pad=1.5)
    axes.spines[:].set_visible(False)
    return image


def _ticks(count: int) -> list[int]:
    """The first, the last, and two between them where there is room for figures."""
    return sorted({1, count} if count < 4 else {1, round(count / 4), round(count / 2), count})
