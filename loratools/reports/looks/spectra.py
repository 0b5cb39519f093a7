"""Singular values of changes: which rank keeps how much, what rounding explains, and the values as bars."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loratools.reports import words
from loratools.reports.analysis import Spectrum
from loratools.reports.columns import Column, Page, table
from loratools.reports.looks.bars import FLOOR, spectrum_line
from loratools.reports.looks.middle import Known, median, median_bounds
from loratools.reports.modules import MANY

__all__ = ["above_noise", "rank_keeping", "spectrum_tables"]

WORST = 5


def _known_or_bounds(row: Spectrum, key: str, value: float | None) -> Known | None:
    """(value, value), or the bounds that the row gives under `key`; None where it says nothing."""
    return row.bounds.get(key) if value is None else (value, value)


def rank_keeping(row: Spectrum, share: str) -> Known | None:
    """The least rank that keeps `share` ("0.9") of the squared norm, or bounds on it."""
    return _known_or_bounds(row, f"rank_at_energy/{share}", row.rank_at_energy.get(share))


def above_noise(row: Spectrum) -> Known | None:
    """How many directions stand above what rounding explains, or bounds on it; never more than there are."""
    known = _known_or_bounds(row, "noise_rank", row.noise_rank)
    return (known[0], known[0]) if known is not None and known[0] >= row.smaller_side else known


def spectrum_tables(rows: Sequence[Spectrum], *, full: bool) -> Iterator[Page]:
    """A row for each module, or, where they are many, one for each kind and the modules that need most."""
    noisy = any(row.noise_floor is not None or row.noise_note is not None for row in rows)
    each = (*_named(rows), *_EACH, *(_NOISE if noisy else ()), *_RANKS)
    yield _legend(rows, noisy)
    if full:
        yield table("Spectra", (*each, *_MORE, *(_NOISE_MORE if noisy else ())), rows)
    elif len(rows) <= MANY:
        yield table("Spectra", each, rows)
    else:
        family = (*_FAMILY, *(_FAMILY_NOISE if noisy else ()), *_FAMILY_RANKS)
        yield table(f"Spectra of {len(rows)} modules: medians by kind; -v lists each", family, families(rows))
        yield table("Those that need the highest rank", each, sorted(rows, key=_need, reverse=True)[:WORST])
    yield from _notes(rows)


def _need(row: Spectrum) -> float:
    known = rank_keeping(row, "0.9")
    return 0.0 if known is None else known[0]


def _legend(rows: Sequence[Spectrum], noisy: bool) -> str:
    line = "Bars: singular values of a change, the first of full height"
    if noisy:
        line += f", and behind {FLOOR} those that rounding the stored weights explains"
    line += ". 50 %, 90 %: the least rank that keeps that share of the squared norm"
    if any(rank is None for row in rows for rank in row.rank_at_energy.values()):
        line += "; 25-40: at least 25, at most 40 (--spectrum full decides it)"
    return f"{line}."


def _notes(rows: Sequence[Spectrum]) -> Iterator[str]:
    """What is to know of the noise floors, once for all modules that it is said of."""
    told: dict[str, int] = {}
    for row in rows:
        if row.noise_note is not None:
            told[row.noise_note] = told.get(row.noise_note, 0) + 1
    for note, count in told.items():
        yield f"rounding, {count} of {len(rows)} modules: {note}"


def _cell(known: Known | None) -> str:
    return "-" if known is None else words.between(*known)


def _effective(row: Spectrum) -> str:
    return _cell(_known_or_bounds(row, "effective_rank", row.effective_rank))


def _named(rows: Sequence[Spectrum]) -> tuple[Column[Spectrum], ...]:
    """The module, and whose change it is where there are several."""
    several = len({row.reference for row in rows}) > 1
    module: Column[Spectrum] = Column("module", lambda row: row.module, text=True)
    reference: Column[Spectrum] = Column("change of", lambda row: row.reference, text=True)
    return (module, reference) if several else (module,)


_EACH: tuple[Column[Spectrum], ...] = (
    Column(
        "singular values",
        lambda row: spectrum_line(row.singular_values, row.noise_rank, width=16),
        text=True,
    ),
)
_NOISE: tuple[Column[Spectrum], ...] = (Column(f"before {FLOOR}", lambda row: _cell(above_noise(row))),)
_RANKS: tuple[Column[Spectrum], ...] = (
    Column("50 %", lambda row: _cell(rank_keeping(row, "0.5"))),
    Column("90 %", lambda row: _cell(rank_keeping(row, "0.9"))),
)
_MORE: tuple[Column[Spectrum], ...] = (
    Column("norm", lambda row: words.number(row.norm, 3)),
    Column("99 %", lambda row: _cell(rank_keeping(row, "0.99"))),
    Column("of", lambda row: str(row.smaller_side)),
    Column("effective rank", _effective),
    Column("stable rank", lambda row: words.number(row.stable_rank, 3)),
    Column("largest value", lambda row: words.number(max(row.singular_values, default=None), 3)),
)
_NOISE_MORE: tuple[Column[Spectrum], ...] = (
    Column("rounding explains", lambda row: words.number(row.noise_floor, 3)),
)


@dataclass(frozen=True)
class Family:
    """The modules of one kind, over all layers."""

    kind: str
    rows: tuple[Spectrum, ...]


def families(rows: Sequence[Spectrum]) -> list[Family]:
    """The rows by kind, in the order in which the kinds first appear."""
    grouped: dict[str, list[Spectrum]] = {}
    for row in rows:
        grouped.setdefault(row.kind, []).append(row)
    return [Family(kind, tuple(members)) for kind, members in grouped.items()]


def _middle(family: Family, share: str) -> str:
    return _cell(median_bounds([rank_keeping(row, share) for row in family.rows]))


_FAMILY: tuple[Column[Family], ...] = (
    Column("modules", lambda family: family.kind, text=True),
    Column("count", lambda family: str(len(family.rows))),
    Column("norm", lambda family: words.number(median([row.norm for row in family.rows]), 3)),
)
_FAMILY_NOISE: tuple[Column[Family], ...] = (
    Column("above rounding", lambda family: _cell(median_bounds([above_noise(row) for row in family.rows]))),
)
_FAMILY_RANKS: tuple[Column[Family], ...] = (
    Column("50 %", lambda family: _middle(family, "0.5")),
    Column("90 %", lambda family: _middle(family, "0.9")),
    Column("99 %", lambda family: _middle(family, "0.99")),
)
