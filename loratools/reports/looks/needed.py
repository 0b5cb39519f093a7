"""The answer of `analyze BASE TUNED`: which rank the fine-tune needs, what it saves, what is rounding."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loratools.errors import printable
from loratools.reports import words
from loratools.reports.analysis import Movement, Spectrum
from loratools.reports.columns import Column, Page, table
from loratools.reports.looks.middle import median, median_bounds
from loratools.reports.looks.spectra import above_noise, rank_keeping

__all__ = ["RankAsked", "needed_answer", "ranks_asked"]

ALL = 0.9999
"""A rank that keeps more answers no question: it is all that there is."""

SHARES = {"0.5": "50 %", "0.9": "90 %", "0.99": "99 %"}


@dataclass(frozen=True)
class RankAsked:
    """What one rank, the same for every module, keeps of all changes together, and what its factors weigh.

    `kept` is the share of the squared norms' sum, `least` and `most` those of single modules; None where a
    module's is not known. `parameters` of all factors, and of the matrices that they stand for, where shapes
    are known.
    """

    rank: int
    kept: float | None
    least: float | None
    most: float | None
    parameters: int | None
    matrices: int | None

    @property
    def times_fewer(self) -> float | None:
        return self.matrices / self.parameters if self.matrices and self.parameters else None


def ranks_asked(rows: Sequence[Spectrum], movement: Sequence[Movement]) -> list[RankAsked]:
    """The ranks whose energies the rows tell, in their order."""
    shapes = {row.module: row.shape for row in movement}
    ranks = dict.fromkeys(rank for row in rows for rank in row.energy_at_rank)
    return [_asked(rank, rows, shapes) for rank in ranks]


def _asked(rank: str, rows: Sequence[Spectrum], shapes: Mapping[str, tuple[int, ...]]) -> RankAsked:
    kept = [row.energy_at_rank.get(rank) for row in rows]
    known = [share for share in kept if share is not None]
    whole = sum(row.norm**2 for row in rows)
    together = None
    if len(known) == len(rows) and whole > 0:
        together = sum(share * row.norm**2 for share, row in zip(known, rows, strict=True)) / whole
    sizes = [_sizes(shapes.get(row.module), int(rank)) for row in rows]
    parameters, matrices = (
        (sum(size[at] for size in sizes if size) if all(sizes) else None) for at in (0, 1)
    )
    return RankAsked(
        int(rank), together, min(known, default=None), max(known, default=None), parameters, matrices
    )


def _sizes(shape: tuple[int, ...] | None, rank: int) -> tuple[int, int] | None:
    """Parameters of the factors and of the matrix; convolutions as the matrices that they are factored as."""
    if shape is None or len(shape) < 2:
        return None
    rows, columns = shape[0], math.prod(shape[1:])
    return min(rank, rows, columns) * (rows + columns), rows * columns


def needed_answer(rows: Sequence[Spectrum], movement: Sequence[Movement]) -> Iterator[Page]:
    """The first lines for each change: what a rank keeps and saves, which keep 50, 90, 99 %, rounding."""
    for reference in dict.fromkeys(row.reference for row in rows):
        mine = [row for row in rows if row.reference == reference]
        asked = ranks_asked(mine, movement)
        yield f"Which rank does {printable(reference)} need? {_looked_at(mine, movement)}"
        yield _verdict(mine, asked)
        yield from _rounding(mine)
        if asked:
            yield table("", (*_ASKED, *(_SAVED if movement else ())), asked)


def _looked_at(rows: Sequence[Spectrum], movement: Sequence[Movement]) -> str:
    if not movement:
        return f"{len(rows)} modules"
    moved = {row.module: row.relative for row in movement}
    middle = words.share(median([moved.get(row.module) for row in rows]))
    return f"{len(rows)} matrices changed, the median one by {middle} of its norm"


def _verdict(rows: Sequence[Spectrum], asked: Sequence[RankAsked]) -> str:
    """What the largest rank asked for keeps and saves, and the ranks that keep most of the median change."""
    needs = [median_bounds([rank_keeping(row, share) for row in rows]) for share in SHARES]
    told = ", ".join("an unknown rank" if known is None else words.between(*known) for known in needs)
    line = f"To keep {', '.join(SHARES.values())} of its squared norm, the median one needs rank {told}."
    telling = [one for one in asked if one.kept is not None and one.kept < ALL]
    best = max(telling, key=lambda one: one.rank, default=None)
    if best is None:
        return line
    saved = (
        ""
        if best.times_fewer is None
        else f" with {words.number(best.times_fewer, 3)} times fewer parameters"
    )
    return f"Rank {best.rank} keeps {words.share(best.kept)} of the change{saved}. {line}"


def _rounding(rows: Sequence[Spectrum]) -> Iterator[str]:
    """How many directions are the fine-tune's own, where rounding was looked at."""
    middle = median_bounds([above_noise(row) for row in rows])
    if middle is None:
        return
    if middle[1] == 0:
        yield "Rounding the stored weights explains the median change wholly: no rank is worth having."
        return
    told = "1 direction" if middle == (1, 1) else f"{words.between(*middle)} directions"
    line = f"{told} of the median change {'is' if middle == (1, 1) else 'are'} larger than rounding explains"
    bounded = sum(row.noise_rank is not None and row.noise_rank < row.smaller_side for row in rows)
    yield f"{line}: a higher rank would store noise." if bounded > len(rows) / 2 else f"{line}."


_ASKED: tuple[Column[RankAsked], ...] = (
    Column("rank", lambda asked: str(asked.rank)),
    Column("keeps of all", lambda asked: words.share(asked.kept)),
    Column("of one, least", lambda asked: words.share(asked.least)),
    Column("most", lambda asked: words.share(asked.most)),
)
_SAVED: tuple[Column[RankAsked], ...] = (
    Column("parameters", lambda asked: "-" if asked.parameters is None else f"{asked.parameters:,}"),
    Column("times fewer", lambda asked: words.number(asked.times_fewer, 3)),
)
