"""Adapters beside a full fine-tune's change: how much of it each holds, and the best of its rank would."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from loratools.errors import printable
from loratools.reports import words
from loratools.reports.analysis import Overlap, Spectrum
from loratools.reports.columns import Column, Page, table
from loratools.reports.looks.middle import median
from loratools.reports.looks.shades import ranks_shown

__all__ = ["Held", "Left", "held_by", "left_by", "overlap_answer", "overlap_tables"]


@dataclass(frozen=True)
class Left:
    """How much of all changes together an adapter of one rank leaves, and the best of that rank would."""

    reference: str
    rank: int
    adapter: float | None
    best: float | None


@dataclass(frozen=True)
class Held:
    """The shares of the change's top directions, on one side, that lie in an adapter: means over modules.

    None where no module defines them: each cuts a cluster of singular values there.
    """

    reference: str
    side: str
    shares: tuple[float | None, ...]


def overlap_answer(rows: Sequence[Overlap]) -> Iterator[str]:
    """One sentence for each adapter."""
    for reference in dict.fromkeys(row.reference for row in rows):
        mine = [row for row in rows if row.reference == reference]
        first = " and ".join(
            f"{words.share(held.shares[0])} ({held.side})" for held in held_by(mine) if held.shares
        )
        cosine = words.number(median([row.cosine for row in mine]), 2)
        yield (
            f"{printable(reference)} holds {first} of the strongest direction of the change; "
            f"cosine between the two {cosine} (median of {len(mine)} modules)"
        )


def overlap_tables(rows: Sequence[Overlap], spectra: Sequence[Spectrum], *, full: bool) -> Iterator[Page]:
    """Directions held, then what is left of the change, then, if `full`, every module."""
    yield (
        "held: the mean share of the change's i strongest directions that lies in the space of the adapter's "
        "A (input) or B (output); 1 is all."
    )
    held = held_by(rows)
    yield table("Directions of the change that the adapter holds", _held_columns(held), held)
    yield (
        "left: ||change - adapter|| / ||change||, the adapter cut to that rank; above 1 it leads away by the "
        "norm, which need not hurt the loss. best: the least that any adapter of that rank can leave, as "
        "extract makes it."
    )
    left = [row for row in left_by(rows, spectra) if row.adapter is not None or row.best is not None]
    yield table("What is left of the change", _LEFT, left)
    if full:
        yield table("Every module", _EACH, rows)


def held_by(rows: Sequence[Overlap]) -> list[Held]:
    """Means over the modules that define them, up to the number of directions that all modules have."""
    found = []
    for reference in dict.fromkeys(row.reference for row in rows):
        for side in ("A", "B"):
            held = [row.held[side] for row in rows if row.reference == reference and row.held.get(side)]
            if held:
                found.append(Held(reference, side, tuple(map(_mean, zip(*held, strict=False)))))
    return found


def _mean(shares: Sequence[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _held_columns(held: Sequence[Held]) -> tuple[Column[Held], ...]:
    shown = ranks_shown(max(len(row.shares) for row in held)) if held else []

    def at(i: int) -> Column[Held]:
        return Column(f"top {i}", lambda row: _at(row.shares, i))

    return (
        Column("adapter", lambda row: row.reference, text=True),
        Column("", lambda row: row.side),
        *map(at, shown),
    )


def left_by(rows: Sequence[Overlap], spectra: Sequence[Spectrum]) -> list[Left]:
    norms = {row.module: row.norm for row in spectra}
    found = []
    for reference in dict.fromkeys(row.reference for row in rows):
        mine = [row for row in rows if row.reference == reference]
        ranks = sorted({int(rank) for row in mine for rank in row.residual})
        for rank in ranks:
            left, best = (
                _together([(figures(row).get(str(rank)), norms.get(row.module)) for row in mine])
                for figures in (_residual, _extracted)
            )
            found.append(Left(reference, rank, left, best))
    return found


def _residual(row: Overlap) -> Mapping[str, float | None]:
    return row.residual


def _extracted(row: Overlap) -> Mapping[str, float | None]:
    return row.extracted


def _together(pairs: Sequence[tuple[float | None, float | None]]) -> float | None:
    """The residual of all modules together, by their norms; of equal weight where norms are not known."""
    known = [(left, 1.0 if norm is None else norm) for left, norm in pairs if left is not None]
    whole = sum(norm**2 for _, norm in known)
    if not known or len(known) < len(pairs) or whole <= 0:
        return None
    return math.sqrt(sum((left * norm) ** 2 for left, norm in known) / whole)


_LEFT: tuple[Column[Left], ...] = (
    Column("adapter", lambda row: row.reference, text=True),
    Column("rank", lambda row: str(row.rank)),
    Column("left", lambda row: words.number(row.adapter, 3)),
    Column("best", lambda row: words.number(row.best, 3)),
)
_EACH: tuple[Column[Overlap], ...] = (
    Column("module", lambda row: row.module, text=True),
    Column("adapter", lambda row: row.reference, text=True),
    Column("rank", lambda row: str(row.rank)),
    Column("cosine", lambda row: words.number(row.cosine, 2)),
    Column("A top 1", lambda row: _at(row.held.get("A", ()), 1)),
    Column("B top 1", lambda row: _at(row.held.get("B", ()), 1)),
    Column("left", lambda row: words.number(row.residual.get(str(row.rank)), 3)),
    Column("best", lambda row: words.number(row.extracted.get(str(row.rank)), 3)),
)


def _at(shares: Sequence[float | None], i: int) -> str:
    share = shares[i - 1] if i <= len(shares) else None
    return "-" if share is None else f"{share:.2f}"
