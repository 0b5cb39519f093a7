"""How much of one adapter's directions lies in another's: the answer, shaded grids, means by place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from loratools.errors import printable
from loratools.reports.analysis import Similarity, SimilarityMean
from loratools.reports.columns import Column, Page, table
from loratools.reports.looks.shades import grid_table
from loratools.reports.looks.shared import Shared, fills, is_beyond, verdict
from loratools.reports.modules import MANY

__all__ = ["similarity_answer", "similarity_tables"]

FEW_PAIRS = 3
"""Of so many pairs of adapters each has its grids on a terminal."""

WORST = 5

_SIDES = {"A": "A, what it reads", "B": "B, what it writes"}


def similarity_answer(means: Sequence[SimilarityMean], rows: Sequence[Similarity]) -> Iterator[Page]:
    """The first lines: what was compared, whether it agrees, and by how much more than chance."""
    overall = [mean for mean in means if mean.over == "all"]
    pairs = _pairs(overall)
    for first, second in pairs if len(pairs) == 1 else ():
        (mean, *_) = overall
        r1, r2 = _ranks(mean)
        asked = f"Do {printable(first)} (rank {r1}) and {printable(second)} (rank {r2}) share directions?"
        yield f"{asked} {_counted(mean.modules)}"
        yield verdict(overall, rows)
    if len(pairs) > 1:
        told = (f"{at} is {printable(name)}" for name, at in _numbers(overall).items())
        yield f"Do these adapters share directions? {', '.join(told)}"
    yield table("", _answer_columns(overall, rows), overall)


def similarity_tables(
    means: Sequence[SimilarityMean], rows: Sequence[Similarity], *, full: bool
) -> Iterator[Page]:
    """The grids of all modules together, then the means by kind and layer, then, if `full`, every module."""
    yield _legend(rows)
    pairs = _pairs(means)
    for first, second in pairs:
        of_pair = [mean for mean in means if (mean.first, mean.second) == (first, second)]
        if len(pairs) > 1:
            yield f"first {printable(first)}, second {printable(second)}:"
        if full or len(pairs) <= FEW_PAIRS:
            yield from (_grids(mean) for mean in of_pair if mean.over == "all")
        yield from _means("Means", of_pair, full=full)
    if full:
        yield table("Every module", _EACH, rows)


def _pairs(means: Sequence[SimilarityMean]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((mean.first, mean.second) for mean in means))


def _ranks(mean: SimilarityMean) -> tuple[int, int]:
    return len(mean.grid), len(mean.grid[0])


def _counted(modules: int) -> str:
    return "One module" if modules == 1 else f"Means of {modules} modules"


def _numbers(means: Sequence[SimilarityMean]) -> dict[str, int]:
    """The adapters by short numbers, in their order."""
    names = dict.fromkeys(name for mean in means for name in (mean.first, mean.second))
    return {name: at for at, name in enumerate(names, 1)}


def _answer_columns(
    overall: Sequence[SimilarityMean], rows: Sequence[Similarity]
) -> tuple[Column[SimilarityMean], ...]:
    numbers = _numbers(overall)

    def told(mean: SimilarityMean) -> str:
        pair = f"{numbers[mean.first]} in {numbers[mean.second]}, " if len(numbers) > 2 else ""
        return pair + _SIDES[mean.side]

    def beyond(mean: SimilarityMean) -> str:
        mine = [row for row in rows if _same(row, mean) and not fills(row)]
        return f"{sum(map(is_beyond, mine))} of {len(mine)}"

    def figure(title: str) -> Column[SimilarityMean]:
        return Column(title, lambda mean: _share(_FIGURES[title](Shared.of(mean.grid, mean.control))))

    named = Column("share of the first's", told, text=True)
    return (named, *map(figure, _FIGURES), Column("beyond it", beyond))


_FIGURES: dict[str, Callable[[Shared], float]] = {
    "all": lambda shared: shared.all,
    "strongest": lambda shared: shared.strongest,
    "weakest": lambda shared: shared.weakest,
    "top": lambda shared: shared.top,
    "by chance": lambda shared: shared.by_chance,
}


_BY_PLACE = ("all", "strongest", "by chance")


def _same(row: Similarity, mean: SimilarityMean) -> bool:
    return (row.first, row.second, row.side) == (mean.first, mean.second, mean.side)


def _share(value: float) -> str:
    return f"{value:.2f}"


def _legend(rows: Sequence[Similarity]) -> str:
    whose = (
        "of the product BA, whatever factors a trainer split it into (--directions factor: of A and of B)"
        if rows and rows[0].directions == "product"
        else "of A and of B, each by itself, as the LoRA paper takes them; their order depends on how a "
        "trainer split BA (--directions product: of BA)"
    )
    return (
        f"0 is nothing, 1 is all. Directions are singular vectors, the strongest first, {whose}. top: the "
        "strongest in the strongest alone. by chance: the mean of random ones; beyond it: the modules above "
        f"their 99 % band{_filled(rows)}."
    )


def _filled(rows: Sequence[Similarity]) -> str:
    filled = sum(map(fills, rows))
    return f", without {filled} whose space one adapter fills and so shares wholly" if filled else ""


def _grids(mean: SimilarityMean) -> Page:
    title = f"{mean.side}: the i strongest of the first beside the j strongest of the second"
    return grid_table(title, "i", (("j, as measured", mean.grid), ("j, by chance", mean.control)))


def _means(title: str, means: Sequence[SimilarityMean], *, full: bool) -> Iterator[Page]:
    """A row for each kind and layer, A beside B; of very many layers only those that agree least and most."""
    sides = {(mean.over, mean.name, mean.side): Shared.of(mean.grid, mean.control) for mean in means}
    places = list(dict.fromkeys((mean.over, mean.name, mean.modules) for mean in means if mean.over != "all"))
    layers = [place for place in places if place[0] == "layer"]
    if not full and len(layers) > MANY:
        ordered = sorted(layers, key=lambda place: sides[place[0], place[1], "A"].all)
        kept = {*ordered[:WORST], *ordered[-WORST:]}
        places = [place for place in places if place[0] != "layer" or place in kept]
        title += f" (of {len(layers)} layers those that agree least and most; -v lists all)"

    def column(side: str, name: str) -> Column[tuple[str, str, int]]:
        def cell(place: tuple[str, str, int]) -> str:
            shared = sides.get((place[0], place[1], side))
            return "-" if shared is None else _share(_FIGURES[name](shared))

        return Column(f"{side} {name}", cell)

    figures = [column(side, name) for side in _SIDES for name in _BY_PLACE]
    named: tuple[Column[tuple[str, str, int]], ...] = (
        Column("", lambda place: place[1] if place[0] == "kind" else f"{place[0]} {place[1]}", text=True),
        Column("modules", lambda place: str(place[2])),
    )
    if len(places) > 1:
        yield table(title, (*named, *figures), places)


_EACH: tuple[Column[Similarity], ...] = (
    Column("module", lambda row: row.module, text=True),
    Column("", lambda row: row.side),
    Column("first", lambda row: row.first, text=True),
    Column("second", lambda row: row.second, text=True),
    Column("of dimensions", lambda row: str(row.dimension)),
    Column("all", lambda row: _share(Shared.of(row.grid, row.control).all)),
    Column("strongest", lambda row: _share(Shared.of(row.grid, row.control).strongest)),
    Column("weakest", lambda row: _share(Shared.of(row.grid, row.control).weakest)),
    Column("chance", lambda row: _share(row.control[-1][-1])),
    Column("99 % of it below", lambda row: _share(row.band[-1][-1][1])),
)
