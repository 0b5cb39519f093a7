"""What a change amplifies: Table 7 of the LoRA paper (Hu et al. 2021, §7.3), by kind or for every module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loratools.errors import printable
from loratools.reports import words
from loratools.reports.analysis import Amplification
from loratools.reports.columns import Column, Page, table
from loratools.reports.looks.middle import median

__all__ = ["amplification_answer", "amplification_tables"]

Figure = Callable[[Amplification], float | None]


def amplification_answer(rows: Sequence[Amplification]) -> Iterator[str]:
    """A sentence for each change: by how much, and whether the weights do much or little of it."""
    for reference, mine in _by_reference(rows).items():
        whose = f"{printable(reference)} is" if len(mine) < len(rows) else "the change is"
        yield f"Amplification: {whose} {_answer(mine)}"


def _answer(rows: Sequence[Amplification]) -> str:
    """The factors at each rank, and a judgement by the smallest."""
    ranks = sorted({row.rank for row in rows})
    factors = {rank: median([row.factor for row in rows if row.rank == rank]) for rank in ranks}
    told = ", ".join(f"{words.number(factor, 3)} (r = {rank})" for rank, factor in factors.items() if factor)
    if not told:
        return "of unknown size beside what the weights do at these ranks."
    strongest = [row for row in rows if row.rank == ranks[0]]
    return (
        f"{told} times as large as what the weights do in its r strongest directions (median)"
        f"{_emphasis(strongest)}."
    )


def _emphasis(rows: Sequence[Amplification]) -> str:
    """What the weights do there, beside what they do in their own directions and in random ones."""
    delta, weight, random = (median([row.projected[key] for row in rows]) for key in _DIRECTIONS)
    if delta is None or weight is None or random is None:
        return ""
    if delta > weight / 2:
        return "; they are those that the weights do most of"
    if delta > 1.5 * random:
        return "; the weights have these directions, but do not emphasise them"
    return "; the weights do no more of them than of random ones"


def amplification_tables(rows: Sequence[Amplification], *, full: bool) -> Iterator[Page]:
    """Medians by kind, in Table 7's layout, then, if `full`, every module; and why figures are missing."""
    yield (
        "Amplification, Table 7 of the LoRA paper: how large the weights W are in the r strongest directions "
        "of the change, of W itself and of a random matrix, ||U'WV||. factor: ||change|| over the first."
    )
    for reference, mine in _by_reference(rows).items():
        of = f" of {printable(reference)}" if len(mine) < len(rows) else ""
        yield table(f"Medians by kind{of}", (*_FAMILY, *_figures(_of_family)), _families(mine))
        if full:
            yield table(f"Every module{of}", (*_EACH, *_figures(_of_row)), mine)
    yield from _reasons(rows)


def _reasons(rows: Sequence[Amplification]) -> Iterator[str]:
    """Why figures are missing, once for all the modules that lack them for that reason."""
    grouped: dict[tuple[int, str], int] = {}
    for row in rows:
        if row.reason is not None:
            grouped[row.rank, row.reason] = grouped.get((row.rank, row.reason), 0) + 1
    for (rank, reason), count in grouped.items():
        yield f"rank {rank}, {count} module{'s' if count > 1 else ''}: {reason}"


@dataclass(frozen=True)
class Family:
    """One rank of the modules of one kind."""

    kind: str
    rank: int
    rows: tuple[Amplification, ...]


def _families(rows: Sequence[Amplification]) -> list[Family]:
    grouped: dict[tuple[str, int], list[Amplification]] = {}
    for row in rows:
        grouped.setdefault((row.kind, row.rank), []).append(row)
    return [Family(*key, tuple(members)) for key, members in grouped.items()]


def _by_reference(rows: Sequence[Amplification]) -> dict[str, list[Amplification]]:
    grouped: dict[str, list[Amplification]] = {}
    for row in rows:
        grouped.setdefault(row.reference, []).append(row)
    return grouped


_DIRECTIONS = ("delta", "weight", "random")


def _of_row(figure: Figure) -> Callable[[Amplification], str]:
    return lambda row: words.number(figure(row), 3)


def _of_family(figure: Figure) -> Callable[[Family], str]:
    return lambda family: words.number(median([figure(row) for row in family.rows]), 3)


def _figures(told: Callable[[Figure], Callable[..., str]]) -> tuple[Column[Any], ...]:
    return (
        Column("||W||", told(lambda row: row.norm_W)),
        Column("||change||", told(lambda row: row.norm_delta)),
        Column("of change", told(lambda row: row.projected["delta"])),
        Column("of W", told(lambda row: row.projected["weight"])),
        Column("random", told(lambda row: row.projected["random"])),
        Column("factor", told(lambda row: row.factor)),
    )


_FAMILY: tuple[Column[Family], ...] = (
    Column("modules", lambda family: family.kind, text=True),
    Column("count", lambda family: str(len(family.rows))),
    Column("r", lambda family: str(family.rank)),
)
_EACH: tuple[Column[Amplification], ...] = (
    Column("module", lambda row: row.module, text=True),
    Column("r", lambda row: str(row.rank)),
)
